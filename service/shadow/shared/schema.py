"""The tables of the shared store and their versions. `reflux migrate` alone changes them.

They are those of `outbox.tables`, with the same columns: 0 and 1 for booleans, times in Unix seconds. Beside them are
the leases of rows, the teacher that answers for a bundle, what each process wrote last, and the order of outcomes.
"""

from __future__ import annotations

from service.shadow.errors import OutboxError
from service.shadow.outbox.sql import Connection
from service.shadow.shared.database import NAMESPACE, Database

LOCK = 0x5265666C
"""Key of the advisory lock of migrations: "Refl"."""

_OWNER = "bundle TEXT NOT NULL, teacher TEXT NOT NULL"

_FIRST = (
    "CREATE TABLE ends (last BIGINT NOT NULL)",  # one row: `finished` of the latest outcome
    "INSERT INTO ends VALUES (0)",
    """
    CREATE TABLE writers (
        writer TEXT PRIMARY KEY,           -- a process, from its start to its end
        batch BIGINT NOT NULL,             -- of its counts without rows: the latest that is in tallies
        seen TIMESTAMPTZ NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE bundles (
        version TEXT PRIMARY KEY,
        labels TEXT NOT NULL,              -- JSON
        teacher TEXT NOT NULL DEFAULT '',  -- name@version that answers now; empty until one does
        identity TEXT                      -- JSON of TeacherIdentity
    )
    """,
    """
    CREATE TABLE rows (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        time DOUBLE PRECISION NOT NULL,
        bundle TEXT NOT NULL,
        text TEXT,
        probabilities BYTEA NOT NULL,
        band BIGINT NOT NULL,
        propensity DOUBLE PRECISION NOT NULL,
        split TEXT NOT NULL,
        outcome TEXT,
        answered DOUBLE PRECISION,
        teacher TEXT,
        answer BYTEA,
        method TEXT,
        agree SMALLINT,
        kl DOUBLE PRECISION,
        js DOUBLE PRECISION,
        tokens BIGINT,
        cost_usd DOUBLE PRECISION,
        seconds DOUBLE PRECISION,
        finished BIGINT,
        student_class BIGINT,
        teacher_class BIGINT,
        decision_agree SMALLINT,
        novel SMALLINT,
        model TEXT,
        fingerprint TEXT,
        owner TEXT,                        -- the process that asks about it
        lease TIMESTAMPTZ                  -- until when no other may
    )
    """,
    "CREATE INDEX waiting ON rows (bundle, seq) WHERE outcome IS NULL",
    "CREATE INDEX ended ON rows (finished)",
    "CREATE INDEX disagreements ON rows (bundle, finished) WHERE agree = 0",
    f"""
    CREATE TABLE models (
        {_OWNER}, model TEXT NOT NULL, fingerprint TEXT NOT NULL,
        first DOUBLE PRECISION NOT NULL, last DOUBLE PRECISION NOT NULL, calls BIGINT NOT NULL,
        PRIMARY KEY (bundle, teacher, model, fingerprint)
    )
    """,
    f"""
    CREATE TABLE anchors (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {_OWNER},
        anchor BIGINT NOT NULL, time DOUBLE PRECISION NOT NULL, class BIGINT, method TEXT,
        cost_usd DOUBLE PRECISION NOT NULL, model TEXT, fingerprint TEXT
    )
    """,
    f"""
    CREATE TABLE repeats (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {_OWNER},
        id TEXT NOT NULL, time DOUBLE PRECISION NOT NULL, first BIGINT NOT NULL, second BIGINT,
        cost_usd DOUBLE PRECISION NOT NULL, model TEXT, fingerprint TEXT
    )
    """,
    f"""
    CREATE TABLE tallies (
        {_OWNER}, slot BIGINT NOT NULL, band BIGINT NOT NULL, propensity DOUBLE PRECISION NOT NULL,
        requests DOUBLE PRECISION NOT NULL DEFAULT 0,
        expected DOUBLE PRECISION NOT NULL DEFAULT 0,
        queue_full DOUBLE PRECISION NOT NULL DEFAULT 0,
        store_error DOUBLE PRECISION NOT NULL DEFAULT 0,
        shutdown DOUBLE PRECISION NOT NULL DEFAULT 0,
        sampled DOUBLE PRECISION NOT NULL DEFAULT 0,
        agreed DOUBLE PRECISION NOT NULL DEFAULT 0,
        disagreed DOUBLE PRECISION NOT NULL DEFAULT 0,
        kl DOUBLE PRECISION NOT NULL DEFAULT 0,
        kl_sq DOUBLE PRECISION NOT NULL DEFAULT 0,
        js DOUBLE PRECISION NOT NULL DEFAULT 0,
        js_sq DOUBLE PRECISION NOT NULL DEFAULT 0,
        cost_usd DOUBLE PRECISION NOT NULL DEFAULT 0,
        tokens DOUBLE PRECISION NOT NULL DEFAULT 0,
        decision_agreed DOUBLE PRECISION NOT NULL DEFAULT 0,
        decision_disagreed DOUBLE PRECISION NOT NULL DEFAULT 0,
        budget DOUBLE PRECISION NOT NULL DEFAULT 0,
        breaker_open DOUBLE PRECISION NOT NULL DEFAULT 0,
        timeout DOUBLE PRECISION NOT NULL DEFAULT 0,
        teacher_error DOUBLE PRECISION NOT NULL DEFAULT 0,
        invalid_answer DOUBLE PRECISION NOT NULL DEFAULT 0,
        refused DOUBLE PRECISION NOT NULL DEFAULT 0,
        PRIMARY KEY (bundle, teacher, slot, band, propensity)
    )
    """,
    f"""
    CREATE TABLE pairs (
        {_OWNER}, hour BIGINT NOT NULL, band BIGINT NOT NULL, propensity DOUBLE PRECISION NOT NULL,
        student_class BIGINT NOT NULL, teacher_class BIGINT NOT NULL, count BIGINT NOT NULL,
        PRIMARY KEY (bundle, teacher, hour, band, propensity, student_class, teacher_class)
    )
    """,
    f"""
    CREATE TABLE ceilings (
        {_OWNER}, since DOUBLE PRECISION NOT NULL, ceilings TEXT NOT NULL,
        PRIMARY KEY (bundle, teacher, since)
    )
    """,
    f"""
    CREATE TABLE detectors (
        {_OWNER}, ceilings TEXT NOT NULL, evidence TEXT NOT NULL, upto BIGINT NOT NULL, answered DOUBLE PRECISION,
        PRIMARY KEY (bundle, teacher)
    )
    """,
    f"""
    CREATE TABLE verdicts (
        {_OWNER}, since DOUBLE PRECISION,
        PRIMARY KEY (bundle, teacher)
    )
    """,
)

_SECOND = ("ALTER TABLE tallies ADD COLUMN deferred DOUBLE PRECISION NOT NULL DEFAULT 0",)

MIGRATIONS = (_FIRST, _SECOND)
"""What leads from each version to the next. A released one never changes."""

SCHEMA = len(MIGRATIONS)
"""The version that this code reads and writes."""


def check(connection: Connection, place: str) -> None:
    """Raise OutboxError unless the tables are of this version. `place` names the database."""
    found = version(connection)
    if found == SCHEMA:
        return
    if found > SCHEMA:
        raise OutboxError(
            f"the shadow store {place} has schema {found}, and this version of Reflux reads {SCHEMA}; run the version "
            "that migrated it, or a later one"
        )
    state = f"has schema {found}, and this version of Reflux reads {SCHEMA}" if found else "has no tables of Reflux"
    raise OutboxError(f"the shadow store {place} {state}; run `reflux migrate` with the same shadow.database")


def version(connection: Connection) -> int:
    """Return the version of the tables, 0 if there are none."""
    (table,) = connection.execute(f"SELECT to_regclass('{NAMESPACE}.schema_version')::text").fetchone()
    if table is None:
        return 0
    (found,) = connection.execute(f"SELECT max(version) FROM {NAMESPACE}.schema_version").fetchone()
    return int(found or 0)


def migrate(database: Database) -> tuple[int, int]:
    """Bring the tables to this version, in one transaction; return the versions before and after.

    Where nothing is to do, nothing is changed. Several at once wait for each other. Raises OutboxError, also for tables
    of a later version.
    """
    with database.transaction() as connection:
        connection.execute("SELECT set_config('statement_timeout', '0', true)")  # a large table takes its time
        connection.execute("SELECT pg_advisory_xact_lock(?)", (LOCK,))
        before = version(connection)
        if before >= SCHEMA:
            check(connection, database.place)
            return before, before
        if connection.execute("SELECT to_regnamespace(?)::text", (NAMESPACE,)).fetchone() == (None,):
            connection.execute(f"CREATE SCHEMA {NAMESPACE}")
        if before == 0:
            connection.execute(
                "CREATE TABLE schema_version (version BIGINT PRIMARY KEY, since TIMESTAMPTZ NOT NULL DEFAULT now())"
            )
        for number, statements in enumerate(MIGRATIONS[before:], before + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))
    return before, SCHEMA
