"""The dashboard of causes: inputs, student or teacher, and where it hurts."""

from __future__ import annotations

from k8s.monitoring.dashboards.panels import Dashboard, Lines, Query, Row, Table
from k8s.monitoring.dashboards.queries import (
    BANDS,
    EXPECTED,
    GAP,
    TRIALS,
    VERSION,
    Interval,
    divergence,
    gauges,
    increase,
    quantile,
    rate,
    series,
    share,
    worst,
)
from service.monitor.teacher_drift import LOG_DRIFT

_JS = divergence("js")
_UNEXPECTED = Interval(*(f"{expr} - {EXPECTED}" for expr in (GAP.ratio, GAP.lower, GAP.upper)))
_REQUESTS = f"({increase('reflux_requests_total')} > 0)"
_SHARES = f"{_REQUESTS} / on (model_version) group_left () ({increase('reflux_requests_total', by=VERSION)} > 0)"


def _bins(feature: str) -> str:
    """Return the share of the texts in each bin of a feature."""
    labels, by = f'feature="{feature}"', ("model_version", "bin")
    whole = f"({increase('reflux_drift_requests_total', labels, by=VERSION)} > 0)"
    return f"{increase('reflux_drift_requests_total', labels, by=by)} / on (model_version) group_left () {whole}"


_CAUSE = Row(
    "Which cause",
    (
        Lines(
            title="Gap, expected and unexpected: $model_version",
            description="The *expected* gap is what the student's confidence predicts: it rises when texts become "
            "harder, and needs no teacher. The *unexpected* part, gap minus expected, rises when the student is "
            "confidently wrong or the teacher changed; it has the interval of the gap (lower, upper). Near 0 all is "
            "as at validation.",
            queries=(
                Query(EXPECTED, "expected"),
                *_UNEXPECTED.queries("unexpected"),
            ),
            unit="percentunit",
            floor=None,
            repeat=True,
        ),
        Lines(
            title="Input drift by feature",
            description="The difference of each feature of the texts from the bundle's reference, over the threshold "
            "above which it is drift (1): a false alarm comes once in 10,000 looks. A test without enough texts has no "
            "line. *expected_disagreement* and *band* say harder texts, *class* another mix, *length* and *unknown* "
            "another kind of text, *embedding* another topic.",
            queries=(
                Query(
                    f"{worst('reflux_drift_statistic', by=('model_version', 'feature'))}"
                    f" / {worst('reflux_drift_threshold', by=('model_version', 'feature'))}",
                    "{{feature}} {{model_version}}",
                ),
            ),
            limits={1.0: "red"},
        ),
    ),
)
_WHERE = Row(
    "Where it hurts",
    (
        Table(
            title="Confidence bands",
            description="Bands of the student's confidence in the window, b0 surest: their share of the texts, what "
            "the student expects to get wrong, what it did get wrong with its 95 % interval (Wilson), and comparisons. "
            "*expected* outside *lower* to *upper* is a miscalibrated band; in b0 and b1 that is the dangerous kind. "
            "A band without comparisons has no gap.",
            queries=(
                Query(_SHARES, "share"),
                Query(f"{increase('reflux_expected_disagreement_total')} / {_REQUESTS}", "expected"),
                *BANDS.queries("gap"),
                Query(TRIALS, "comparisons"),
            ),
            unit="percentunit",
            units={"comparisons": "short"},
            width=14,
            height=10,
        ),
        Lines(
            title="Texts by confidence band",
            description="Share of the answered texts in each band, in the window. More of the high bands are harder or "
            "foreign texts. Exact shares of all texts, no estimate.",
            queries=(Query(_SHARES, "{{band}} {{model_version}}"),),
            unit="percentunit",
            stacked=True,
            width=10,
            height=10,
        ),
        Table(
            title="Worst predicted labels",
            description="Labels that the student gave in the last day and how often the teacher disagreed with them, "
            "with 95 % intervals; the worst by their lower end. A label whose lower end is above the SLO is where to "
            "add training texts first. Of the pod with the largest.",
            queries=gauges("reflux_gap_class", by=("model_version", "label")).queries("gap"),
            unit="percentunit",
            sort="lower",
        ),
        Table(
            title="Directions of disagreement",
            description="What the teacher says where the student says something else, as a share of all texts of the "
            "last day, with 95 % intervals; all together are the gap. One direction that stands out is often two "
            "labels that mean nearly the same, or a teacher whose prompt changed.",
            queries=gauges("reflux_gap_direction", by=("model_version", "teacher", "student")).queries("gap"),
            unit="percentunit",
            sort="gap",
        ),
        Lines(
            title="Divergence: $model_version",
            description="Mean Jensen-Shannon divergence of the two answers' probabilities in the window, in nats "
            "(0 to 0.69), with its 95 % interval (normal). It moves before labels flip, and so before the gap does. "
            "A teacher that gives labels alone makes it as coarse as the gap.",
            queries=_JS.queries("divergence"),
            repeat=True,
        ),
        Lines(
            title="Gap of the decision",
            description="Share of texts on which the application would have acted otherwise by the teacher's answer, "
            "in the last day, with its 95 % interval (lower, upper). Below the gap where wrong labels lead to the same "
            "action. Only bundles with a decision have it.",
            queries=gauges("reflux_gap_decision").queries("decision", " {{model_version}}"),
            unit="percentunit",
        ),
    ),
)
_INPUTS = Row(
    "Inputs",
    (
        Lines(
            title="Most frequent labels",
            description="Share of the ten labels that the student gives most, in the window. A mix that changes with "
            "the gap flat is other work for the application, not an error. Exact shares of all texts, no estimate.",
            queries=(
                Query(
                    f"topk(10, {share('reflux_predictions_total', by=('model_version', 'label'))})",
                    "{{label}} {{model_version}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Lines(
            title="Texts by length",
            description="Share of the texts in each bin of length in tokens, from short (0) to long, in the window. "
            "The bins hold equal shares of the bundle's reference, so that a wide one is drift. Exact shares, no "
            "estimate.",
            queries=(Query(_bins("length"), "{{bin}} {{model_version}}"),),
            unit="percentunit",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Texts by unknown tokens",
            description="Share of the texts in each bin of their share of unknown tokens, from none (0) up, in the "
            "window: other languages, other scripts, codes. Exact shares, no estimate.",
            queries=(Query(_bins("unknown"), "{{bin}} {{model_version}}"),),
            unit="percentunit",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Tokens per text",
            description="Median and 95th percentile of the tokens that the graph reads of a text, to the accuracy of "
            "the histogram's buckets. Of all texts, no sample.",
            queries=(
                Query(quantile(0.5, "reflux_input_tokens"), "median {{model_version}}"),
                Query(quantile(0.95, "reflux_input_tokens"), "95 % {{model_version}}"),
            ),
        ),
        Lines(
            title="Truncated texts",
            description="Share of the texts that are longer than the graph reads, so that their end is ignored. A "
            "student that was trained on short texts is wrong about these first. An exact share, no estimate.",
            queries=(
                Query(
                    f"{rate('reflux_truncated_total')} / ({rate('reflux_predictions_total')} > 0)", "{{model_version}}"
                ),
            ),
            unit="percentunit",
        ),
    ),
)
_TEACHER = Row(
    "Teacher",
    (
        Lines(
            title="Evidence that the teacher changed",
            description="Natural logarithm of the evidence, from asking again about anchors whose answers are recorded "
            "in the bundle. At the line it counts as drift. Check the teacher before you touch the student: a gap that "
            "rises with it is not the student's. Without anchors there is no line.",
            queries=(Query(worst("reflux_teacher_log_evalue"), "{{model_version}}"),),
            limits={LOG_DRIFT: "red"},
            floor=None,
            width=8,
        ),
        Lines(
            title="Anchors",
            description="Anchors that were asked about, by whether the answer is still the recorded one; both together "
            "are the n. A few changed are the teacher's own noise, which repeated calls measure.",
            queries=(
                Query(
                    f"max by (model_version, changed) ({series('reflux_teacher_anchors')})",
                    "changed {{changed}} {{model_version}}",
                ),
            ),
            stacked=True,
            width=8,
        ),
        Table(
            title="Models that answered",
            description="Answers by the model and the fingerprint that the teacher's server states, in the window. A "
            "second row is another model behind the same name; a change of fingerprint alone is often harmless, and "
            "the anchors decide. A count, no estimate.",
            queries=(
                Query(
                    increase("reflux_teacher_responses_total", by=("model_version", "model", "fingerprint")), "answers"
                ),
            ),
            sort="answers",
            width=8,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="drift",
    title="Reflux / Drift",
    description="Causes of a gap that rose: inputs, student or teacher, and where it hurts.",
    rows=(_CAUSE, _WHERE, _INPUTS, _TEACHER),
)
