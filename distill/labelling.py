"""Run a teacher over a pool. An answer is on disk before anything uses it, so nothing is ever asked, or paid, twice.

The store outlives the stage that fills it: a changed pool asks only for the texts that are new.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from distill.artifacts import fingerprint
from distill.data.splits import Examples
from distill.errors import DistillError
from distill.soft_labels import SoftLabels
from distill.teachers import Answer, Teacher

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  teacher TEXT NOT NULL, text TEXT NOT NULL, probabilities BLOB, method TEXT NOT NULL, covered REAL NOT NULL,
  tail REAL NOT NULL, tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, seconds REAL NOT NULL, outcome TEXT NOT NULL,
  PRIMARY KEY (teacher, text)
) WITHOUT ROWID
"""


class AnswerStore:
    """Answers on disk, by teacher and text. One process writes at a time."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise DistillError(f"{path}: the store of answers cannot be opened ({error}); move it away") from error
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def known(self, teacher: Teacher) -> set[str]:
        """The keys of the texts that this teacher has answered."""
        rows = self._connection.execute("SELECT text FROM answers WHERE teacher = ?", (teacher_key(teacher),))
        return {key for (key,) in rows}

    def add(self, teacher: Teacher, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        """Store answers durably. Raises DistillError when the disk does not take them."""
        key = teacher_key(teacher)
        rows = [(key, text_key(text), *_pack(answer)) for text, answer in zip(texts, answers, strict=True)]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise DistillError(
                f"{self._path}: {len(rows)} answers could not be stored ({error}); make room and run the command again"
            ) from error

    def get(self, teacher: Teacher, texts: Sequence[str]) -> Iterator[Answer | None]:
        """Each text's stored answer, or None."""
        key = teacher_key(teacher)
        with closing(self._connection.cursor()) as cursor:
            for text in texts:
                row = cursor.execute(
                    "SELECT probabilities, method, covered, tail, tokens, cost_usd, seconds, outcome FROM answers"
                    " WHERE teacher = ? AND text = ?",
                    (key, text_key(text)),
                ).fetchone()
                yield None if row is None else _unpack(row)


@dataclass(frozen=True, slots=True)
class Labelling:
    """What came of labelling a pool: the soft labels, and how many texts got none and why."""

    soft: SoftLabels
    asked: int
    refused: int
    invalid: int


async def label(
    teacher: Teacher,
    examples: Examples,
    store: AnswerStore,
    *,
    advance: Callable[[int], None] = lambda count: None,
) -> Labelling:
    """Ask the teacher for every text that the store lacks, and give the soft labels of all.

    `advance` is told how many texts each step finished. When the teacher fails, the answers in flight are stored
    before its error is raised.
    """
    known = store.known(teacher)
    distinct = dict.fromkeys(text for text in examples.texts if text_key(text) not in known)
    # Texts of like length share a batch, and the longest come first, so that a progress bar is pessimistic.
    pending = sorted(distinct, key=len, reverse=True)
    advance(len(examples) - len(pending))
    batches = iter([pending[i : i + teacher.batch_size] for i in range(0, len(pending), teacher.batch_size)])
    failed = asyncio.Event()

    async def work() -> None:
        for batch in batches:
            if failed.is_set():
                return
            try:
                answers = await teacher.ask(batch)
                if len(answers) != len(batch):
                    raise DistillError(f"{teacher.name} gave {len(answers)} answers for {len(batch)} texts")
                store.add(teacher, batch, [_checked(answer, teacher) for answer in answers])
            except BaseException:
                failed.set()
                raise
            advance(len(batch))

    outcomes = await asyncio.gather(*(work() for _ in range(teacher.concurrency)), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return _collect(teacher, examples, store, asked=len(pending))


def text_key(text: str) -> str:
    """A text's key in the store."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def teacher_key(teacher: Teacher) -> str:
    """What determines a teacher's answers."""
    return fingerprint([teacher.name, teacher.version, list(teacher.labels)])


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
    for row, answer in enumerate(store.get(teacher, examples.texts)):
        if answer is None:
            raise DistillError(f"{teacher.name} left a text without an answer; run the command again")
        counts[answer.outcome] += 1
        if answer.outcome == "ok":
            rows.append(row)
            answers.append(answer)
    if not rows:
        raise DistillError(f"{teacher.name} answered none of {len(examples)} texts with a label ({counts})")
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
    return Labelling(soft, asked, counts["refused"], counts["invalid"])


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
