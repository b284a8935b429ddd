"""From a small validation split to a page: the bundle's ceilings, those of the first comparisons, then a change."""

from __future__ import annotations

import numpy as np
import pytest

from export.bundle.ceilings import tightened
from export.fit_reference import fit_reference
from service.monitor.bands import propensities
from service.monitor.cells import SLOT_SECONDS, Cells, Floats
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.windows import combined, measure
from tests.support.validation import STUDENTS, expected

ROWS = 400
BUNDLES = 20
DAY = 86_400.0
RATE = 0.05


class Service:
    """A bundle fitted to its own validation split of the student, and the cells of 1,000 comparisons a day."""

    def __init__(self, name: str, seed: int) -> None:
        student = STUDENTS[name]
        self.reference = fit_reference(*student.rows(seed, ROWS))
        self._random = np.random.default_rng(seed)
        top = student.confidences(self._random, 20_000)
        band = np.searchsorted(self.reference.edges, expected(self.reference, top), side="right")
        bands = self.reference.bands
        count = np.bincount(band, minlength=bands)
        self._share = count / len(top)
        self.rate = np.bincount(band, student.truth(top), minlength=bands) / np.maximum(count, 1)
        self._propensity = propensities(RATE, self.reference.share, self.reference.spread)
        self.ceilings: list[tuple[float, Floats]] = [(0.0, self.reference.null)]
        self.cells = Cells.zeros()
        self._now = 100 * DAY

    def compare(self, count: int, factor: float = 1.0) -> None:
        """Compare about `count` requests of a quarter of a day, with `factor` times the disagreement."""
        self._now += DAY / 4
        requests = round(count / float(self._share @ self._propensity))
        answered = self._random.multinomial(requests, self._share)
        sampled = self._random.binomial(answered, self._propensity)
        disagreed = self._random.binomial(sampled, np.minimum(self.rate * factor, 1.0))
        self.cells += Cells.of(
            slot=self._now // SLOT_SECONDS * SLOT_SECONDS,
            band=np.arange(len(answered)),
            propensity=self._propensity,
            requests=answered,
            sampled=sampled,
            agreed=sampled - disagreed,
            disagreed=disagreed,
        )

    def log_evalue(self) -> float:
        return combined(list(measure(self.cells, self._now, self.reference.slo, self.ceilings).values()))

    def tighten(self) -> None:
        """Lower the ceilings to what has been compared so far, for what follows."""
        cells, (_, null) = self.cells, self.ceilings[0]
        disagreed, compared = (cells.by_band(counts, len(null)) for counts in (cells.disagreed, cells.compared))
        self.ceilings.append((self._now + SLOT_SECONDS, tightened(null, disagreed, compared)))


def evidence(name: str, seed: int, factor: float, *, tighten: bool = True, quarters: int = 4) -> float:
    """Return the largest log e-value in `quarters` of a thousand comparisons that follow 1,000 calm ones."""
    service = Service(name, seed)
    service.compare(1000)
    if tighten:
        service.tighten()
    seen = []
    for _ in range(quarters):
        service.compare(250, factor)
        seen.append(service.log_evalue())
    return max(seen)


@pytest.mark.parametrize("name", ["sure", "calibrated"])
def test_a_doubled_gap_pages_within_1000_comparisons_once_the_first_1000_have_lowered_the_ceilings(name: str) -> None:
    paged = [evidence(name, seed, 2.0) >= LOG_PAGE for seed in range(BUNDLES)]
    assert np.mean(paged) >= 0.6
    without = [evidence(name, seed, 2.0, tighten=False) >= LOG_PAGE for seed in range(BUNDLES)]
    assert np.mean(without) <= np.mean(paged) - 0.3


@pytest.mark.parametrize("name", ["sure", "calibrated"])
def test_lowered_ceilings_raise_nothing_while_nothing_changes(name: str) -> None:
    assert max(evidence(name, seed, 1.0, quarters=12) for seed in range(BUNDLES)) < LOG_TICKET


def test_a_bad_first_1000_does_not_hide_the_gap() -> None:
    """No ceiling rises, and the whole gap is judged against the SLO from the first comparison on."""
    service = Service("calibrated", 0)
    service.compare(1000, 2.5)
    service.tighten()
    (_, before), (_, after) = service.ceilings
    assert (after <= before).all()
    service.compare(1000, 2.5)
    assert service.log_evalue() >= LOG_PAGE
