"""What the outbox has about the teacher itself: models that answered, answers to anchors, and texts asked twice.

Everything happens within a caller's transaction. None of this enters the counts of the gap.
"""

from __future__ import annotations

from typing import NamedTuple

from service.shadow.outbox.sql import Connection

TABLES = (
    """
    CREATE TABLE models (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        model TEXT NOT NULL,               -- as responses state it; empty if they do not
        fingerprint TEXT NOT NULL,
        first REAL NOT NULL,               -- Unix seconds
        last REAL NOT NULL,
        calls INTEGER NOT NULL,
        PRIMARY KEY (bundle, teacher, model, fingerprint)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE anchors (
        seq INTEGER PRIMARY KEY,
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        anchor INTEGER NOT NULL,           -- its position in the bundle's anchors.jsonl
        time REAL NOT NULL,                -- Unix seconds
        class INTEGER,                     -- the position of a label; NULL for an answer without one
        method TEXT,
        cost_usd REAL NOT NULL,
        model TEXT,
        fingerprint TEXT
    )
    """,
    """
    CREATE TABLE repeats (
        seq INTEGER PRIMARY KEY,
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        id TEXT NOT NULL,                  -- of the row whose text was asked twice
        time REAL NOT NULL,                -- Unix seconds
        first INTEGER NOT NULL,            -- classes of the two answers; the second may have none
        second INTEGER,
        cost_usd REAL NOT NULL,
        model TEXT,
        fingerprint TEXT
    )
    """,
)


class AnchorAnswer(NamedTuple):
    """An answer to an anchor, at `time` in Unix seconds; `label` is a position, None for an answer without one."""

    anchor: int
    time: float
    label: int | None
    method: str | None
    cost_usd: float
    model: str | None
    fingerprint: str | None


class Repeat(NamedTuple):
    """Two answers to the text of the row `id`, by the positions of their labels; the cost is that of the second."""

    id: str
    time: float
    first: int
    second: int | None
    cost_usd: float
    model: str | None
    fingerprint: str | None


class ModelCalls(NamedTuple):
    """A model and a fingerprint, empty where responses state none, with their first and last call in Unix seconds."""

    model: str
    fingerprint: str
    first: float
    last: float
    calls: int


class StoredChecks(NamedTuple):
    """The answers to anchors as they came, the pairs of classes of repeats, what both cost, and the models."""

    anchors: list[AnchorAnswer]
    repeats: list[tuple[int, int | None]]
    cost_usd: float
    models: list[ModelCalls]


class Checks:
    """Reads and writes the tables of one bundle version and one teacher."""

    def __init__(self, bundle: str, teacher: str) -> None:
        self._owner = (bundle, teacher)

    def count_model(self, connection: Connection, model: str | None, fingerprint: str | None, at: float) -> None:
        """Count an answer at the Unix time `at`, if its responses state a model or a fingerprint."""
        if model or fingerprint:
            connection.execute(
                "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, 1)"
                " ON CONFLICT (bundle, teacher, model, fingerprint) DO UPDATE SET calls = models.calls + 1,"
                " last = CASE WHEN excluded.last > models.last THEN excluded.last ELSE models.last END",
                (*self._owner, model or "", fingerprint or "", at, at),
            )

    def add_anchor(self, connection: Connection, answer: AnchorAnswer) -> None:
        """Store an answer to an anchor."""
        connection.execute(
            "INSERT INTO anchors (bundle, teacher, anchor, time, class, method, cost_usd, model, fingerprint)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._owner, *answer),
        )
        self.count_model(connection, answer.model, answer.fingerprint, answer.time)

    def add_repeat(self, connection: Connection, repeat: Repeat) -> None:
        """Store the second answer to a text."""
        connection.execute(
            "INSERT INTO repeats (bundle, teacher, id, time, first, second, cost_usd, model, fingerprint)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._owner, *repeat),
        )
        self.count_model(connection, repeat.model, repeat.fingerprint, repeat.time)

    def load(self, connection: Connection) -> StoredChecks:
        """Return all of it."""
        mine = " WHERE bundle = ? AND teacher = ?"
        anchors = connection.execute(
            f"SELECT anchor, time, class, method, cost_usd, model, fingerprint FROM anchors{mine} ORDER BY seq",
            self._owner,
        ).fetchall()
        repeats = connection.execute(f"SELECT first, second, cost_usd FROM repeats{mine}", self._owner).fetchall()
        answers = [AnchorAnswer(*row) for row in anchors]
        cost_usd = sum(answer.cost_usd for answer in answers) + sum(cost for *_, cost in repeats)
        return StoredChecks(
            answers, [(first, second) for first, second, _ in repeats], cost_usd, self.load_models(connection)
        )

    def load_models(self, connection: Connection) -> list[ModelCalls]:
        """Return the models that answered."""
        models = connection.execute(
            "SELECT model, fingerprint, first, last, calls FROM models WHERE bundle = ? AND teacher = ?", self._owner
        )
        return [ModelCalls(*row) for row in models]

    def count(self, connection: Connection) -> tuple[int, int]:
        """Return the `seq` of the latest answer to an anchor, and the number of repeats."""
        query = "SELECT coalesce(max(seq), 0) FROM anchors WHERE bundle = ? AND teacher = ?"
        (latest,) = connection.execute(query, self._owner).fetchone()
        query = "SELECT count(*) FROM repeats WHERE bundle = ? AND teacher = ?"
        (repeats,) = connection.execute(query, self._owner).fetchone()
        return int(latest), int(repeats)
