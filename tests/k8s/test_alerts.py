"""Each alert fires when it should, alone, and a quiet day is silent."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.monitored import BAD, CALM, PROPENSITY, constants
from tests.support.promtool import PROMTOOL, Pod, Traffic, firing, gauge, near, nothing, run, something

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")


def test_a_gap_beyond_doubt_pages_until_the_last_day_is_good_again(tmp_path):
    """The evidence is below 1,000 to 1 from minute 50 on, the gap of the day below its SLO from minute 115 on."""
    pod = Pod("a", PROPENSITY).born().serve(30, BAD).serve(155, CALM)
    checks = [
        firing(15),
        firing(32, ("RefluxGapExceeded", "v1")),
        nothing(50, "model:reflux_gap:log_evidence > 6.9"),
        firing(170, ("RefluxGapExceeded", "v1")),
        firing(185),
    ]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_suspicion_is_a_ticket(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(50, BAD)
    series = [*pod.series(), *constants("a", changed={"log_page": 1e6})]
    run(tmp_path, series, [firing(10), firing(50, ("RefluxGapSuspected", "v1"))])


def test_detectors_of_pods_add_up(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(10, CALM)
    series = [*pod.series(), *constants("a", minutes=10)]
    for name in "ab":
        series.append(gauge("reflux_gap_edetector", 20_000.0 if name == "a" else 5_000.0, 10, name))
        series.append(gauge("reflux_gap_edetector_threshold", 12_000.0, 10, name))
    run(tmp_path, series, [firing(1), firing(10, ("RefluxGapRose", "v1"))])


def test_requests_that_no_teacher_could_see_are_a_ticket(tmp_path):
    off = replace(CALM, sampled=0.0, disagreed=0.0, eligible=False)
    pod = Pod("a", PROPENSITY).born().serve(70, off)
    series = [*pod.series(), gauge("reflux_model_info", 1.0, 70), gauge("reflux_gap_verdict", 3.0, 70)]
    run(tmp_path, series, [firing(55), firing(70, ("RefluxGapUnmeasured", "v1"))])


def test_a_pod_that_is_blind_itself_is_a_ticket(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(10, CALM)
    series = [*pod.series(), *constants("a", minutes=10), gauge("reflux_gap_verdict", 3.0, 10)]
    run(tmp_path, series, [firing(10, ("RefluxGapBlind", "v1"))])


def test_causes_are_tickets(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(20, CALM)
    series = [*pod.series(), *constants("a", minutes=20), gauge("reflux_teacher_drift", 1.0, 20)]
    for feature, statistic in (("length", 0.2), ("class", 0.01)):
        series.append(gauge("reflux_drift_statistic", statistic, 20, feature=feature))
        series.append(gauge("reflux_drift_threshold", 0.1, 20, feature=feature))
    series.append(gauge("reflux_drift_detected", 1.0, 20))
    both = ("RefluxInputDrift", "v1"), ("RefluxTeacherDrift", "v1")
    run(tmp_path, series, [firing(4), firing(20, *both)])


@pytest.mark.parametrize("trouble", [{"missing": 0.1}, {"defects": 1.0}])
def test_texts_that_are_not_counted_are_a_ticket(tmp_path, trouble):
    pod = Pod("a", PROPENSITY).born().serve(30, replace(CALM, **trouble))
    run(tmp_path, [*pod.series(), *constants("a", minutes=30)], [firing(30, ("RefluxShadowMiscounts", "v1"))])


@pytest.mark.parametrize(
    ("failing", "fires"), [("teacher_error", True), ("rate_limited", True), ("refused", False), ("deadline", False)]
)
def test_texts_that_the_teacher_should_have_answered_are_a_ticket(tmp_path, failing, fires):
    """Of 100 deferred texts in a minute, 60 get no answer of the teacher's."""
    pod = Pod("a", PROPENSITY).born().serve(30, CALM)
    deferred = [
        {"series": f'reflux_deferrals_total{{model_version="v1", pod="a", outcome="{outcome}"}}', "values": counts}
        for outcome, counts in (("answered", "0+40x30"), (failing, "0+60x30"), ("timeout", "0x30"))
    ]
    told = [("RefluxDeferralsFail", "v1")] if fires else []
    run(tmp_path, [*pod.series(), *constants("a", minutes=30), *deferred], [firing(10), firing(30, *told)])


def test_a_teacher_that_misses_a_few_deferred_texts_is_no_ticket(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(30, CALM)
    deferred = [
        {"series": f'reflux_deferrals_total{{model_version="v1", pod="a", outcome="{outcome}"}}', "values": counts}
        for outcome, counts in (("answered", "0+60x30"), ("timeout", "0+40x30"))
    ]
    run(tmp_path, [*pod.series(), *constants("a", minutes=30), *deferred], [firing(30)])


@pytest.mark.parametrize(("failures", "fires"), [(1, False), (8, False), (24, True)])
def test_a_few_deferred_texts_in_an_hour_are_too_few_for_a_ticket(tmp_path, failures, fires):
    """All that are left to the teacher fail, in minutes 1 to `failures`, one in each."""
    pod = Pod("a", PROPENSITY).born().serve(45, CALM)
    counts = f"0+1x{failures} {failures}x{44 - failures}"
    deferred = {"series": 'reflux_deferrals_total{model_version="v1", pod="a", outcome="timeout"}', "values": counts}
    told = [("RefluxDeferralsFail", "v1")] if fires else []
    run(tmp_path, [*pod.series(), *constants("a", minutes=45), deferred], [firing(43, *told)])


def test_processes_that_share_a_store_may_restart_alone(tmp_path):
    """A serving process restarts after ten minutes, the worker after five: each began with nothing, and has nothing."""

    def series(pod, **counts):
        for name in ("sampled_total", "handed_over_total", "resumed_total", "results_total", "queue_depth", "inflight"):
            labels = f'model_version="v1", pod="{pod}"'
            yield {"series": f"reflux_shadow_{name}{{{labels}}}", "values": counts.get(name, "0x20")}

    serving = series("serving", sampled_total="0+6x10 0+6x10", handed_over_total="0+6x10 0+6x10")
    worker = series("worker", resumed_total="0+6x5 0+6x15", results_total="0+6x5 0+6x15")
    checks = [near(at, 'model:reflux_shadow:missing{model_version="v1"}', 0.0, 1e-9) for at in (3, 8, 18)]
    run(tmp_path, [*serving, *worker], checks)


@pytest.mark.parametrize(
    ("trouble", "alert"),
    [
        ({"failed": 5.0}, "RefluxAvailability"),
        ({"failed": 0.3}, "RefluxAvailabilitySlow"),
        ({"slow": 20.0}, "RefluxLatency"),
    ],
)
def test_answers_that_fail_or_come_late(tmp_path, trouble, alert):
    pod = Pod("a", PROPENSITY).born().serve(50, replace(CALM, **trouble)).serve(60, CALM)
    found = [("RefluxAvailabilitySlow", "v1")] if alert == "RefluxAvailability" else []
    checks = [firing(50, (alert, "v1"), *found)]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_a_single_failure_among_few_requests_wakes_nobody(tmp_path):
    few = replace(CALM, requests=CALM.requests / 1000, expected=0.0, sampled=0.0, disagreed=0.0)
    pod = Pod("a", PROPENSITY).born().serve(30, few).serve(1, replace(few, failed=1.0)).serve(29, few)
    run(tmp_path, [*pod.series(), *constants("a")], [firing(minute) for minute in (33, 40, 60)])


def test_no_pod_pages(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(10, CALM)
    checks = [firing(10), firing(25, ("RefluxAbsent", ""))]
    run(tmp_path, [*pod.series(), *constants("a", minutes=10)], checks)


def test_a_quiet_day_is_silent(tmp_path):
    """Counts of two pods as chance has them, at the gap of the bundle; one of them restarts at noon.

    Scraped every 5 minutes, because promtool takes minutes for a day of minutes.
    """
    random = np.random.default_rng(0)
    series = [*constants("a", "b", minutes=288)]
    noise = {
        'reflux_drift_statistic{feature="band"': 30.0 + 5.0 * random.standard_normal((2, 289)),
        "reflux_gap_edetector{": np.exp(random.standard_normal((2, 289)).cumsum(axis=1) % 7.0),
        "reflux_teacher_log_evalue{": random.uniform(-2.0, 2.0, (2, 289)),
        'reflux_shadow_cost_usd_total{teacher="t"': random.exponential(0.01, (2, 289)).cumsum(axis=1),
    }
    still = {
        'reflux_drift_threshold{feature="band"': 60.0,
        "reflux_drift_detected{": 0.0,
        "reflux_gap_edetector_threshold{": 12_000.0,
        "reflux_teacher_drift{": 0.0,
        "reflux_shadow_budget_usd_per_hour{": 1.0,
    }
    for at, name in enumerate("ab"):
        for start, values in noise.items():
            series.append(line(start, name, map(float, values[at])))
        for start, value in still.items():
            series.append(line(start, name, [value] * 289))
        pod = Pod(name, PROPENSITY).born()
        for step in range(1, 289):
            if (name, step) == ("b", 144):
                pod.born()
                continue
            requests = random.poisson(CALM.requests * 5 * (1 + 0.8 * np.sin(step / 288 * 2 * np.pi)))
            sampled = random.binomial(requests, PROPENSITY)
            disagreed = random.binomial(sampled, CALM.disagreed / CALM.sampled)
            pod.serve(1, Traffic(requests, sampled, disagreed, requests * CALM.expected / CALM.requests))
        series += pod.series()
    checks = [firing(minute) for minute in range(0, 1441, 15)]
    seen = [something(1080, name) for name in JUDGED if 'window="5m"' not in name]
    run(tmp_path, series, [*checks, *seen], step="5m")


def test_a_quiet_hour_is_silent_in_the_shortest_windows_too(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(60, CALM)
    seen = [something(60, name) for name in JUDGED if 'window="5m"' in name]
    assert seen
    run(tmp_path, [*pod.series(), *constants("a", minutes=60)], [*map(firing, range(0, 61, 5)), *seen])


JUDGED = (
    "model:reflux_gap:log_evidence",
    "model:reflux_gap:edetector",
    "model:reflux_gap:edetector_at",
    'model:reflux_gap:ratio{window="1d"}',
    "model_feature:reflux_drift:excess",
    "model:reflux_teacher:drift",
    "model:reflux_shadow_budget:ratio",
    "model:reflux_shadow:missing",
    *(
        f'model:reflux_{what}:burn{{window="{window}"}}'
        for what in ("availability", "latency")
        for window in ("5m", "1h", "6h")
    ),
)
"""What alerts compare with something: without a value, their silence would mean nothing."""


def line(start, pod, values):
    """Return a series of a pod, whose name and labels begin with `start`."""
    comma = "" if start.endswith("{") else ", "
    return {
        "series": f'{start}{comma}model_version="v1", pod="{pod}"}}',
        "values": " ".join(repr(value) for value in values),
    }
