"""The windows in which the gap is judged: the last hour, six hours, day and week, and all since deployment.

A change of today hardly moves what was counted since deployment, and an hour holds too few comparisons to judge a
small change: together they see both. The evidence of all windows is one e-value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.monitor.cells import SLOT_SECONDS, Cells, Floats
from service.monitor.evalues import log_exceeds_ceilings, log_mean_exp
from service.monitor.gap import GapEstimate, estimate
from service.monitor.gap_evalues import exceed_terms, log_keeps
from service.monitor.weights import HOUR

DAY = "1d"
SLOTS = {"1h": 12, "6h": 72, DAY: 288, "7d": 2016}
"""Length of each window in slots, the running one included."""

SINCE = "since"
NAMES = (*SLOTS, SINCE)

WEIGHTS = {"1h": 0.02, "6h": 0.08, "1d": 0.2, "7d": 0.3, SINCE: 0.4}
"""Shares of the windows in their common e-value. A short window begins anew so often that it would raise more false
alarms, and what it must see is large."""

MOST_LOST = 0.2
FEW = 20
"""The largest share of the ended samples that may be lost, and the number of them that is needed to judge losses."""

RECENT = 1000
"""A student is certified by the last week alone if it holds at least this many comparisons."""


@dataclass(frozen=True)
class Window:
    """The gap in one window, and the natural logarithms of the e-values against the SLO and against the ceilings.

    `estimate` is None if nothing was compared. Counts are sums over the window: `requests`, the `expected` number of
    disagreements among them, `sampled`, `lost` and `compared`.
    """

    name: str
    estimate: GapEstimate | None
    log_evalue_gap: float
    log_evalue_bands: float
    requests: float
    expected: float
    sampled: float
    lost: float
    compared: float

    @property
    def log_evalue(self) -> float:
        """The logarithm of the mean of both e-values, which is an e-value again."""
        return _log_mean([self.log_evalue_gap, self.log_evalue_bands])

    @property
    def lost_ratio(self) -> float | None:
        """The share of the samples that ended without a comparison, None if none has ended."""
        ended = self.lost + self.compared
        return self.lost / ended if ended else None


def start_of(name: str, now: float) -> float:
    """Return the start of the first slot in window `name` at `now`, both in Unix seconds; 0 since deployment.

    Raises KeyError if there is no such window.
    """
    return 0.0 if name == SINCE else (now // SLOT_SECONDS - SLOTS[name] + 1) * SLOT_SECONDS


def measure(
    cells: Cells,
    now: float,
    slo: float,
    ceilings: Sequence[tuple[float, Floats]],
    foreseen: Floats | None = None,
    level: float = 0.95,
) -> dict[str, Window]:
    """Return every window of `cells` at `now` (Unix seconds), by name, shortest first; see `measure_each`."""
    return {window.name: window for window in measure_each(cells, now, slo, ceilings, foreseen, level)}


def measure_each(
    cells: Cells,
    now: float,
    slo: float,
    ceilings: Sequence[tuple[float, Floats]],
    foreseen: Floats | None = None,
    level: float = 0.95,
) -> Iterator[Window]:
    """Yield the windows of `cells` at `now` (Unix seconds), shortest first, each measured when it is asked for.

    `slo` is the gap in (0, 1) that must not be exceeded, `ceilings` as for `log_exceeds_ceilings`, `foreseen` as for
    `log_exceeds`, `level` that of the intervals. Raises what the estimators raise.
    """
    terms = exceed_terms(cells, slo, foreseen)
    for name in NAMES:
        chosen = cells.slot >= start_of(name, now)
        part = cells.where(chosen)
        yield Window(
            name,
            estimate(part, level),
            float(log_mean_exp(terms[:, chosen].sum(axis=1))),
            log_exceeds_ceilings(part, ceilings),
            *(float(counts.sum()) for counts in (part.requests, part.expected, part.sampled, part.lost, part.compared)),
        )


def log_certify(cells: Cells, now: float, slo: float, foreseen: Floats | None = None) -> float:
    """Return the log e-value for "the gap is below `slo`", which certifies the student.

    Of the last week, so that an old success does not vouch for what came after it; of all cells if the week holds fewer
    than `RECENT` comparisons. A lost comparison counts as a disagreement, and so that an outage of an hour does not
    cost the certificate for days, hours are left out in which more than a fifth of the samples were lost: during them
    the verdict is `blind`. Hours with fewer than `FEW` ended samples stay in, because a single refusal would decide.

    A pending comparison counts as a disagreement too. So that a burst or a restart does not interrupt a certificate,
    what it was before the oldest text that has been pending for less than an hour holds on: the promise of an e-value
    is about all looks, earlier ones included.
    """
    cells = cells.where(~_lossy(cells))
    week = cells.since(start_of("7d", now))
    chosen = week if week.compared.sum() >= RECENT else cells
    waiting = chosen.slot[(chosen.pending > 0) & (chosen.slot >= start_of("1h", now))]
    before = chosen.where(chosen.slot < waiting.min(initial=now))
    return max(log_keeps(chosen, slo, foreseen), log_keeps(before, slo, foreseen))


def _lossy(cells: Cells) -> npt.NDArray[np.bool_]:
    """Return which cells belong to an hour in which too much was lost, shape [C]."""
    _, hour = np.unique(cells.slot // HOUR, return_inverse=True)
    if not hour.size:
        return np.zeros(0, dtype=np.bool_)
    lost, ended = np.bincount(hour, cells.lost), np.bincount(hour, cells.lost + cells.compared)
    return np.asarray((ended >= FEW) & (lost > MOST_LOST * ended))[hour]


def combined(windows: Sequence[Window]) -> float:
    """Return the log of the mean e-value, by `WEIGHTS`: windows depend on each other, which a mean of e-values may."""
    return float(log_weighted(np.array([window.log_evalue for window in windows]), [window.name for window in windows]))


def log_weighted(log_evalues: Floats, names: Sequence[str]) -> Floats:
    """Return the log of the weighted mean e-value, shape [...], of the windows `names` [W]: `log_evalues` [..., W]."""
    weights = np.array([WEIGHTS[name] for name in names])
    highest = log_evalues.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(log_evalues - highest) @ (weights / weights.sum())) + highest[..., 0])


def _log_mean(log_evalues: Sequence[float]) -> float:
    return float(log_mean_exp(np.array(log_evalues)))
