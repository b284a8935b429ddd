"""Where a live count belongs: its cell, its pair of classes, and the longer slots that old ones are folded into."""

from __future__ import annotations

from typing import NamedTuple

from service.monitor.cells import SLOT_SECONDS

HOUR, DAY = 3600, 86400


class Key(NamedTuple):
    """What tells cells apart: the start of a slot in Unix seconds, a band, and a propensity."""

    slot: int
    band: int
    propensity: float


class Pair(NamedTuple):
    """What tells tallies of classes apart; `hour` is the start of an hour, later of a day, in Unix seconds.

    The classes are positions in the bundle's labels: the student's, and the teacher's.
    """

    hour: int
    band: int
    propensity: float
    student_class: int
    teacher_class: int


def slot_of(time: float) -> int:
    """Return the start of the slot that `time` is in, both in Unix seconds; 0 for a clock before 1970."""
    return max(int(time // SLOT_SECONDS) * SLOT_SECONDS, 0)


def hour_of(time: float) -> int:
    """Return the start of the hour that `time` is in, both in Unix seconds."""
    return int(time // HOUR) * HOUR


def future(hour: int) -> int:
    """Return from when on slots cannot be of this time, during the hour that starts at `hour`.

    A clock that was ahead may have left them: they belong to no window but that since deployment. They stay as they
    are where they are kept, because it may as well be the clock of now that is wrong.
    """
    return hour + 2 * HOUR


def folded(slot: int, hour: int, length: int = HOUR) -> int:
    """Return where the counts of `slot` are kept during the hour that starts at `hour`.

    For a day they stay in their slot, for a week more in a slot of `length` seconds, and then in slot 0.
    """
    if slot < hour - 8 * DAY:
        return 0
    return slot // length * length if slot < hour - DAY else slot
