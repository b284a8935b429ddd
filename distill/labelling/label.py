"""Run a teacher over a pool. An answer is on disk before anything uses it, so nothing is ever asked, or paid, twice.

The store outlives the stage that fills it: a changed pool asks only for the texts that are new.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from distill.data.splits import Examples
from distill.errors import DistillError
from distill.labelling import account
from distill.labelling.soft_labels import SoftLabels
from distill.labelling.sqlite_store import Statement, Store
from distill.stages import fingerprint
from distill.teachers import Answer, Teacher, TeacherError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  teacher TEXT NOT NULL, text TEXT NOT NULL, probabilities BLOB, method TEXT NOT NULL, covered REAL NOT NULL,
  tail REAL NOT NULL, tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, seconds REAL NOT NULL, outcome TEXT NOT NULL,
  PRIMARY KEY (teacher, text)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rejections (
  teacher TEXT NOT NULL, text TEXT NOT NULL, said TEXT NOT NULL, PRIMARY KEY (teacher, text)
) WITHOUT ROWID;
"""
_VERSION = 1
MOST_ALIKE = 20
"""Texts that may be rejected in the same words one after the other before it is taken to be for something else."""

_DIGITS = re.compile(r"\d+")
_NAMED = 10  # rows without a label that are named
_WINDOW = 32  # batches, for each that may be asked at once, that are ordered by length together


class AnswerStore(Store):
    """Answers on disk, by teacher and text, and the run's account. One process opens it at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA + account.SCHEMA, _VERSION)
        self._known_key: tuple[object, str] = (None, "")

    async def add(self, teacher: Teacher, texts: Sequence[str], answers: Sequence[Answer], repeat: int = 0) -> None:
        """Store answers durably. Raises DistillError when the disk does not take them."""
        key = self._key(teacher, repeat)
        statements: list[Statement] = []
        for text, answer in zip(texts, answers, strict=True):
            row = (key, text_key(text), *_pack(answer))
            statements.append(("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?,?,?)", row))
            if answer.said and answer.outcome != "ok":
                statements.append(("INSERT OR REPLACE INTO rejections VALUES (?,?,?)", (*row[:2], answer.said)))
        await self.write(*statements)

    def has(self, teacher: Teacher, text: str, repeat: int = 0) -> bool:
        """Whether this teacher has answered this text."""
        sql = "SELECT 1 FROM answers WHERE teacher = ? AND text = ?"
        return bool(self.read(sql, (self._key(teacher, repeat), text_key(text))))

    def get(self, teacher: Teacher, texts: Iterable[str], repeat: int = 0) -> Iterator[Answer | None]:
        """Each text's stored answer, or None."""
        sql = (
            "SELECT probabilities, method, covered, tail, tokens, cost_usd, seconds, outcome FROM answers"
            " WHERE teacher = ? AND text = ?"
        )
        key = self._key(teacher, repeat)
        for text in texts:
            rows = self.read(sql, (key, text_key(text)))
            yield _unpack(rows[0]) if rows else None

    def said(self, teacher: Teacher, text: str) -> str:
        """What the server said that would not take this text; nothing where it said nothing."""
        sql = "SELECT said FROM rejections WHERE teacher = ? AND text = ?"
        rows = self.read(sql, (self._key(teacher, 0), text_key(text)))
        return str(rows[0][0]) if rows else ""

    def _key(self, teacher: Teacher, repeat: int) -> str:
        """The teacher's key, which takes time to compute and is asked for with every text."""
        identity = (teacher.name, teacher.version, teacher.labels, repeat)
        if self._known_key[0] != identity:
            self._known_key = (identity, teacher_key(teacher, repeat))
        return self._known_key[1]


@dataclass(frozen=True, slots=True)
class Labelling:
    """What came of labelling a pool: the soft labels, and how many texts got none and why.

    `unlabelled` says so row by row, of the first few.
    """

    soft: SoftLabels
    asked: int
    refused: int
    invalid: int
    unlabelled: tuple[str, ...] = ()


class Engine(Protocol):
    """Has a teacher asked for every text that the store lacks, as `answer` does in this process."""

    async def __call__(
        self,
        teacher: Teacher,
        texts: Iterable[str],
        store: AnswerStore,
        *,
        repeat: int = 0,
        advance: Callable[[int], None] = lambda count: None,
        known: Callable[[int], None] | None = None,
    ) -> int:
        """Give how many texts were asked for."""


async def label(
    teacher: Teacher,
    examples: Examples,
    store: AnswerStore,
    *,
    advance: Callable[[int], None] = lambda count: None,
    known: Callable[[int], None] | None = None,
    engine: Engine | None = None,
) -> Labelling:
    """Have the teacher asked for every text that the store lacks, and give the soft labels of all."""
    with naming_rows(examples):
        asked = await (engine or answer)(teacher, examples.texts, store, advance=advance, known=known)
    return _collect(teacher, examples, store, asked)


async def answer(
    teacher: Teacher,
    texts: Iterable[str],
    store: AnswerStore,
    *,
    repeat: int = 0,
    advance: Callable[[int], None] = lambda count: None,
    known: Callable[[int], None] | None = None,
) -> int:
    """Ask the teacher for every text that the store lacks, and give how many were asked for.

    Texts are taken as they are asked for, so that a pool of any size takes the memory of what is in flight. `advance`
    is told how many texts each step finished; `known`, where it is given, of those that need not be asked for instead.
    When the teacher fails, or this is cancelled, the answers in flight are waited for and stored; cancelled once more,
    they are given up. A teacher that has a `stop` is told then to begin no further call.
    """
    flying: set[str] = set()
    batches = _batches(teacher, texts, store, repeat, flying, known or advance)
    keeper = Keeper(teacher, store, repeat)
    stopped = asyncio.Event()
    failures: list[BaseException] = []
    asked = 0

    def stop() -> None:
        stopped.set()
        getattr(teacher, "stop", lambda: None)()  # else calls that a server keeps waiting would be waited for

    async def work() -> None:
        nonlocal asked
        try:
            for batch in batches:
                if stopped.is_set():
                    return
                await keeper.keep(batch, await teacher.ask(batch, repeat))
                flying.difference_update(batch)
                asked += len(batch)
                advance(len(batch))
        except BaseException as error:
            failures.append(error)
            stop()

    workers = [asyncio.create_task(work()) for _ in range(teacher.concurrency)]
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError:
        stop()
        await _until_done(workers)
        raise
    if failures:
        raise failures[0]
    await keeper.finish()
    return asked


class Keeper:
    """Stores what a teacher answers to texts, in which what is no label is invalid.

    A rejection that may not be for the text is held back until another text is answered, or the last one is.
    """

    def __init__(self, teacher: Teacher, store: AnswerStore, repeat: int = 0) -> None:
        self._teacher = teacher
        self._store = store
        self._repeat = repeat
        self._held: list[tuple[str, Answer]] = []

    async def keep(self, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Store answers, or hold them back.

        Raises DistillError when the answers are not as many as the texts, or the disk does not take them, and
        TeacherError when so many texts in a row were rejected alike that it is not for them.
        """
        if len(answers) != len(texts):
            raise DistillError(f"{self._teacher.name} gave {len(answers)} answers for {len(texts)} texts")
        checked = [(text, _checked(one, self._teacher)) for text, one in zip(texts, answers, strict=True)]
        self._held += [one for one in checked if one[1].doubtful]
        sure = [one for one in checked if not one[1].doubtful]
        if any(answer.outcome == "ok" for _, answer in sure):
            sure, self._held = [*self._held, *sure], []
        await self._add(sure)
        alike = Counter(_DIGITS.sub("", answer.said) for _, answer in self._held)
        if self._held and max(alike.values()) >= MOST_ALIKE:
            text, last = self._held[-1]
            raise TeacherError(
                f"{self._teacher.name} rejected {len(self._held)} texts one after the other, and said: {last.said}. "
                "Nothing is stored of that: correct the teacher, or leave these texts out, and run the command again",
                text=text,
            )

    async def finish(self) -> None:
        """Store what was held back. Raises DistillError when the disk does not take it."""
        held, self._held = self._held, []
        await self._add(held)

    async def _add(self, answered: Sequence[tuple[str, Answer]]) -> None:
        if answered:
            texts, answers = zip(*answered, strict=True)
            await self._store.add(self._teacher, texts, answers, self._repeat)


@contextmanager
def naming_rows(examples: Examples) -> Iterator[None]:
    """Has a TeacherError that is about a text say which row of `examples` that is."""
    try:
        yield
    except TeacherError as error:
        if error.text is not None:
            rows = zip(examples.ids, examples.texts, strict=True)
            if row := next((name for name, text in rows if text == error.text), ""):
                error.args = (f"{row}: {error}",)
        raise


async def _until_done(workers: Sequence[asyncio.Task[None]]) -> None:
    """Wait for workers; where that is cancelled too, cancel them."""
    try:
        await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()


def _batches(
    teacher: Teacher,
    texts: Iterable[str],
    store: AnswerStore,
    repeat: int,
    flying: set[str],
    known: Callable[[int], None],
) -> Iterator[Sequence[str]]:
    """What to ask at once: texts that the store lacks and nobody is asking for, those of like length together.

    The longest come first, so that a progress bar is pessimistic.
    """
    source = iter(texts)
    while window := tuple(islice(source, _WINDOW * teacher.batch_size * teacher.concurrency)):
        new = [text for text in dict.fromkeys(window) if text not in flying and not store.has(teacher, text, repeat)]
        if len(new) < len(window):
            known(len(window) - len(new))
        new.sort(key=len, reverse=True)
        flying.update(new)
        for start in range(0, len(new), teacher.batch_size):
            yield new[start : start + teacher.batch_size]


def text_key(text: str) -> str:
    """A text's key in the store."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def teacher_key(teacher: Teacher, repeat: int = 0) -> str:
    """What determines a teacher's answers."""
    return fingerprint([teacher.name, teacher.version, list(teacher.labels), *([repeat] if repeat else [])])


def _checked(answer: Answer, teacher: Teacher) -> Answer:
    """The answer, unless what it holds is no distribution over the labels: that one is invalid, never a label."""
    if answer.outcome != "ok":
        return answer
    row = answer.probabilities
    if row is not None and row.shape == (len(teacher.labels),) and bool((row >= 0).all()) and abs(row.sum() - 1) < 1e-3:
        return answer
    return Answer(
        None, answer.method, answer.covered, answer.tail, answer.tokens, answer.cost_usd, answer.seconds, "invalid"
    )


def _collect(teacher: Teacher, examples: Examples, store: AnswerStore, asked: int) -> Labelling:
    counts = {"ok": 0, "refused": 0, "invalid": 0}
    rows: list[int] = []
    answers: list[Answer] = []
    unlabelled: list[str] = []
    for row, answer in enumerate(store.get(teacher, examples.texts)):
        if answer is None:
            raise DistillError(f"{teacher.name} left a text without an answer; run the command again")
        counts[answer.outcome] += 1
        if answer.outcome == "ok":
            rows.append(row)
            answers.append(answer)
        elif len(unlabelled) < _NAMED:
            said = store.said(teacher, examples.texts[row])
            unlabelled.append(f"{examples.ids[row]} {answer.outcome}{f': {said}' if said else ''}")
    if not rows:
        raise DistillError(
            f"{teacher.name} answered none of {len(examples)} texts with a label ({counts}), such as {unlabelled[0]}"
        )
    kept = examples.take(rows)
    soft = SoftLabels(
        ids=kept.ids,
        texts=kept.texts,
        labels=teacher.labels,
        probabilities=np.stack([answer.probabilities for answer in answers if answer.probabilities is not None]),
        methods=tuple(answer.method for answer in answers),
        covered=np.array([answer.covered for answer in answers]),
        tail=np.array([answer.tail for answer in answers]),
        tokens=np.array([answer.tokens for answer in answers], dtype=np.int64),
        cost_usd=np.array([answer.cost_usd for answer in answers]),
        seconds=np.array([answer.seconds for answer in answers]),
        teacher=teacher.name,
        teacher_version=teacher.version,
    )
    return Labelling(soft, asked, counts["refused"], counts["invalid"], tuple(unlabelled))


def _pack(answer: Answer) -> tuple[object, ...]:
    blob = None if answer.probabilities is None else answer.probabilities.astype("<f4").tobytes()
    return (
        blob,
        answer.method,
        answer.covered,
        answer.tail,
        answer.tokens,
        answer.cost_usd,
        answer.seconds,
        answer.outcome,
    )


def _unpack(row: tuple[object, ...]) -> Answer:
    blob, *rest = row
    probabilities = np.frombuffer(blob, dtype="<f4") if isinstance(blob, bytes) else None
    return Answer(probabilities, *rest)  # type: ignore[arg-type]
