"""`reflux anchors`: ask the teacher about the anchors of a bundle once, and say whether it still answers as it did.

For installations where no process of Reflux asks the teacher, as without shadowing; where one does, it asks by itself,
and `GET /gap` has the same. Nothing is stored, so that each time is a first contact: an anchor is asked about four
times, by which the teacher's noise is measured, and six times if it does not get its label; a constant teacher once.
Without a change the outcome is CHANGED less than once in a thousand times (`monitor.teacher_drift`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distill.progress import bar
from distill.teachers import Teacher, TeacherError
from distill.teachers.base import CONSTANT_METHODS
from export.bundle.anchors import Anchor, read_anchors
from export.bundle.ceilings import upper_bound
from export.bundle.format import Bundle
from service.monitor.teacher_drift import TeacherDrift
from service.shadow.budget import Budget
from service.shadow.errors import ShadowError
from service.shadow.outcome import Outcome
from service.shadow.settings import ShadowSettings
from service.shadow.teacher import TeacherCaller, make_teacher
from service.shadow.teacher_record import NO_LABEL

LEAST_SHARE = 0.5
"""With fewer anchors answered nothing is said, unless those that were answered changed."""

_ANSWERED = (Outcome.COMPLETED, Outcome.REFUSED, Outcome.INVALID_ANSWER)


class TeacherState(StrEnum):
    """What the anchors say of the teacher."""

    SAME = "same"
    CHANGED = "changed"
    UNKNOWN = "unknown"


EXIT_CODES = {TeacherState.SAME: 0, TeacherState.CHANGED: 2, TeacherState.UNKNOWN: 3}


@dataclass(frozen=True)
class AnchorsAnswered:
    """The outcome of asking: of `count` anchors `answered` were, and `changed` of those are not answered as recorded.

    `lower` and `upper` are the 95 % interval of the share that changed, in [0, 1] (Clopper and Pearson), for texts that
    are drawn like the anchors: as many of each label. `calls` were made, for `cost_usd`.
    """

    state: TeacherState
    teacher: str
    count: int
    answered: int
    changed: int
    lower: float
    upper: float
    calls: int
    cost_usd: float

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        told = {
            TeacherState.SAME: "nothing shows that the teacher changed",
            TeacherState.CHANGED: "the teacher is not the one that the student learned from; see docs/runbook.md",
            TeacherState.UNKNOWN: "too few anchors were answered to say; see what fails, and ask again",
        }[self.state]
        share = f"[{100 * self.lower:.1f} %, {100 * self.upper:.1f} %]" if self.answered else "unknown"
        return [
            f"{self.state.upper()}: {told}",
            f"{self.changed} of {self.answered} anchors are not answered as recorded, a share of {share}; "
            f"{self.count - self.answered} of {self.count} could not be asked about",
            f"{self.teacher}, {self.calls} calls, {self.cost_usd:.4f} USD",
        ]


def ask_anchors(bundle: Bundle, settings: ShadowSettings) -> AnchorsAnswered:
    """Ask the teacher of the settings about all anchors of a bundle, within the settings' limits.

    Raises ShadowError for a bundle without anchors, and for a teacher that is not there or has other labels.
    """
    anchors = read_anchors(bundle)
    if not anchors:
        raise ShadowError(f"{bundle.path} has no anchors to ask about; export it again")
    if settings.teacher is None:
        raise ShadowError(
            "there is no teacher to ask: set REFLUX_SHADOW__TEACHER (shadow.teacher) to the one that the student "
            'learned from, such as {"kind": "openai", "model": "gpt-4.1", "base_url": "https://api.openai.com/v1"}'
        )
    return asyncio.run(_ask_all(anchors, bundle.manifest.labels, settings))


async def _ask_all(anchors: Sequence[Anchor], labels: tuple[str, ...], settings: ShadowSettings) -> AnchorsAnswered:
    teacher = make_teacher(settings, labels)
    try:
        asking = _Asking(teacher, anchors, labels, settings)
        with bar("asking about anchors", len(anchors)) as advance:
            await asyncio.gather(*(asking.ask(at, advance) for at in range(len(anchors))))
        return asking.outcome(f"{teacher.name}@{teacher.version}")
    finally:
        await teacher.aclose()


class _Asking:
    """The calls about each anchor, one after the other, and of several anchors at once."""

    def __init__(
        self, teacher: Teacher, anchors: Sequence[Anchor], labels: tuple[str, ...], settings: ShadowSettings
    ) -> None:
        try:
            self._caller = TeacherCaller(settings, Budget(settings.usd_per_hour), teacher, labels)
        except TeacherError as error:
            raise ShadowError(f"shadow.teacher: {error}") from error
        self._anchors = anchors
        self._drift = TeacherDrift([labels.index(anchor.label) for anchor in anchors])
        # What a call costs is known after it, so that few are made at once.
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._calls, self._cost_usd = 0, 0.0

    async def ask(self, at: int, advance: Callable[[int], None]) -> None:
        """Ask about an anchor as often as its answers demand, or until a call fails."""
        async with self._slots:
            await self._ask(at)
        advance(1)

    async def _ask(self, at: int) -> None:
        draw, again = 0, True
        while again:
            draw += 1
            await asyncio.sleep(self._caller.hold_seconds)  # as the teacher's server asked, a minute at most
            reserved = self._caller.budget.reserve()
            if reserved is None:
                return
            result = await self._caller.ask(self._anchors[at].text, draw)
            self._caller.settle(reserved, result)
            self._calls += 1
            self._cost_usd += result.cost_usd or 0.0
            if result.outcome not in _ANSWERED:
                return
            if result.method:
                self._drift.constant = result.method in CONSTANT_METHODS
            label = NO_LABEL if result.probabilities is None else int(result.probabilities.argmax())
            again = self._drift.add(at, label)

    def outcome(self, teacher: str) -> AnchorsAnswered:
        """Return what the answers say."""
        drift, count = self._drift, len(self._anchors)
        met, changed = drift.met, drift.changed_at_first
        state = TeacherState.SAME if met >= LEAST_SHARE * count else TeacherState.UNKNOWN
        return AnchorsAnswered(
            state=TeacherState.CHANGED if drift.drifts else state,
            teacher=teacher,
            count=count,
            answered=met,
            changed=changed,
            lower=1.0 - upper_bound(met - changed, met, 0.025) if met else 0.0,
            upper=upper_bound(changed, met, 0.025) if met else 1.0,
            calls=self._calls,
            cost_usd=self._cost_usd,
        )
