"""The rows of the outbox: one sampled text with the student's answer, and later the teacher's. Their types and table.

The table is also what training data is exported from: `text`, `answer` in the order of the version's `labels`,
`propensity` for weights, and `split`; rows of the split `eval` must never be trained on.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from service.shadow.comparison import Comparison
from service.shadow.outcome import Outcome

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
        text TEXT,                         -- redacted; NULL after the answer if texts are not kept
        probabilities BLOB NOT NULL,       -- the student's [K]; float32, little-endian
        band INTEGER NOT NULL,
        propensity REAL NOT NULL,
        split TEXT NOT NULL,               -- train or eval
        outcome TEXT,                      -- NULL while it is pending
        answered REAL,                     -- Unix seconds
        teacher TEXT,                      -- name@version
        answer BLOB,                       -- the teacher's probabilities [K], as given; float32, little-endian
        method TEXT,
        agree INTEGER,                     -- like kl and js, of the answer as the bundle calibrates it
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


class Sample(NamedTuple):
    """A sampled text in memory, not yet redacted, with the student's answer.

    `id` is unique and increases within a process. The text was answered at `time` (Unix seconds), which is `since` on
    the monotonic clock. `probabilities` are the bytes of float32 [K].
    """

    id: str
    time: float
    since: float
    text: str
    probabilities: bytes
    band: int
    propensity: float

    @property
    def size(self) -> int:
        """Approximate memory use in bytes."""
        return sys.getsizeof(self.text) + len(self.probabilities)


class OutboxRow(NamedTuple):
    """A sample as it is inserted into the outbox: its text is redacted and its split is chosen."""

    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float
    split: str


class PendingRow(NamedTuple):
    """A row of the outbox that has no outcome yet."""

    seq: int
    id: str
    time: float
    text: str
    probabilities: bytes
    band: int
    propensity: float


class RowResult(NamedTuple):
    """What is stored for a row at its end: the outcome, and the teacher's answer with its comparison if there is one.

    `answered` is in Unix seconds, `answer` the bytes of float32 [K], `seconds` the duration of the call.
    """

    outcome: Outcome
    answered: float
    answer: bytes | None = None
    method: str | None = None
    comparison: Comparison | None = None
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
