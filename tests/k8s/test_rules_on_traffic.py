"""On traffic whose truth is known, the rules give what the service itself computes from the same counts."""

from dataclasses import replace

import numpy as np
import pytest

from service.monitor.evalues import component_log_evalues, log_mean_exp
from service.monitor.gap import estimate
from service.monitor.gap_evalues import log_exceeds, log_keeps
from tests.support.monitored import BAD, CALM, FORESEEN, NULL, PROPENSITY, SLO, constants
from tests.support.promtool import PROMTOOL, Pod, firing, near, nothing, run

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")


def gap(window, version="v1", what="ratio"):
    return f'model:reflux_gap:{what}{{model_version="{version}", window="{window}"}}'


def test_the_gap_of_a_window_has_the_interval_of_the_service(tmp_path):
    pod = Pod("a", PROPENSITY).born().serve(60, CALM).serve(60, BAD)
    hour = estimate(BAD.cells(PROPENSITY, 60))
    whole = estimate(CALM.cells(PROPENSITY, 60) + BAD.cells(PROPENSITY, 60))
    checks = [
        near(120, gap(window, what=what), value, 1e-4)
        for window, found in (("1h", hour), ("6h", whole))
        for what, value in (("ratio", found.gap), ("lower", found.lower), ("upper", found.upper))
    ]
    checks += [near(120, gap("1h", what="stderr"), hour.stderr, 1e-4), near(120, gap("1h", what="coverage"), 1.0, 1e-9)]
    checks += [near(120, gap("1h", what="expected"), hour.expected_gap, 1e-4)]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_the_evidence_is_that_of_the_service(tmp_path):
    pods = [Pod(name, PROPENSITY).born().serve(60, BAD) for name in "ab"]
    # Two pods count in one hour what one counts in two.
    cells = BAD.cells(PROPENSITY, 120)
    exceeds, keeps = log_exceeds(cells, SLO, FORESEEN), log_keeps(cells, SLO, FORESEEN)
    components = component_log_evalues(cells.disagreed, cells.compared, NULL)
    ceilings = float(log_mean_exp(components))
    against = 'model_against:reflux_gap:log_evalue{{against="{}", model_version="v1", window="1h"}}'
    both = float(log_mean_exp(np.array([exceeds, ceilings])))
    checks = [
        near(60, against.format("slo"), exceeds, 0.05),
        near(60, against.format("ceilings"), ceilings, 0.05),
        near(60, gap("1h", what="log_evalue"), both, 0.05),
        near(60, gap("1h", what="log_certify"), keeps, 0.05),
    ]
    run(tmp_path, [*(one for pod in pods for one in pod.series()), *constants("a", "b")], checks)


def test_a_restart_takes_no_more_than_a_scrape_from_the_counts(tmp_path):
    steady = Pod("a", PROPENSITY).born().serve(60, CALM)
    restarted = Pod("b", PROPENSITY).born().serve(30, BAD).born().serve(29, BAD)
    expected = estimate(CALM.cells(PROPENSITY, 60) + BAD.cells(PROPENSITY, 59)).gap
    checks = [near(60, gap("1h"), expected, 0.0005)]
    # A minute of pod b is lost, and the counts are at most 1 % off.
    counted = 'model:reflux_shadow_eligible:increase{model_version="v1", window="1h"}'
    checks += [near(60, counted, 100.0 * 119, 100.0)]
    run(tmp_path, [*steady.series(), *restarted.series(), *constants("a", "b")], checks)


def test_a_pod_that_appears_with_counts_adds_only_what_it_counts_from_then_on(tmp_path):
    steady = Pod("a", PROPENSITY).born().serve(60, CALM)
    late = Pod("b", PROPENSITY).absent(30).born(5000.0).serve(29, CALM)
    checks = [near(60, gap("1h"), estimate(CALM.cells(PROPENSITY, 60)).gap, 0.0005)]
    checks += [near(60, 'model:reflux_shadow_eligible:increase{model_version="v1", window="1h"}', 100.0 * 89, 150.0)]
    run(tmp_path, [*steady.series(), *late.series(), *constants("a", "b")], checks)


def test_a_canary_is_judged_apart(tmp_path):
    stable = Pod("a", PROPENSITY).born().serve(60, CALM)
    canary = Pod("a", PROPENSITY, version="v2").born().serve(60, BAD)
    checks = [near(60, gap("1h"), estimate(CALM.cells(PROPENSITY, 60)).gap, 1e-4)]
    checks += [near(60, gap("1h", version="v2"), estimate(BAD.cells(PROPENSITY, 60)).gap, 1e-4)]
    checks += [firing(60, ("RefluxGapExceeded", "v2"))]
    series = [*stable.series(), *canary.series(), *constants("a"), *constants("a", version="v2")]
    run(tmp_path, series, checks)


def test_a_band_without_a_comparison_is_left_out_and_said(tmp_path):
    empty = replace(CALM, sampled=np.array([0.0, 1.5, 4.0]), disagreed=np.array([0.0, 0.03, 1.2]))
    pod = Pod("a", PROPENSITY).born().serve(60, empty)
    checks = [near(60, gap("1h"), (30 * 0.02 + 10 * 0.3) / 40, 1e-4), near(60, gap("1h", what="coverage"), 0.4, 1e-6)]
    # The bets on the whole gap need no comparison in every band.
    cells = empty.cells(PROPENSITY, 60)
    against = 'model_against:reflux_gap:log_evalue{against="slo", model_version="v1", window="1h"}'
    checks += [near(60, against, log_exceeds(cells, SLO, FORESEEN), 0.05)]
    checks += [near(60, 'model_reason:reflux_gap:blind{model_version="v1", reason="coverage"}', 0.4, 1e-6)]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_a_band_without_traffic_spoils_nothing(tmp_path):
    here = np.array([1.0, 1.0, 0.0])
    none = replace(
        CALM,
        requests=CALM.requests * here,
        sampled=CALM.sampled * here,
        disagreed=CALM.disagreed * here,
        expected=CALM.expected * here,
    )
    pod = Pod("a", PROPENSITY).born().serve(60, none)
    found = estimate(none.cells(PROPENSITY, 60))
    checks = [near(60, gap("1h", what=what), getattr(found, what), 1e-4) for what in ("coverage", "lower", "upper")]
    run(tmp_path, [*pod.series(), *constants("a")], [near(60, gap("1h"), found.gap, 1e-4), *checks])


def test_losses_do_not_bias_the_gap_and_make_it_blind(tmp_path):
    lost = np.array([0.12, 0.3, 2.0])
    answered = 1 - lost / CALM.sampled
    lossy = replace(CALM, lost=lost, disagreed=CALM.disagreed * answered)
    pod = Pod("a", PROPENSITY).born().serve(60, lossy)
    width = float((CALM.requests / 100) @ (lost / CALM.sampled))
    checks = [
        near(60, gap("1h"), estimate(CALM.cells(PROPENSITY, 60)).gap, 1e-4),
        near(60, gap("1h", what="worst_case_width"), width, 1e-4),
        near(60, 'model:reflux_shadow_lost:ratio{model_version="v1", window="1h"}', 2.42 / 6.7, 1e-3),
        near(60, 'model_reason:reflux_gap:blind{model_version="v1", reason="losses"}', 2.42 / 6.7, 1e-3),
        near(60, 'model_reason:reflux_gap:blind{model_version="v1", reason="uncertainty"}', width, 1e-3),
        firing(60, ("RefluxBudgetSpent", "v1"), ("RefluxGapBlind", "v1")),
    ]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_silence_is_blind(tmp_path):
    silent = replace(CALM, sampled=CALM.sampled, lost=CALM.sampled, disagreed=0.0, outcome="timeout")
    pod = Pod("a", PROPENSITY).born().serve(60, CALM).serve(20, silent)
    reason = 'model_reason:reflux_gap:blind{model_version="v1", reason="silence"}'
    checks = [nothing(60, reason), near(75, reason, 67.0, 1.0), nothing(69, reason)]
    run(tmp_path, [*pod.series(), *constants("a")], checks)


def test_another_sampling_rate_leaves_the_evidence_on_the_whole_gap_out(tmp_path):
    """Counts of one rate say nothing at the odds of another."""
    pod = Pod("a", PROPENSITY).born().serve(90, BAD)
    before = constants("a", minutes=60)
    doubled = constants("a", propensity=(0.04, 0.1, 0.8))
    series = [
        first | {"values": f"{first['values']} {then['values'].split('x')[0]}x30"}
        for first, then in zip(before, doubled, strict=True)
    ]
    against = 'model_against:reflux_gap:log_evalue{against="%s", window="1h"}'
    cells = BAD.cells(PROPENSITY, 60)
    components = component_log_evalues(cells.disagreed, cells.compared, NULL)
    ceilings = 'model_against:reflux_gap:log_evalue{against="ceilings", model_version="v1", window="1h"}'
    checks = [nothing(90, against % "slo"), near(90, ceilings, float(log_mean_exp(components)), 0.05)]
    run(tmp_path, [*pod.series(), *series], checks)
