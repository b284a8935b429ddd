"""The verdict on a student in production: stay, watch, leave or blind, with the reason and what to do next.

A pure function of what was measured. It decides nothing by intervals, which err when they are read again and again, but
by e-values, which may be read at any time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from service.monitor.blindness import ENOUGH, reasons
from service.monitor.evalues import LOG_PAGE, LOG_TICKET
from service.monitor.findings import Findings
from service.monitor.windows import DAY, SINCE, Window
from service.monitor.wording import gap_of, percent, rounded, when

LOG_CERTAIN = math.log(20)
"""The student is certified when the e-value for "the gap is below the SLO" reaches 20 : 1."""

MANY_PENDING = 0.05
"""As many pending comparisons, as a share of the ended ones, explain a missing certificate better than too few."""


class Verdict(StrEnum):
    """Whether the student may serve: `STAY`; `WATCH`, look at it; `LEAVE`, take it out; `BLIND`, nobody knows."""

    STAY = "stay"
    WATCH = "watch"
    LEAVE = "leave"
    BLIND = "blind"

    @property
    def code(self) -> int:
        """The number of the verdict in metrics and exit codes: 0 stay, 1 watch, 2 leave, 3 blind."""
        return list(Verdict).index(self)


class Cause(StrEnum):
    """What made the gap rise: other inputs, another teacher, or else the student."""

    INPUT = "input"
    STUDENT = "student"
    TEACHER = "teacher"


@dataclass(frozen=True)
class Judgement:
    """A verdict, with one sentence that says why and what to do next, and its `cause` if something rose or changed.

    Another sentence follows if the model behind the teacher has changed lately.
    `blind` holds all reasons for being blind, the first of which is the message.
    """

    verdict: Verdict
    message: str
    cause: Cause | None = None
    blind: tuple[str, ...] = ()


def judge(found: Findings) -> Judgement:
    """Return the verdict. A student that must leave is not saved by blindness, nor blindness by a certificate."""
    judgement = _judge(found)
    if found.model_change is None:
        return judgement
    return replace(judgement, message=f"{judgement.message} {found.model_change}")


def _judge(found: Findings) -> Judgement:
    if _still_out(found) or found.log_evalue >= LOG_PAGE or found.edetector >= found.edetector_at:
        cause = _cause(found)
        return Judgement(Verdict.LEAVE, f"{_exceeded(found)}; {_REMEDY[cause]}.", cause)
    if blind := reasons(found):
        return Judgement(Verdict.BLIND, blind[0], blind=tuple(blind))
    suspicious = found.log_evalue >= LOG_TICKET
    if suspicious or found.input_drift or found.teacher_drift:
        cause = _cause(found)
        return Judgement(Verdict.WATCH, _suspicion(found, cause, suspicious), cause)
    if found.log_certify < LOG_CERTAIN:
        return Judgement(Verdict.WATCH, _uncertified(found))
    return Judgement(
        Verdict.STAY,
        f"The gap is {gap_of(found.windows[SINCE])} since deployment, below the SLO of {percent(found.slo)} at odds of "
        "more than 20 to 1; the student may stay.",
    )


def _still_out(found: Findings) -> bool:
    """Return whether a student that had to leave must stay out: its last day is bad, or the evidence is strong.

    Evidence leaves short windows before it has grown in long ones, so a fall of it alone is no all-clear.
    """
    day = found.windows[DAY].estimate
    return found.left and (found.log_evalue >= LOG_TICKET or (day is not None and day.gap > found.slo))


_REMEDY = {
    Cause.INPUT: "the inputs have changed, so put the last good bundle back or send such texts to the teacher, and "
    "distil again with recent texts",
    Cause.TEACHER: "the teacher answers differently than before, so check which model answers before you touch the "
    "student",
    Cause.STUDENT: "no change of inputs or teacher is known, so put the last good bundle back, read the newest "
    "disagreements, and distil again",
}


def _cause(found: Findings) -> Cause:
    if found.teacher_drift:
        return Cause.TEACHER
    return Cause.INPUT if found.input_drift else Cause.STUDENT


def _worst(found: Findings) -> Window:
    """Return the window with the most evidence."""
    return max(found.windows.values(), key=lambda window: window.log_evalue)


def _exceeded(found: Findings) -> str:
    """Say what exceeds its limit, and where."""
    worst = _worst(found)
    if found.log_evalue < LOG_TICKET and found.edetector < found.edetector_at:
        day = found.windows[DAY]
        return f"The gap was above the SLO of {percent(found.slo)} beyond doubt, and is {gap_of(day)} {when(day)}"
    if found.log_evalue < LOG_TICKET:
        return (
            "Some answers are wrong more often than their confidence allows, by the evidence since deployment "
            f"({found.edetector:.2g}, limit {found.edetector_at:.2g})"
        )
    if worst.log_evalue_bands > worst.log_evalue_gap:
        return (
            f"Answers in at least one confidence band are wrong more often than its ceiling allows {when(worst)}; the "
            f"gap is {gap_of(worst)}"
        )
    doubt = "beyond doubt" if found.log_evalue >= LOG_PAGE else "in all likelihood, as before"
    return f"The gap is {gap_of(worst)} {when(worst)}, above the SLO of {percent(found.slo)} {doubt}"


def _suspicion(found: Findings, cause: Cause, suspicious: bool) -> str:
    if suspicious:
        return (
            f"The gap is {gap_of(_worst(found))} {when(_worst(found))}, probably above what was promised (SLO "
            f"{percent(found.slo)}); {_WATCHED[cause]}."
        )
    return f"{found.teacher_drift or found.input_drift}; {_WATCHED[cause]}."


_WATCHED = {
    Cause.INPUT: "read the newest disagreements and label some of the new texts before the gap rises",
    Cause.TEACHER: "check which model answers, and pin its version",
    Cause.STUDENT: "read the newest disagreements and have a bundle ready that can replace it",
}


def _uncertified(found: Findings) -> str:
    since = found.windows[SINCE]
    if since.estimate is None and since.compared:
        return (
            f"The {since.compared:.0f} texts that this teacher was asked about were sampled for another one, which "
            "does not tell the gap; wait for new requests."
        )
    if since.estimate is None:
        return "No text has been compared with this teacher yet; wait, and if this lasts, see outcomes and queue."
    told = (
        f"The gap is {gap_of(since)} by {since.compared:.0f} comparisons, which does not yet show that it is below the "
        f"SLO of {percent(found.slo)}"
    )
    pending = since.sampled - since.lost - since.compared
    if pending > MANY_PENDING * since.compared:
        return (
            f"{told} while {pending:.0f} texts wait for the teacher, because they could all be disagreements; wait for "
            "them, or raise shadow.concurrency."
        )
    # Evidence grows in proportion to the comparisons while nothing changes.
    if found.log_certify > 0.5 and since.compared >= ENOUGH:
        missing = since.compared * (LOG_CERTAIN / found.log_certify - 1.0)
        return f"{told}; wait for about {max(rounded(missing), 10)} more, or raise shadow.rate."
    return f"{told}; wait for more, or raise shadow.rate."
