"""The dashboard of serving: rate, errors and latency of requests, batches, and what the processes use."""

from __future__ import annotations

from k8s.monitoring.dashboards.panels import Dashboard, Lines, Query, Row, Stat, Table
from k8s.monitoring.dashboards.queries import HOSTS, PODS, SELECTED, quantile, rate, series, total

ROUTE = ("route",)
POD = ("pod", "instance")
_ALL = "reflux_http_requests_total"
_FAILED = 'code=~"5.."'


def _http(*labels: str, by: tuple[str, ...] = ROUTE) -> str:
    return rate(_ALL, *labels, by=by, selected=HOSTS)


def _process(metric: str, expr: str | None = None) -> str:
    """Return a metric of processes, of those that serve a bundle; `expr` is computed of it."""
    selected = series(metric, selected=HOSTS)
    ours = f"count by (job, pod, instance) (reflux_model_info{{{SELECTED}}})"
    whole = (expr or "{}").format(selected)
    return f"sum by (pod, instance) ({whole} and on (job, pod, instance) {ours})"


def _mean(metric: str) -> str:
    return f"{rate(f'{metric}_sum')} / ({rate(f'{metric}_count')} > 0)"


_RED = Row(
    "Requests",
    (
        Stat(
            title="Requests",
            description="Requests answered per second by all pods. Probes and the reading of metrics are not counted.",
            queries=(Query(f"sum ({_http()})", "requests"),),
            unit="reqps",
        ),
        Stat(
            title="Availability in the window",
            description="Share of the requests that were not answered with a status of 500 or more, in the window; of "
            "n requests, shown beside it. Refusals under overload (503) count as unavailable. A share of all requests, "
            "no estimate.",
            queries=(
                Query(
                    f"1 - (sum (increase({series(_ALL, _FAILED, selected=HOSTS)}[$window])) or vector(0))"
                    f" / (sum (increase({series(_ALL, selected=HOSTS)}[$window])) > 0)",
                    "availability",
                ),
            ),
            unit="percentunit",
            decimals=3,
        ),
        Stat(
            title="Requests in the window",
            description="Requests answered in the window: the n of the availability beside it.",
            queries=(Query(f"sum (increase({series(_ALL, selected=HOSTS)}[$window]))", "n"),),
            decimals=0,
        ),
        Stat(
            title="95 % are answered within",
            description="95th percentile from the admission of a request to its answer, all versions, to the accuracy "
            "of the histogram's buckets. Of all requests, no sample.",
            queries=(Query(quantile(0.95, "reflux_answer_seconds", by=()), "95 %"),),
            unit="s",
        ),
        Lines(
            title="Requests by route",
            description="Requests per second by route, all pods and methods. Probes are not counted.",
            queries=(Query(f"{_http()} > 0", "{{route}}"),),
            unit="reqps",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Requests by status",
            description="Requests per second by HTTP status. 4xx are the callers' errors, 429 and 503 refusals (rate "
            "limit, overload), 500 a defect or a text that the graph cannot read, 504 a deadline.",
            queries=(Query(f"{_http(by=('code',))} > 0", "{{code}}"),),
            unit="reqps",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Answers by outcome",
            description="Requests to a model per second by what became of them: *ok*, *overloaded* (refused at the "
            "door), *deadline*, *failed*, *left* (the caller hung up). Anything but *ok* for minutes needs more pods "
            "or a look at the log.",
            queries=(
                Query(
                    f"{rate('reflux_answers_total', by=('model_version', 'outcome'))} > 0",
                    "{{outcome}} {{model_version}}",
                ),
            ),
            unit="reqps",
            stacked=True,
            width=8,
        ),
    ),
)
_LATENCY = Row(
    "Latency and load",
    (
        Lines(
            title="Latency of answers",
            description="Median, 95th and 99th percentile from the admission of a request to its answer, to the "
            "accuracy of the histogram's buckets. Of all requests, no sample.",
            queries=tuple(
                Query(quantile(share, "reflux_answer_seconds"), f"{name} {{{{model_version}}}}")
                for share, name in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
            ),
            unit="s",
            width=8,
        ),
        Lines(
            title="Latency by route, 95 %",
            description="95th percentile from the end of a request's head to the end of its answer, by route. Well "
            "above the latency of answers: slow callers, or an event loop that is busy. Of all requests, no sample.",
            queries=(
                Query(
                    f"{quantile(0.95, 'reflux_http_request_duration_seconds', by=ROUTE, selected=HOSTS)} >= 0",
                    "{{route}}",
                ),
            ),
            unit="s",
            width=8,
        ),
        Lines(
            title="Stages, 95 %",
            description="95th percentile of waiting for a thread (*queue*) and of tokenising with the graph (*run*). "
            "Queue above run: the CPUs are full, add pods. Run rising alone: longer texts, or a slower CPU. Of all "
            "texts, no sample.",
            queries=(
                Query(
                    quantile(0.95, "reflux_inference_stage_seconds", by=("model_version", "stage")),
                    "{{stage}} {{model_version}}",
                ),
            ),
            unit="s",
            width=8,
        ),
        Lines(
            title="Texts in flight",
            description="Texts admitted and not yet answered, and those that wait for a thread, all pods: what the "
            "autoscaler follows.",
            queries=(
                Query(total("reflux_inference_inflight"), "in flight {{model_version}}"),
                Query(total("reflux_queue_depth"), "waiting {{model_version}}"),
            ),
            width=8,
        ),
        Lines(
            title="Texts and tokens per run",
            description="Mean number of texts in one run of the graph, and of hundreds of tokens that it pays for, "
            "padding included. Near 1 text at high load means that batching does not help. Means over all runs.",
            queries=(
                Query(_mean("reflux_batch_texts"), "texts {{model_version}}"),
                Query(f"{_mean('reflux_batch_tokens')} / 100", "100 tokens {{model_version}}"),
            ),
            width=8,
        ),
        Lines(
            title="Texts by version",
            description="Texts answered per second by version: what share of the traffic a candidate has.",
            queries=(Query(rate("reflux_predictions_total"), "{{model_version}}"),),
            unit="reqps",
            stacked=True,
            width=8,
        ),
    ),
)
_PROCESS = Row(
    "Processes",
    (
        Lines(
            title="CPU",
            description="CPU cores that each process uses. Above its request for long: the autoscaler should have "
            "added pods.",
            queries=(
                Query(_process("process_cpu_seconds_total", "rate({}[$__rate_interval])"), "{{pod}} {{instance}}"),
            ),
            width=8,
        ),
        Lines(
            title="Memory",
            description="Resident memory of each process. It grows during the first minutes and then stays; steady "
            "growth over days is a leak.",
            queries=(Query(_process("process_resident_memory_bytes"), "{{pod}} {{instance}}"),),
            unit="bytes",
            width=8,
        ),
        Lines(
            title="Open files",
            description="Open files and connections over the limit of each process. Near 1 new connections are "
            "refused.",
            queries=(
                Query(
                    f"{_process('process_open_fds')} / {_process('process_max_fds')}",
                    "{{pod}} {{instance}}",
                ),
            ),
            unit="percentunit",
            width=8,
        ),
        Lines(
            title="Age of processes",
            description="Time since each process started. A line that falls to 0 is a restart; one that nobody asked "
            "for is a crash or lack of memory.",
            queries=(Query(f"time() - {_process('process_start_time_seconds')}", "{{pod}} {{instance}}"),),
            unit="s",
            width=8,
        ),
        Lines(
            title="Requests by API key",
            description="Requests that need an API key, by its name and what became of them at the door. *limited*: "
            "above its rate, *unauthorised*: no valid key. A service without keys has no lines.",
            queries=(
                Query(rate("reflux_key_requests_total", by=("key", "outcome"), selected=HOSTS), "{{key}} {{outcome}}"),
            ),
            unit="reqps",
            width=8,
        ),
        Table(
            title="Versions",
            description="What is served: every version with its role (stable or candidate), the variant of its graph, "
            "and the number of pods that have it.",
            queries=(PODS,),
            width=8,
        ),
    ),
)

_STAGE = ("model_version", "stage")
_CASCADE = Row(
    "Stages of a cascade",
    (
        Lines(
            title="Texts by the stage that answered",
            description="Share of the texts that each stage of a cascade answered, the cheapest first, and *teacher* "
            "where texts are left to it. More for the later ones: the texts have become harder, and answers slower and "
            "dearer; look at the drift of inputs. A bundle without stages has no lines. Of all texts, no sample.",
            queries=(
                Query(
                    f"{rate('reflux_cascade_answers_total', by=_STAGE)} / on (model_version) group_left () "
                    f"({rate('reflux_cascade_answers_total')} > 0)",
                    "{{stage}} {{model_version}}",
                ),
            ),
            unit="percentunit",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Time of each stage",
            description="Seconds per second that tokenising and the graph of each stage of a cascade take, all pods: "
            "what the answers above cost. The *teacher* computes elsewhere. Of all runs, no sample.",
            queries=(Query(rate("reflux_cascade_run_seconds_total", by=_STAGE), "{{stage}} {{model_version}}"),),
            unit="s",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Texts of each stage",
            description="Texts that each stage of a cascade, and the *teacher* after them, answered per second, all "
            "pods.",
            queries=(Query(rate("reflux_cascade_answers_total", by=_STAGE), "{{stage}} {{model_version}}"),),
            unit="reqps",
            stacked=True,
            width=8,
        ),
    ),
)
_DEFERRING = Row(
    "Texts left to the teacher",
    (
        Lines(
            title="What became of deferred texts",
            description="Texts per second that no student of a cascade was sure of: *answered* by the teacher, or by "
            "the last student after all, for want of money (*budget*), time (*timeout*, *deadline*), room "
            "(*queue_full*) or an answer (*teacher_error*, *breaker_open*, *rate_limited*, *refused*, "
            "*invalid_answer*), or in a *shutdown*. Mostly not *answered*: RefluxDeferralsFail in the runbook. A "
            "bundle that defers nothing has no lines. Of all texts, no sample.",
            queries=(
                Query(
                    f"{rate('reflux_deferrals_total', by=('model_version', 'outcome'))} > 0",
                    "{{outcome}} {{model_version}}",
                ),
            ),
            unit="reqps",
            stacked=True,
            width=8,
        ),
        Lines(
            title="Time of deferred texts",
            description="Median and 95th percentile from leaving a text to the teacher to its answer, whoever gives "
            "it, to the accuracy of the histogram's buckets. At `defer.deadline_seconds`: the teacher is too slow. Of "
            "all deferred texts, no sample.",
            queries=tuple(
                Query(quantile(of, "reflux_deferral_seconds"), f"{name} {{{{model_version}}}}")
                for of, name in ((0.5, "median"), (0.95, "95 %"))
            ),
            unit="s",
            width=8,
        ),
        Lines(
            title="Cost of deferred texts",
            description="What the teacher's answers to requests cost per day at the present rate, all pods, in US "
            "dollars by the teacher's price list. The limit `defer.usd_per_day` is that of one process. 0 for a "
            "teacher without a price.",
            queries=(Query(f"86400 * {rate('reflux_deferral_cost_usd_total')}", "{{model_version}}"),),
            unit="currencyUSD",
            width=8,
        ),
    ),
)

DASHBOARD = Dashboard(
    name="serving",
    title="Reflux / Serving",
    description="Rate, errors and latency of requests, and what the processes use.",
    rows=(_RED, _LATENCY, _CASCADE, _DEFERRING, _PROCESS),
    since="now-6h",
)
