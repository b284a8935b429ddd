"""From plain counters and the gauges of constants, rules compute the e-values that the service itself computes."""

from collections import Counter

import numpy as np
import pytest

from service.monitor.cells import Cells
from service.monitor.evalues import log_mean_exp
from service.monitor.gap_evalues import log_exceeds, log_keeps
from service.shadow.rule_metrics import EVENTS, LIMITS, limits, log_factors

PROPENSITY = (0.02, 0.05, 0.4)
FORESEEN = np.array([0.001, 0.02, 0.3])
SLO = 0.08


@pytest.fixture
def cells():
    return Cells.of(
        slot=[0.0] * 3,
        band=[0, 1, 2],
        propensity=PROPENSITY,
        requests=[6000.0, 3000.0, 1000.0],
        sampled=[120.0, 150.0, 400.0],
        lost=[5.0, 0.0, 20.0],
        agreed=[112.0, 140.0, 240.0],
        disagreed=[2.0, 10.0, 130.0],
    )


def log_evalue(side, disagreed, agreed, unsampled):
    """Return the log e-value by the gauge: the mean over bets of what each band's counts add."""
    counts = dict(zip(EVENTS, (disagreed, agreed, unsampled), strict=True))
    bets = Counter()
    for sample in log_factors("v1", PROPENSITY, SLO, FORESEEN).samples:
        labels = sample.labels
        if labels["side"] == side:
            bets[labels["bet"]] += sample.value * counts[labels["event"]][int(labels["band"][1:])]
    return float(log_mean_exp(np.array([*bets.values()])))


def test_the_counters_give_the_evidence_against_the_slo(cells):
    found = log_evalue("exceeds", cells.disagreed, cells.sampled - cells.disagreed, cells.requests - cells.sampled)
    assert found == pytest.approx(log_exceeds(cells, SLO, FORESEEN))


def test_the_counters_give_the_evidence_for_it(cells):
    found = log_evalue("keeps", cells.sampled - cells.agreed, cells.agreed, cells.requests - cells.sampled)
    assert found == pytest.approx(log_keeps(cells, SLO, FORESEEN))


def test_every_limit_has_a_series():
    assert {sample.labels["limit"]: sample.value for sample in limits("v1").samples} == LIMITS
