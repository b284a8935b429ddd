"""The rows of the outbox in memory: one sampled text with the student's answer, and later the teacher's."""

from __future__ import annotations

import sys
from typing import NamedTuple

from distill.teachers.names import Name
from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.outcome import Outcome
from service.shadow.slots import Key, Pair, slot_of
from service.shadow.totals import Floats


class TeacherIdentity(NamedTuple):
    """Name and version of a teacher, and `origin`: those of the teacher that it was exported from, or its own again.

    A student's manifest may name either.
    """

    name: str
    version: str
    origin: Name

    @property
    def key(self) -> str:
        """What tells its answers from those of others: `name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def names(self) -> tuple[Name, Name]:
        """Its own name and that of its origin, each with the version."""
        return (self.name, self.version), self.origin


class Sample(NamedTuple):
    """A sampled text in memory, not yet redacted, with the student's answer.

    `id` is unique and increases within a process. The text was answered at `time` (Unix seconds), which is `since` on
    the monotonic clock. `probabilities` are the bytes of float32 [K]. `novel` is whether the text is unlike the
    training texts, None if the bundle's decision does not ask.
    """

    id: str
    time: float
    since: float
    text: str
    probabilities: bytes
    band: int
    propensity: float
    novel: bool | None = None

    @property
    def size(self) -> int:
        """Approximate memory use in bytes."""
        return sys.getsizeof(self.text) + len(self.probabilities)

    @property
    def key(self) -> Key:
        """The cell that the text is counted in."""
        return Key(slot_of(self.time), self.band, self.propensity)


class OutboxRow(NamedTuple):
    """A sample as it is inserted into the outbox: its text is redacted and its split is chosen."""

    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float
    split: str
    novel: bool | None = None

    @property
    def key(self) -> Key:
        """The cell that the row is counted in."""
        return Key(slot_of(self.time), self.band, self.propensity)


class PendingRow(NamedTuple):
    """A row of the outbox that has no outcome yet."""

    seq: int
    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float
    novel: bool | None = None

    @property
    def key(self) -> Key:
        """The cell that the row is counted in."""
        return Key(slot_of(self.time), self.band, self.propensity)


class DisagreementRow(NamedTuple):
    """A comparison in which the teacher chose another class than the student.

    `text` is None if texts are not kept. `probabilities` and `answer` are the bytes of float32 [K], of the student and
    of the teacher. The classes are None in rows of schema 1.
    """

    time: float
    text: str | None
    probabilities: bytes
    answer: bytes
    student_class: int | None
    teacher_class: int | None
    band: int


class RowResult(NamedTuple):
    """What is stored for a row at its end: the outcome, and the teacher's answer with its comparison if there is one.

    `answered` is in Unix seconds, `answer` the bytes of float32 [K], `seconds` the duration of the call. `model` and
    `fingerprint` are as the teacher's responses state them.
    """

    outcome: Outcome
    answered: float
    answer: bytes | None = None
    method: str | None = None
    comparison: Comparison | None = None
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    model: str | None = None
    fingerprint: str | None = None


class Restored(NamedTuple):
    """What an outbox has of earlier processes.

    `tallies` and `pairs` are as `History.load` takes them, `pending` the cells of pending rows. `ceilings` [B] were set
    since the bundle's, each from a time on (Unix seconds). `detector` includes all comparisons, of which the last was
    answered at `last` (Unix seconds, None without one). `left` is since when the student must leave, None if it need
    not.
    """

    tallies: list[tuple[float, ...]]
    pairs: list[tuple[Pair, int]]
    pending: list[Key]
    ceilings: list[tuple[float, Floats]]
    detector: EDetector
    last: float | None
    left: float | None = None
