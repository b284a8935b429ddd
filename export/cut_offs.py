"""Find the cut-offs of a cascade on validation, with a guarantee over all requests. Arrays alone: no graph, no file.

A cascade asks its stages in turn, the cheapest first, and takes the first answer whose score reaches the stage's
cut-off, or else the answer of the last stage. Answering early saves time and may lose agreement with the teacher. This
module finds the lowest cut-off that is safe.

**What is guaranteed.** Let L be the share of all requests on which the last stage alone agrees with the teacher and the
cascade does not, and G the share on which the cascade agrees and the last stage alone does not. The cascade then agrees
with the teacher on L − G fewer requests than its last stage. With confidence `level`, over the draw of the validation
rows, L − G is below `margin`. If the last stage is the teacher itself, G is 0 and L is the share of requests that the
cascade answers otherwise than the teacher: it agrees with the teacher on more than 1 − `margin` of all requests, as
long as the teacher answers what is left to it.

**On what condition.** Requests are drawn from the same distribution as the validation rows, and no stage was trained on
these rows. The epoch and the temperature of a student were chosen on them; the guarantee does not account for that.

**How.** All stages have one cut-off, since their scores are calibrated, and it is taken from a fixed grid. Each cut-off
of the grid gives a hypothesis "L − G is `margin` or more", which an exact p-value tests. The tests run in one sequence,
from the highest cut-off, which is the safest and costs most, to the lowest; the first hypothesis that is not rejected
ends it. Such a sequence needs no correction for the number of tests: fixed-sequence testing in Angelopoulos, Bates,
Candès, Jordan and Lei (2021), Learn then Test. A guarantee of this kind is that of Bates, Angelopoulos, Lei, Malik and
Jordan (2021), Distribution-free, risk-controlling prediction sets.

**How many rows.** Without a single loss, N rows certify a margin of about 3 / N: 0.2 points take 1,502 rows, and 2,383
if one agreement is lost. Gains offset losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from distill.errors import DistillError
from export.bundle.ceilings import upper_bound

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

LEVEL = 0.95
MARGINS = (0.002, 0.005)
"""The margins to choose from where none is asked for: 0.2 and 0.5 points of agreement."""

GRID = tuple(1 / (1 + math.exp(-step / 20)) for step in range(160, -101, -1))
"""The cut-offs that are tried: from 0.9997 down to 0.0067, evenly spaced in log-odds, so that the scores of a student
that is always sure are resolved, too. They are fixed in advance, for cut-offs among the scores themselves would depend
on the rows that test them."""

_NUISANCE = 0.01
"""The share of the error that is spent on bounding how often the cascade gains (Berger and Boos 1994)."""

_STEP = 0.1
"""The width of the cells in which that bound is searched, in standard errors of a count."""

_TAIL = 1e-9  # what is left out of a sum of probabilities, and added to it


class NotCertifiedError(DistillError):
    """No cut-off can be certified; the message says how many validation rows it takes."""


@dataclass(frozen=True, slots=True)
class StageAnswers:
    """The answers of one stage to N texts: class indices `labels` [N] and calibrated `scores` [N], in [0, 1].

    `cost` is what one text costs that the stage reads, in any unit that all stages share, such as milliseconds.
    """

    labels: Ints
    scores: Floats
    cost: float


@dataclass(frozen=True, slots=True)
class CutOffs:
    """The cheapest cut-offs that are certified, one for each stage but the last, and what follows on validation.

    Of `rows` texts, the cascade lost `losses` agreements with the teacher and gained `gains`. `shares` is the share of
    the texts that each stage answers, and `cost` the mean cost of a text; `last_cost` is that of the last student
    alone.
    """

    cut_offs: tuple[float, ...]
    margin: float
    level: float
    rows: int
    losses: int
    gains: int
    shares: tuple[float, ...]
    cost: float
    last_cost: float
    teacher_last: bool = False

    @property
    def guarantee(self) -> str:
        """What is guaranteed, in a sentence."""
        if self.teacher_last:
            promise = (
                f"agrees with the teacher on at least {100 * (1 - self.margin):.6g} % of all requests by leaving "
                f"{100 * self.shares[-1]:.1f} % to it"
            )
            seen = f"{self.losses} answered otherwise"
        else:
            points = f"{100 * self.margin:g} points"
            promise = f"agrees with the teacher on at most {points} fewer of all requests than its last stage alone"
            seen = f"{self.losses} lost, {self.gains} gained"
        return f"With {100 * self.level:.0f} % confidence, it {promise} ({self.rows:,} validation rows: {seen})."


def find_cut_offs(
    stages: Sequence[StageAnswers],
    teacher: Ints,
    *,
    margin: float,
    level: float = LEVEL,
    teacher_last: bool = False,
) -> CutOffs:
    """Return the cheapest certified cut-offs of two or more stages; `teacher` [N] are the teacher's labels.

    With `teacher_last`, the last stage is the teacher, and its `labels` are `teacher`. Raises NotCertifiedError when N
    is too small for any cut-off or the students are too often sure and wrong, and ValueError for arrays of different
    lengths, fewer than two stages, or a margin or level that is not in (0, 1).
    """
    rows = len(teacher)
    if len(stages) < 2 or any(each.labels.shape != (rows,) or each.scores.shape != (rows,) for each in stages):
        raise ValueError(f"expected two stages or more, each with {rows} labels and scores")
    if not (0 < margin < 1 and 0 < level < 1):
        raise ValueError(f"margin and level must be in (0, 1), got {margin} and {level}")
    if teacher_last and not np.array_equal(stages[-1].labels, teacher):
        raise ValueError("with the teacher as the last stage, its labels are the teacher's")
    _require_rows(rows, margin, level, teacher_last=teacher_last)
    agree = np.stack([each.labels == teacher for each in stages])
    best = None
    for cut_off in GRID:
        answering = _answering(stages, cut_off)
        kept = np.take_along_axis(agree, answering[None], axis=0)[0]
        losses, gains = int((agree[-1] & ~kept).sum()), int((kept & ~agree[-1]).sum())
        if p_value(losses, None if teacher_last else gains, rows, margin, 1 - level) > 1 - level:
            break
        best = cut_off, answering, losses, gains
    if best is None:
        raise NotCertifiedError(
            f"the students are wrong too often where they are surest: {losses} of {rows:,} validation rows are lost "
            f"with a score of {GRID[0]:.4f} or more. Look at these texts, or allow a larger margin"
        )
    cut_off, answering, losses, gains = best
    costs = np.cumsum([each.cost for each in stages])
    shares = np.bincount(answering, minlength=len(stages)) / rows
    return CutOffs(
        cut_offs=(cut_off,) * (len(stages) - 1),
        margin=margin,
        level=level,
        rows=rows,
        losses=losses,
        gains=gains,
        shares=tuple(shares.tolist()),
        cost=float(shares @ costs),
        last_cost=stages[-2 if teacher_last else -1].cost,
        teacher_last=teacher_last,
    )


def _require_rows(rows: int, margin: float, level: float, *, teacher_last: bool) -> None:
    """Raise NotCertifiedError if so many rows certify nothing, even if not one agreement is lost."""
    if rows >= (needed := rows_needed(margin, level, teacher_last=teacher_last)):
        return
    asked, least = 100 * margin, 100 * least_margin(rows, level)
    what, remedy = f"a margin of {asked:g} points", f"raise the margin to {least:.2f} points"
    if teacher_last:
        what, remedy = f"{100 - asked:.6g} % agreement", f"ask for {100 - least:.2f} %"
    raise NotCertifiedError(
        f"{rows:,} validation rows cannot certify {what} at {100 * level:.0f} %, even if not one agreement is lost: "
        f"that takes {needed:,} rows. Add validation rows, or {remedy}"
    )


def _answering(stages: Sequence[StageAnswers], cut_off: float) -> npt.NDArray[np.intp]:
    """Return the index [N] of the stage that answers each text. A score that equals the cut-off reaches it."""
    reached = np.stack([*(each.scores >= cut_off for each in stages[:-1]), np.ones(len(stages[0].scores), np.bool_)])
    first: npt.NDArray[np.intp] = reached.argmax(axis=0)
    return first


@lru_cache(maxsize=4096)
def p_value(losses: int, gains: int | None, rows: int, margin: float, error: float = 1 - LEVEL) -> float:
    """Return an exact p-value of the hypothesis that the share lost less the share gained is `margin` or more.

    Of `rows` independent texts the cascade lost `losses` agreements and gained `gains`; None says that it cannot gain,
    and the test is then that of Clopper and Pearson. Otherwise outcomes are ordered by

        T = (losses − gains − rows·margin) / √(losses + gains + rows·margin),

    the distance from the margin in standard errors, and the p-value is the largest probability of an outcome with a T
    as small, over all shares g of gains up to a bound that holds but for 1 % of `error`, which is added (Berger and
    Boos 1994). The share lost is then g + margin. T rises with losses and falls with gains, so within a cell of g
    the probability is at most that of its upper end for gains and its lower one for losses: no g is overlooked.
    """
    if gains is None:
        return float(binom.cdf(losses, rows, margin))
    spent = _NUISANCE * error
    highest = min(upper_bound(gains, rows, spent), (1 - margin) / 2)  # shares lost and gained sum to 1 at most
    ends = [0.0]
    while ends[-1] < highest:
        ends.append(ends[-1] + _STEP * math.sqrt(max(rows * ends[-1], rows * margin / 4, 1.0)) / rows)
    low, high = np.array(ends[:-1])[:, None], np.minimum(np.array(ends[1:]), highest)[:, None]
    # The most gains that matter: beyond them there is next to no probability, even at the highest share.
    most = int(binom.isf(_TAIL, rows, float(high[-1, 0])))
    gained = np.arange(most + 1)
    allowed = rows * margin
    lost = _most_losses((losses - gains - allowed) / math.sqrt(losses + gains + allowed), gained, allowed)
    chance = binom.pmf(gained, rows, high) * binom.cdf(lost, rows - gained, (low + margin) / (1 - high))
    return min(1.0, float(chance.sum(axis=1).max()) + spent + _TAIL)


def _most_losses(statistic: float, gained: Ints, allowed: float) -> Ints:
    """Return for each number `gained` the most losses at which T is at most `statistic`; −1 where there are none.

    With s = losses + gained + allowed, T = (s − 2·gained − 2·allowed) / √s, which is solved for √s.
    """
    root = (statistic + np.sqrt(statistic**2 + 8 * (gained + allowed))) / 2
    found = np.floor(root**2 - gained - allowed + 1e-9)
    losses: Ints = np.maximum(found, -1).astype(np.int64)
    return losses


@lru_cache(maxsize=64)
def rows_needed(margin: float, level: float = LEVEL, losses: int = 0, *, teacher_last: bool = False) -> int:
    """Return the fewest rows that certify `margin` at `level` if `losses` agreements are lost and none is gained."""

    def certify(rows: int) -> bool:
        return p_value(losses, None if teacher_last else 0, rows, margin, 1 - level) <= 1 - level

    low, high = 0, 1
    while not certify(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certify(middle) else (middle, high)
    return high


def least_margin(rows: int, level: float = LEVEL) -> float:
    """Return the least margin that `rows` certify at `level` if no agreement is lost, rounded up to 0.0001."""
    least: int = math.ceil(1e4 * (1 - ((1 - _NUISANCE) * (1 - level)) ** (1 / rows)) + 0.2)
    return least / 1e4


def margin_for(rows: int, level: float = LEVEL) -> float | None:
    """Return the smallest of `MARGINS` that `rows` certify at `level` although one agreement is lost, None if none is.

    It depends on the number of rows alone, not on what is seen in them, so that the guarantee holds for the margin that
    is chosen so.
    """
    return next((margin for margin in MARGINS if rows >= rows_needed(margin, level, losses=1)), None)
