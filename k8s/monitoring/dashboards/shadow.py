"""The dashboard of the shadow pipeline: what becomes of the samples, what waits, and what the teacher costs."""

from __future__ import annotations

from k8s.monitoring.dashboards.panels import Dashboard, Lines, Query, Row, Stat, States
from k8s.monitoring.dashboards.queries import VERSION, increase, quantile, rate, series, share, total, wilson, worst

_OUTCOME = ("model_version", "outcome")
_TEACHER = ("model_version", "teacher")
_COMPARED = f"({increase('reflux_shadow_compared_total', by=VERSION)} > 0)"
_COST = increase("reflux_shadow_cost_usd_total", by=VERSION)
_LOST = 'outcome!="completed"'
_SEEN = 'result="seen"'
_WITNESS = wilson(
    increase("reflux_witness_agreed_total", by=VERSION),
    f"({increase('reflux_witness_texts_total', _SEEN, by=VERSION)} > 0)",
)
BREAKER = {0: "closed", 1: "half-open", 2: "open"}


_SAMPLES = Row(
    "Samples",
    (
        Lines(
            title="Samples chosen and ended",
            description="Texts chosen to be shown to the teacher, and those that ended in any way, per second. The two "
            "lines lie on each other; chosen above ended is a queue that grows. Counts, no estimate.",
            queries=(
                Query(rate("reflux_shadow_sampled_total"), "chosen {{model_version}}"),
                Query(rate("reflux_shadow_results_total"), "ended {{model_version}}"),
            ),
            unit="reqps",
            width=8,
        ),
        Lines(
            title="How samples ended",
            description="Samples per second by how they ended. All but *completed* are lost: *budget* was spent, "
            "*breaker_open* after failures, *timeout*, *teacher_error*, *refused*, *invalid_answer*, *queue_full*, "
            "*store_error* (the disk), *shutdown*. Counts, no estimate.",
            queries=(
                Query(f"{rate('reflux_shadow_results_total', by=_OUTCOME)} > 0", "{{outcome}} {{model_version}}"),
            ),
            unit="reqps",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Lost samples",
            description="Share of the ended samples without a comparison in the window, by reason. Above 20 % together "
            "the verdict is blind. An exact share, no estimate.",
            queries=(Query(share("reflux_shadow_results_total", _LOST, by=_OUTCOME), "{{outcome}} {{model_version}}"),),
            unit="percentunit",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Propensity by band",
            description="Probability that a text is shown to the teacher, by confidence band. Fixed for each band "
            "while the settings stay; uncertain bands are asked about more often. All 0: shadowing is off. A "
            "setting, no estimate.",
            queries=(
                Query(worst("reflux_shadow_propensity", by=("model_version", "band")), "{{band}} {{model_version}}"),
            ),
            unit="percentunit",
            width=8,
        ),
        Lines(
            title="Compared share",
            description="Comparisons over the texts for which a coin was tossed, in the window: the share of the "
            "traffic that the gap rests on. Well below `shadow.rate`: samples are lost or wait. An exact share.",
            queries=(
                Query(
                    f"{increase('reflux_shadow_compared_total', by=VERSION)}"
                    f" / ({increase('reflux_shadow_eligible_total', by=VERSION)} > 0)",
                    "{{model_version}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Lines(
            title="Unaccounted samples",
            description="Samples chosen or taken over, minus those that ended, wait, or are at the teacher. Always 0, "
            "but for a scrape in between; a value that stays is a lost sample, which is a defect of the service. "
            "*uncounted* texts could not be counted at all.",
            queries=(
                Query(
                    f"{total('reflux_shadow_sampled_total')} + {total('reflux_shadow_resumed_total')}"
                    f" - {total('reflux_shadow_results_total')} - {total('reflux_shadow_queue_depth')}"
                    f" - {total('reflux_shadow_inflight')}",
                    "samples {{model_version}}",
                ),
                Query(total("reflux_shadow_defects_total"), "uncounted {{model_version}}"),
            ),
            floor=None,
            width=8,
        ),
    ),
)
_QUEUE = Row(
    "Queue and teacher",
    (
        Lines(
            title="Waiting samples",
            description="Samples that wait, in memory and on disk, and those at the teacher, all pods. A queue that "
            "grows for hours means that the teacher is too slow for `shadow.rate`; it ends as *queue_full*. "
            "*Abandoned* ones wait in a shared store for a version about which no process asks; `queue` in `/gap` "
            "names it.",
            queries=(
                Query(total("reflux_shadow_queue_depth"), "waiting {{model_version}}"),
                Query(total("reflux_shadow_inflight"), "at the teacher {{model_version}}"),
                Query(f"max({series('reflux_shadow_store_abandoned')})", "abandoned"),
            ),
            width=6,
        ),
        Lines(
            title="Oldest waiting sample",
            description="Age of the oldest sample without an outcome, of the worst pod. Minutes are usual while a "
            "breaker is open; an hour makes the verdict old, and then blind.",
            queries=(Query(worst("reflux_shadow_oldest_age_seconds"), "{{model_version}}"),),
            unit="s",
            width=6,
        ),
        Lines(
            title="Last comparison",
            description="Time since the newest comparison, by the pod that knows of the latest. While texts are "
            "sampled it is seconds; after two minutes without one the verdict is blind.",
            queries=(
                Query(
                    f"min by (model_version) ({series('reflux_shadow_last_comparison_age_seconds')})",
                    "{{model_version}}",
                ),
            ),
            unit="s",
            width=6,
        ),
        States(
            title="Breaker",
            description="**closed**: the teacher is asked. **open**: it failed too often and is left alone for a "
            "while; samples end as *breaker_open*. **half-open**: one call tries. The worst of the pods.",
            queries=(Query(worst("reflux_shadow_breaker_state"), "{{model_version}}"),),
            limits={1: "yellow", 2: "red"},
            names=BREAKER,
            width=6,
            height=8,
        ),
        Lines(
            title="Time of the teacher",
            description="Median and 95th percentile of the time for one text, all attempts together, to the accuracy "
            "of the histogram's buckets. Of all calls, no sample; the next panel has their number.",
            queries=(
                Query(quantile(0.5, "reflux_shadow_teacher_seconds"), "median {{model_version}}"),
                Query(quantile(0.95, "reflux_shadow_teacher_seconds"), "95 % {{model_version}}"),
            ),
            unit="s",
        ),
        Lines(
            title="Calls of the teacher",
            description="Calls of the teacher per second by how they ended. Counts, no estimate.",
            queries=(
                Query(
                    f"{rate('reflux_shadow_teacher_seconds_count', by=_OUTCOME)} > 0", "{{outcome}} {{model_version}}"
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
    ),
)
_MONEY = Row(
    "Cost",
    (
        Stat(
            title="Cost in the window",
            description="What the teacher cost for comparisons in the chosen window, and for anchors and repeated "
            "calls, all pods, in US dollars by the teacher's price list. 0 for a teacher without a price.",
            queries=(
                Query(_COST, "comparisons {{model_version}}"),
                Query(increase("reflux_teacher_watch_cost_usd_total", by=VERSION), "anchors {{model_version}}"),
            ),
            unit="currencyUSD",
            decimals=2,
            width=8,
        ),
        Stat(
            title="Cost of 1,000 comparisons",
            description="Mean cost of 1,000 comparisons in the window, beside their number n. It rises with longer "
            "texts or a dearer model.",
            queries=(
                Query(f"1000 * {_COST} / {_COMPARED}", "USD {{model_version}}"),
                Query(_COMPARED, "n {{model_version}}"),
            ),
            decimals=2,
            width=8,
        ),
        Stat(
            title="The teacher alone would cost",
            description="Answered texts in the window times the mean cost of a comparison: what the teacher would have "
            "cost without the student. A projection from n comparisons, shown beside it.",
            queries=(
                Query(
                    f"{increase('reflux_requests_total', by=VERSION)} * {_COST} / {_COMPARED}", "USD {{model_version}}"
                ),
                Query(_COMPARED, "n {{model_version}}"),
            ),
            decimals=2,
            width=8,
        ),
        Lines(
            title="Cost per hour and budget",
            description="Cost of the teacher per hour at the present rate, and the budget `shadow.usd_per_hour` of all "
            "pods together (no line: no limit). At the budget samples end as *budget*. A sum, no estimate.",
            queries=(
                Query(f"3600 * {rate('reflux_shadow_cost_usd_total', by=_TEACHER)}", "{{teacher}} {{model_version}}"),
                Query(
                    f"sum by (model_version, teacher) ({series('reflux_shadow_budget_usd_per_hour')})",
                    "budget {{teacher}} {{model_version}}",
                ),
            ),
            unit="currencyUSD",
            width=8,
        ),
        Lines(
            title="Tokens",
            description="Tokens that the teacher read per second. Cost without tokens, or tokens without texts, is a "
            "prompt that grew. A count, no estimate.",
            queries=(Query(rate("reflux_shadow_tokens_total", by=_TEACHER), "{{teacher}} {{model_version}}"),),
            width=8,
        ),
        Lines(
            title="Redactions",
            description="Placeholders put into texts before they are stored or shown to the teacher, in the window, by "
            "kind. A jump is a new kind of text, or of attack. A count of samples alone, not of all texts.",
            queries=(
                Query(
                    f"{increase('reflux_shadow_redactions_total', by=('model_version', 'kind'))}",
                    "{{kind}} {{model_version}}",
                ),
            ),
            width=8,
        ),
    ),
)
_SECOND = Row(
    "Witness",
    (
        Lines(
            title="Texts at the witness",
            description="Texts per second by what became of them at the witness, a better student that reads along so "
            "that the teacher need see fewer. *dropped* and *failed* texts are not sampled. All 0: there is none.",
            queries=(
                Query(
                    rate("reflux_witness_texts_total", by=("model_version", "result")), "{{result}} {{model_version}}"
                ),
            ),
            unit="reqps",
            width=8,
        ),
        Lines(
            title="Agreement of student and witness: $model_version",
            description="Share of the texts that the witness has read to which it gave the student's label, in the "
            "window, with its 95 % interval (Wilson). It falls within minutes where the gap needs hours, but cannot "
            "say who is right.",
            queries=_WITNESS.queries("agreement"),
            unit="percentunit",
            floor=None,
            width=8,
            repeat=True,
        ),
        Lines(
            title="Waiting for the witness",
            description="Texts that wait for the witness, all pods. A queue that stays full means that the CPU is too "
            "small for it; lower `shadow.witness_share`.",
            queries=(Query(total("reflux_witness_queue_depth"), "{{model_version}}"),),
            width=8,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="shadow",
    title="Reflux / Shadow pipeline and cost",
    description="What becomes of the texts that are shown to the teacher, and what that costs.",
    rows=(_SAMPLES, _QUEUE, _MONEY, _SECOND),
)
