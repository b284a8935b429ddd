"""On traffic whose truth is known, the rules give what the service itself computes from the same counts."""

from dataclasses import replace

import numpy as np
import pytest

from service.monitor.evalues import component_log_evalues, log_mean_exp
from service.monitor.gap import estimate
from service.monitor.gap_evalues import log_exceeds, log_keeps
from service.shadow.rule_metrics import limits, log_factors, log_likelihood_ratios, window_weights
from tests.support.promtool import PROMTOOL, Pod, Traffic, gauges, near, run

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")

PROPENSITY = (0.02, 0.05, 0.4)
FORESEEN = np.array([0.002, 0.02, 0.3])
NULL = np.array([0.01, 0.05, 0.4])
SLO = 0.08
CALM = Traffic(
    requests=np.array([60.0, 30.0, 10.0]),
    sampled=np.array([1.2, 1.5, 4.0]),
    disagreed=np.array([0.0024, 0.03, 1.2]),
    expected=np.array([0.12, 0.6, 3.0]),
)
BAD = replace(CALM, disagreed=np.array([0.12, 0.45, 2.0]))


def constants(*pods, minutes=200, propensity=PROPENSITY, version="v1", null=NULL):
    families = (
        limits(version),
        window_weights(version),
        log_factors(version, propensity, SLO, FORESEEN),
        log_likelihood_ratios(version, null),
    )
    return [one for pod in pods for one in gauges(pod, minutes, *families)]


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
    pods = [Pod(name, PROPENSITY).born().serve(120, BAD) for name in "ab"]
    cells = BAD.cells(PROPENSITY, 120)
    exceeds, keeps = log_exceeds(cells, SLO, FORESEEN), log_keeps(cells, SLO, FORESEEN)
    components = component_log_evalues(cells.disagreed, cells.compared, NULL)
    ceilings = float(log_mean_exp(components))
    against = 'model_against:reflux_gap:log_evalue{{against="{}", model_version="v1", window="1h"}}'
    both = float(log_mean_exp(np.array([exceeds, ceilings])))
    checks = [
        near(120, against.format("slo"), exceeds, 0.05),
        near(120, against.format("ceilings"), ceilings, 0.05),
        near(120, gap("1h", what="log_evalue"), both, 0.05),
        near(120, gap("1h", what="log_certify"), keeps, 0.05),
    ]
    # Two pods in one hour count what one does in two.
    run(tmp_path, [*(one for pod in pods for one in pod.series()), *constants("a", "b")], checks)
