"""The dashboard for the person on call: may the student stay, how sure is that, and what to look at next."""

from __future__ import annotations

import math

from k8s.monitoring.dashboards.panels import Dashboard, Lines, Query, Row, Stat, States, Table
from k8s.monitoring.dashboards.queries import (
    EXPECTED,
    GAP,
    PODS,
    VERSION,
    increase,
    rate,
    series,
    worst,
)
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.verdict import LOG_CERTAIN, Verdict

VERDICTS = {verdict.code: verdict.value for verdict in Verdict}
COLOURS = {Verdict.WATCH.code: "yellow", Verdict.LEAVE.code: "red", Verdict.BLIND.code: "purple"}
WINDOW = 'window="$window"'
PER_WINDOW = ("model_version", "window")


def power_of_ten(expr: str) -> str:
    """Return odds from their natural logarithm, as powers of ten."""
    return f"{expr} / {math.log(10):.4f}"


EVIDENCE = (
    '(max by (model_version, window) (model:reflux_gap:log_evalue{model_version=~"$model_version"})'
    f" or {worst('reflux_gap_window_log_evalue', by=PER_WINDOW)})"
)
"""The evidence in each window: of all pods where the recording rules are, else of the pod with the most."""

_OF_A_POD = (
    f"ln(sum by (model_version, pod, instance) ({series('reflux_gap_window_weight')}"
    f" * exp(clamp_max({series('reflux_gap_window_log_evalue')}, 600))))"
)
COMBINED = (
    '(max by (model_version) (model:reflux_gap:log_evidence{model_version=~"$model_version"})'
    f" or max by (model_version) ({_OF_A_POD}))"
)
"""The evidence of all windows together, by which a verdict is leave and an alert pages."""

_LEAVE = f"max by (model_version) ({series('reflux_gap_verdict')} == {Verdict.LEAVE.code})"
WORST_VERDICT = f"({_LEAVE} or {worst('reflux_gap_verdict')})"
"""Leave goes before blind, although its number is smaller."""

_ENDED = f"({increase('reflux_shadow_results_total', by=VERSION)} > 0)"
_COMPLETED = 'outcome="completed"'
LOST = f"1 - {increase('reflux_shadow_results_total', _COMPLETED, by=VERSION)} / {_ENDED}"
SCALE = {LOG_TICKET / math.log(10): "yellow", LOG_PAGE / math.log(10): "red"}

_NOW = Row(
    "Now",
    (
        Stat(
            title="Verdict",
            description="May the student stay? **stay**: the gap is below the SLO, at odds of 20 to 1. **watch**: not "
            "yet shown, or something drifts. **leave**: the gap is above its limit; take the student out. **blind**: "
            "nobody knows, because too few comparisons arrive. With several pods it is the worst of them. "
            "`GET /gap` says why in one sentence.",
            queries=(Query(WORST_VERDICT, "{{model_version}}"),),
            limits=COLOURS,
            names=VERDICTS,
        ),
        Stat(
            title="Evidence against the student",
            description="Odds that the gap is above the SLO or a band above its ceiling, as a power of ten: 3 is "
            "1,000 to 1 (open a ticket), 4 is 10,000 to 1 (page). Of all windows together, and of all pods where the "
            "recording rules are loaded, else of the pod with most. It may be read at any time: "
            "it reaches 4 by chance at most once in 10,000 cases.",
            queries=(Query(power_of_ten(COMBINED), "{{model_version}}"),),
            limits=SCALE,
            decimals=1,
        ),
        Stat(
            title="Comparisons in the window",
            description="Answers that were compared with the teacher's in the chosen window, all pods together: the n "
            "of the estimates on this page. Below about 50 the intervals are too wide to decide anything.",
            queries=(Query(increase("reflux_shadow_compared_total", by=VERSION), "{{model_version}}"),),
            decimals=0,
        ),
        Stat(
            title="Lost samples",
            description="Share of the samples that ended without a comparison: budget, breaker, timeouts, refusals. "
            "Above 20 % the verdict is blind, because what is lost may be what disagrees. An exact share, no estimate; "
            "the reasons are on *Shadow pipeline and cost*.",
            queries=(Query(LOST, "{{model_version}}"),),
            unit="percentunit",
            limits={0.05: "yellow", 0.2: "red"},
            decimals=1,
        ),
    ),
)
_GAP = Row(
    "Gap",
    (
        Lines(
            title="Gap over time, all pods: $model_version",
            description="How often student and teacher disagree, in the window that ends at each moment, with its 95 % "
            "interval (normal, from the counters of all pods). The *SLO* is the gap that must not be exceeded; the "
            "*expected* gap is what the student's own confidence predicts. A gap that leaves the expected one while "
            "that stays flat is a student or a teacher that changed; both rising together are harder texts. The "
            "interval is to look at; decisions use the evidence.",
            queries=(
                *GAP.queries("gap"),
                Query(worst("reflux_gap_slo"), "SLO"),
                Query(EXPECTED, "expected"),
            ),
            unit="percentunit",
            width=16,
            height=10,
            repeat=True,
        ),
        Table(
            title="Windows",
            description="The gap in each window as the service itself counts it, with its 95 % interval (Wilson, by "
            "band), comparisons and evidence as a power of ten. Counts outlive a restart. With several pods it is, "
            "column by column, the largest of the pods; choose a pod above to read one. An incident of the last hour "
            "shows in *1h* first; a slow change in *7d*.",
            queries=(
                Query(worst("reflux_gap_window_ratio", by=PER_WINDOW), "gap"),
                Query(worst("reflux_gap_window_lower", by=PER_WINDOW), "lower"),
                Query(worst("reflux_gap_window_upper", by=PER_WINDOW), "upper"),
                Query(worst("reflux_gap_window_compared", by=PER_WINDOW), "comparisons"),
                Query(power_of_ten(worst("reflux_gap_window_log_evalue", by=PER_WINDOW)), "evidence"),
            ),
            unit="percentunit",
            units={"comparisons": "short", "evidence": "short"},
            width=8,
            height=10,
        ),
    ),
)
_EVIDENCE = Row(
    "Evidence",
    (
        Lines(
            title="Evidence by window",
            description="Odds that a limit is exceeded, as a power of ten, in each window. At the lines all windows "
            "together open a ticket (yellow) or page (red); a short window alone must be higher. Below 0 the data "
            "speak for the student. Short windows react first, long ones find small changes. Of all pods where "
            "the recording rules are loaded, else of the pod with most.",
            queries=(Query(power_of_ten(EVIDENCE), "{{window}} {{model_version}}"),),
            limits=SCALE,
            floor=None,
            width=8,
        ),
        Lines(
            title="Certificate",
            description="Odds that the gap is *below* the SLO, as a power of ten. At the line (20 to 1) the student is "
            "certified, and the verdict may be stay. It grows with every comparison while the student is good; lost "
            "samples count against it. Of the pod with least.",
            queries=(
                Query(
                    power_of_ten(f"min by (model_version) ({series('reflux_gap_log_certify')})"), "{{model_version}}"
                ),
            ),
            limits={LOG_CERTAIN / math.log(10): "green"},
            floor=None,
            width=8,
        ),
        Lines(
            title="Detector of slow changes",
            description="Evidence that disagreement rose above its ceilings at any time since deployment, over the "
            "threshold at which the verdict is leave (1): the comparisons expected in 90 days, so that a false alarm "
            "comes less than once in that time. Logarithmic scale; moves of less than a tenth mean nothing.",
            queries=(
                Query(
                    f"sum by (model_version) ({series('reflux_gap_edetector')})"
                    f" / sum by (model_version) ({series('reflux_gap_edetector_threshold')})",
                    "{{model_version}}",
                ),
            ),
            limits={1.0: "red"},
            logarithmic=True,
            floor=None,
            width=8,
        ),
    ),
)
_HISTORY = Row(
    "History and causes",
    (
        States(
            title="Verdict over time",
            description="The verdict of each version. Blind for a few minutes after a deployment is usual; blind for "
            "an hour is an incident of the shadow, not of the student.",
            queries=(Query(WORST_VERDICT, "{{model_version}}"),),
            limits=COLOURS,
            names=VERDICTS,
            width=16,
        ),
        Stat(
            title="Drifting now",
            description="What changed, if anything did: the inputs (tests against the bundle's reference, see *Drift*) "
            "or the teacher (its answers to the anchors). 0: no, 1: yes. A gap that rose while both are 0 is the "
            "student's. Without anchors the teacher has no value.",
            queries=(
                Query(worst("reflux_drift_detected"), "inputs {{model_version}}"),
                Query(worst("reflux_teacher_drift"), "teacher {{model_version}}"),
            ),
            limits={1.0: "orange"},
            names={0: "no", 1: "yes"},
            width=8,
            height=5,
        ),
        Lines(
            title="Answers",
            description="Texts answered per second, by version: is there traffic, and which version has it? A verdict "
            "on a version without traffic says nothing. A count, no estimate.",
            queries=(Query(rate("reflux_requests_total"), "{{model_version}}"),),
            unit="reqps",
        ),
        Lines(
            title="Comparisons",
            description="Comparisons with the teacher per minute, all pods: what the verdict lives on. Falling to 0 "
            "while answers go on makes it blind within the hour; look at *Shadow pipeline and cost*.",
            queries=(Query(f"60 * {rate('reflux_shadow_compared_total')}", "{{model_version}}"),),
        ),
        Table(
            title="Pods",
            description="Each pod's own verdict and gap in the chosen window with its 95 % interval and comparisons. "
            "One pod that differs from the others has another teacher, other traffic or a full disk.",
            queries=(
                Query(worst("reflux_gap_verdict", by=("model_version", "pod", "instance")), "verdict"),
                *(
                    Query(worst(f"reflux_gap_window_{what}", WINDOW, by=("model_version", "pod", "instance")), name)
                    for what, name in (
                        ("ratio", "gap"),
                        ("lower", "lower"),
                        ("upper", "upper"),
                        ("compared", "comparisons"),
                    )
                ),
            ),
            unit="percentunit",
            units={"comparisons": "short", "verdict": "short"},
            names=VERDICTS,
        ),
        Table(
            title="Versions",
            description="What is served: every version with its role (stable or candidate), the variant of its graph "
            "and the number of pods that have it. More than one stable version for longer than a rollout takes is a "
            "rollout that hangs.",
            queries=(PODS,),
        ),
    ),
)

DASHBOARD = Dashboard(
    name="verdict",
    title="Reflux / Verdict",
    description="For the person on call: may the student stay?",
    rows=(_NOW, _GAP, _EVIDENCE, _HISTORY),
)
