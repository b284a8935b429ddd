"""The tables of the outbox, schema 3, and what schemas 1 and 2 lack of them.

`rows` is also what training data is exported from: `text`, `answer` in the order of the version's `labels`,
`propensity` for weights, and `split`; rows of the split `eval` must never be trained on. Counts are never summed from
rows, but kept in `tallies` and `pairs`, so that rows can be deleted.
"""

from __future__ import annotations

from service.shadow.history import COLUMNS
from service.shadow.outbox import checks

SCHEMA = 3

_COUNTS = ",\n        ".join(f"{name} REAL NOT NULL DEFAULT 0" for name in COLUMNS)

TABLES_1 = (
    """
    CREATE TABLE bundles (
        version TEXT PRIMARY KEY,
        labels TEXT NOT NULL               -- JSON; the order of all probabilities and classes of this version
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
        teacher TEXT,                      -- name@version that is to answer, or has
        answer BLOB,                       -- the teacher's probabilities [K], as given; float32, little-endian
        method TEXT,
        agree INTEGER,                     -- like kl to decision_agree, of the answer as the bundle calibrates it
        kl REAL,
        js REAL,
        tokens INTEGER,
        cost_usd REAL,
        seconds REAL,
        finished INTEGER,                  -- counts up: the order in which outcomes were stored
        student_class INTEGER,             -- the position of a label
        teacher_class INTEGER,
        decision_agree INTEGER,            -- NULL if the bundle has no decision
        novel INTEGER,                     -- unlike the training texts; NULL if the bundle's decision does not ask
        model TEXT,                        -- like the fingerprint, as the teacher's responses state it
        fingerprint TEXT
    )
    """,
    "CREATE INDEX waiting ON rows (bundle, seq) WHERE outcome IS NULL",
)
"""Tables that schema 1 has too, but for the columns in ADDED."""

ADDED = (
    "finished INTEGER",
    "student_class INTEGER",
    "teacher_class INTEGER",
    "decision_agree INTEGER",
    "novel INTEGER",
    "model TEXT",
    "fingerprint TEXT",
)
"""Columns of `rows` that schema 1 lacks."""

TABLES_2 = (
    *checks.TABLES,
    "CREATE INDEX ended ON rows (finished)",
    "CREATE INDEX disagreements ON rows (bundle, finished) WHERE agree = 0",
    f"""
    CREATE TABLE tallies (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        slot INTEGER NOT NULL,             -- Unix seconds of its start: 5 minutes, later an hour; 0 = oldest
        band INTEGER NOT NULL,
        propensity REAL NOT NULL,
        {_COUNTS},
        PRIMARY KEY (bundle, teacher, slot, band, propensity)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE pairs (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        hour INTEGER NOT NULL,             -- Unix seconds of its start; later a day; 0 = oldest
        band INTEGER NOT NULL,
        propensity REAL NOT NULL,
        student_class INTEGER NOT NULL,
        teacher_class INTEGER NOT NULL,
        count INTEGER NOT NULL,            -- comparisons
        PRIMARY KEY (bundle, teacher, hour, band, propensity, student_class, teacher_class)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE ceilings (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        since REAL NOT NULL,               -- Unix seconds of the slot from which they hold
        ceilings TEXT NOT NULL,            -- JSON, one per band
        PRIMARY KEY (bundle, teacher, since)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE detectors (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        ceilings TEXT NOT NULL,            -- JSON, one per band
        evidence TEXT NOT NULL,            -- JSON: the state after the comparisons of rows with finished <= upto
        upto INTEGER NOT NULL,
        answered REAL,                     -- Unix seconds of the last of these comparisons
        PRIMARY KEY (bundle, teacher)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE verdicts (
        bundle TEXT NOT NULL,
        teacher TEXT NOT NULL,
        since REAL,                        -- Unix seconds since when the student must leave; NULL if it may stay
        PRIMARY KEY (bundle, teacher)
    ) WITHOUT ROWID
    """,
)
"""Tables and indexes that schema 1 lacks. In schema 2, `tallies` lacks ADDED_TALLIES."""

ADDED_TALLIES = ("deferred REAL NOT NULL DEFAULT 0",)
