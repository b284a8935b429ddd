"""What a witness does to the estimate of the gap, on simulated traffic whose true gap is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from export.bundle.reference import Floats
from export.fit_curve import logistic
from export.fit_reference import fit_reference
from export.witness import EDGES
from service.monitor.bands import propensities
from service.monitor.cells import Cells
from service.monitor.gap import GapEstimate, estimate

REQUESTS, RATE = 20_000, 0.03
BUNDLES, RUNS = 8, 60
VALIDATION, TRAFFIC = 400, 50_000


@dataclass(frozen=True)
class Texts:
    """Texts [N]: the student's confidence, the joint one with a witness, and whether the student disagrees."""

    alone: Floats
    joint: Floats
    wrong: Floats


def draw(count: int, generator: np.random.Generator) -> Texts:
    """Draw texts of a student that is calibrated but unsharp, as static ones are, and of a witness that is sharper."""
    alone = 1 - 0.7 * generator.beta(0.6, 2.5, size=count)
    wrong = generator.random(count) < (1 - alone)
    witness = np.where(wrong, generator.beta(0.8, 1.5, size=count), generator.beta(4, 0.8, size=count))
    return Texts(alone, np.sqrt(alone * witness), wrong.astype(np.float64))


def windows(kind: str, share: float = 1.0) -> list[tuple[GapEstimate, float]]:
    """Return estimates with the true gap over all texts, of several bundles; `kind` names the confidence of the bands.

    A `share` of the texts is seen by the witness, and these are sampled as often as to make the same number of calls.
    """
    generator = np.random.default_rng(7)
    traffic = draw(TRAFFIC, generator)
    found = []
    for _ in range(BUNDLES):
        rows = draw(VALIDATION, generator)
        given = (EDGES, logistic) if kind == "joint" else ()
        reference = fit_reference(getattr(rows, kind), rows.wrong > 0, *given)
        expected = np.interp(getattr(traffic, kind), reference.confidence, reference.disagreement)
        band = np.searchsorted(reference.edges, expected, side="right")
        texts, wrong, sums = (
            np.bincount(band, values, minlength=reference.bands) for values in (None, traffic.wrong, expected)
        )
        per_text = np.maximum(texts, 1)
        pi = propensities(RATE / share, reference.share, reference.spread)
        answered = generator.multinomial(REQUESTS, texts / TRAFFIC, size=RUNS)
        disagree = generator.binomial(answered, wrong / per_text)
        seen_wrong = generator.binomial(disagree, share)
        seen = seen_wrong + generator.binomial(answered - disagree, share)
        disagreed = generator.binomial(seen_wrong, pi)
        agreed = generator.binomial(seen - seen_wrong, pi)
        for run in range(RUNS):
            cells = Cells.of(
                band=np.arange(reference.bands),
                propensity=pi,
                requests=seen[run],
                expected=seen[run] * sums / per_text,
                sampled=agreed[run] + disagreed[run],
                agreed=agreed[run],
                disagreed=disagreed[run],
            )
            result = estimate(cells)
            assert result is not None
            found.append((result, float(disagree[run].sum() / REQUESTS)))
    return found


def variance(found: list[tuple[GapEstimate, float]]) -> tuple[float, float]:
    """Return the squared width of the interval and the squared error, each for one comparison."""
    width = np.mean([(result.upper - result.lower) ** 2 * result.compared for result, _ in found])
    return float(width), float(np.mean([(result.gap - truth) ** 2 * result.compared for result, truth in found]))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_the_gap_is_unbiased_and_its_interval_covers_also_where_the_witness_reads_a_share(share):
    found = windows("joint", share)
    assert abs(np.mean([result.gap - truth for result, truth in found])) < 0.001
    covered = np.mean([result.lower <= truth <= result.upper for result, truth in found])
    assert 0.94 <= covered <= 0.985
    assert np.mean([truth > result.upper for result, truth in found]) <= 0.04


def test_a_sharper_witness_halves_the_calls_for_the_same_interval():
    alone, both, fifth = (variance(windows(*given)) for given in (("alone",), ("joint",), ("joint", 0.2)))
    assert both[0] <= 0.5 * alone[0]
    assert both[1] <= 0.5 * alone[1]
    assert fifth[0] <= 0.65 * alone[0]
