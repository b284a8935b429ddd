"""A teacher's answers on disk, by teacher and text. They outlive the stage that fills the store.

An answer is stored before anything uses it, so that no text is asked about, or paid for, twice: a changed pool asks
about its new texts only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.labelling import account
from distill.labelling.sqlite_store import Statement, Store
from distill.stages import fingerprint
from distill.teachers import Answer, Teacher

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
_COLUMNS = ("method", "covered", "tail", "tokens", "cost_usd", "seconds", "outcome")  # in the order of Answer's fields


class AnswerStore(Store):
    """The answers and the account of a run, in one file that one process opens at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA + account.SCHEMA, _VERSION)
        self._known_key: tuple[object, str] = (None, "")

    async def add(self, teacher: Teacher, texts: Sequence[str], answers: Sequence[Answer], repeat: int = 0) -> None:
        """Store the answers to `texts` durably. Raises DistillError when the disk does not take them."""
        key = self._key(teacher, repeat)
        statements: list[Statement] = []
        for text, answer in zip(texts, answers, strict=True):
            blob = None if answer.probabilities is None else answer.probabilities.astype("<f4").tobytes()
            row = (key, text_key(text), blob, *(getattr(answer, name) for name in _COLUMNS))
            statements.append(("INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,?,?,?,?)", row))
            if answer.reason and answer.outcome != "ok":
                said = answer.reason.encode("utf-8", "replace").decode()  # may hold half a surrogate pair
                statements.append(("INSERT OR REPLACE INTO rejections VALUES (?,?,?)", (*row[:2], said)))
        await self.write(*statements)

    def has(self, teacher: Teacher, text: str, repeat: int = 0) -> bool:
        """Whether the teacher's answer to a text is stored."""
        sql = "SELECT 1 FROM answers WHERE teacher = ? AND text = ?"
        return bool(self.read(sql, (self._key(teacher, repeat), text_key(text))))

    def get(self, teacher: Teacher, texts: Iterable[str], repeat: int = 0) -> Iterator[Answer | None]:
        """Yield each text's stored answer, or None."""
        sql = f"SELECT probabilities, {', '.join(_COLUMNS)} FROM answers WHERE teacher = ? AND text = ?"
        key = self._key(teacher, repeat)
        for text in texts:
            answer = None
            for blob, *rest in self.read(sql, (key, text_key(text))):
                answer = Answer(None if blob is None else np.frombuffer(blob, dtype="<f4"), *rest)
            yield answer

    def rejection(self, teacher: Teacher, text: str) -> str:
        """The server's message when it rejected a text, or an empty string."""
        sql = "SELECT said FROM rejections WHERE teacher = ? AND text = ?"
        rows = self.read(sql, (self._key(teacher, 0), text_key(text)))
        return str(rows[0][0]) if rows else ""

    def _key(self, teacher: Teacher, repeat: int) -> str:
        """The teacher's key, cached because it is slow to compute and every text needs it."""
        identity = (teacher.name, teacher.version, teacher.labels, repeat)
        if self._known_key[0] != identity:
            self._known_key = (identity, teacher_key(teacher, repeat))
        return self._known_key[1]


def text_key(text: str) -> str:
    """A text's key in the store."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def teacher_key(teacher: Teacher, repeat: int = 0) -> str:
    """A fingerprint of what determines a teacher's answers: its name, version and labels, and which draw it is."""
    return fingerprint([teacher.name, teacher.version, list(teacher.labels), *([repeat] if repeat else [])])
