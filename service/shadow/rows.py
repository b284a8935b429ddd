"""A shadow row: one sampled text with the student's answer, then the teacher's. What it holds, and its table.

The export of training data reads this table: `text`, `answer` in the order of the version's `labels`, `propensity` for
weights, and `split`, of which `eval` is never to be trained on.
"""

from __future__ import annotations

from typing import NamedTuple

from service.shadow.ledger import Outcome

SCHEMA = 1

TABLES = (
    """
    CREATE TABLE bundles (
        version TEXT PRIMARY KEY,
        labels TEXT NOT NULL               -- JSON; the order of all probabilities of this version
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE rows (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        time REAL NOT NULL,                -- Unix seconds
        bundle TEXT NOT NULL,
        text TEXT,                         -- redacted; NULL once answered where texts are not kept
        probabilities BLOB NOT NULL,       -- the student's [K]; float32, little-endian
        band INTEGER NOT NULL,
        propensity REAL NOT NULL,
        split TEXT NOT NULL,               -- train or eval
        outcome TEXT,                      -- NULL while it waits
        answered REAL,                     -- Unix seconds
        teacher TEXT,                      -- name@version
        answer BLOB,                       -- the teacher's probabilities [K], as given; float32, little-endian
        method TEXT,
        agree INTEGER,                     -- like kl and js, with the answer as the bundle calibrates it
        kl REAL,
        js REAL,
        tokens INTEGER,
        cost_usd REAL,
        seconds REAL
    )
    """,
    "CREATE INDEX waiting ON rows (bundle, seq) WHERE outcome IS NULL",
    """
    CREATE TABLE tallies (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        band INTEGER NOT NULL,
        name TEXT NOT NULL,                -- requests, expected, or the outcome of texts that have no row
        value REAL NOT NULL,               -- a total, not an increment
        PRIMARY KEY (bundle, teacher, band, name)
    ) WITHOUT ROWID
    """,
)


class NewRow(NamedTuple):
    """A sampled text as it is stored; the text is redacted, `probabilities` are the bytes of float32 [K]."""

    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float
    split: str


class WaitingRow(NamedTuple):
    """A stored text that has no outcome yet."""

    seq: int
    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float


class Ending(NamedTuple):
    """The outcome of a row at `answered` (Unix seconds), with the answer and its comparison where there is one."""

    outcome: Outcome
    answered: float
    answer: bytes | None = None
    method: str | None = None
    agree: bool | None = None
    kl: float | None = None
    js: float | None = None
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
