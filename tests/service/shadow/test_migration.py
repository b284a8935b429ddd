"""Files of schema 1, whose counts were sums over rows, and of schema 2 are converted when they are opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from service.monitor.cells import Cells
from service.monitor.evalues import EDetector
from service.monitor.verdict import LOG_CERTAIN
from service.monitor.windows import log_certify, measure
from service.shadow.errors import OutboxError
from service.shadow.history import Changes, History
from service.shadow.outbox.file import APPLICATION
from service.shadow.outbox.store import Outbox
from service.shadow.outcome import OUTCOMES, POSITION, Outcome
from service.shadow.shared import schema
from service.shadow.shared.database import Database
from service.shadow.slots import DAY, HOUR, Key, slot_of
from tests.support.postgres import SharedStore

from .conftest import VERSION, disagree

SCHEMA_1 = """
CREATE TABLE bundles (
    version TEXT PRIMARY KEY,
    labels TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE rows (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    time REAL NOT NULL,
    bundle TEXT NOT NULL,
    text TEXT,
    probabilities BLOB NOT NULL,
    band INTEGER NOT NULL,
    propensity REAL NOT NULL,
    split TEXT NOT NULL,
    outcome TEXT,
    answered REAL,
    teacher TEXT,
    answer BLOB,
    method TEXT,
    agree INTEGER,
    kl REAL,
    js REAL,
    tokens INTEGER,
    cost_usd REAL,
    seconds REAL
);
CREATE INDEX waiting ON rows (bundle, seq) WHERE outcome IS NULL;
CREATE TABLE tallies (
    bundle TEXT NOT NULL,
    teacher TEXT NOT NULL,
    band INTEGER NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (bundle, teacher, band, name)
) WITHOUT ROWID;
"""

NULL = np.array([0.05, 0.2, 0.4])
NOW = 1_800_000_000 // HOUR * HOUR
ANSWER = np.array([0.8, 0.1, 0.1], dtype="<f4").tobytes()


def old_file(path: Path, bundle: str = "v1", teacher: str = "t@1", bands: int = 3) -> list[tuple]:
    """Write a file as version 1 did; return its rows: age in seconds, band, propensity, outcome, agree."""
    generator = np.random.default_rng(5)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(SCHEMA_1)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO bundles VALUES (?, '[]')", (bundle,))
    rows: list[tuple] = []
    for number in range(300):
        band = number % bands
        outcome = ("completed", "completed", "completed", "refused", "timeout", None)[generator.integers(6)]
        agree = int(generator.random() < 0.7) if outcome == "completed" else None
        rows.append((3600.0 * (300 - number), band, 0.1 * (band + 1), outcome, agree))
        age, *_ = rows[-1]
        ended = [teacher, NOW - age + 5 + 20000 * generator.random()] if outcome else [None, None]
        connection.execute(
            "INSERT INTO rows (bundle, id, time, text, probabilities, band, propensity, split, outcome, agree,"
            " teacher, answered, kl, js, tokens, cost_usd)"
            " VALUES (?, ?, ?, 't', ?, ?, ?, 'train', ?, ?, ?, ?, ?, ?, ?, ?)",
            (bundle, f"{number}", NOW - age, ANSWER, *rows[-1][1:], *ended)
            + ((0.5, 0.25, 7, 0.001) if agree is not None else (None,) * 4),
        )
    for band in range(bands):
        for name, value in (("requests", 1000.0), ("expected", 80.0), ("queue_full", 4.0)):
            connection.execute("INSERT INTO tallies VALUES (?, ?, ?, ?, ?)", (bundle, teacher, band, name, value))
    connection.close()
    return rows


def opened(path: Path, teacher: str = "t@1") -> Outbox:
    outbox = Outbox(path, bundle="v1", labels=("a", "b"), teacher=teacher, busy_seconds=0.0)
    outbox.open()
    return outbox


def history_of(outbox: Outbox, now: float = NOW) -> History:
    history = History([0.1, 0.2, 0.3])
    history.turn(now)
    restored = outbox.restore(history.hour, NULL)
    history.load(restored.tallies, restored.pairs)
    return history


def test_every_count_of_the_rows_becomes_a_tally(tmp_path):
    rows = old_file(tmp_path / "old.sqlite")
    totals = history_of(opened(tmp_path / "old.sqlite")).totals()
    for band in range(3):
        mine = [row for row in rows if row[1] == band]
        assert totals.sampled[band] == len(mine) + 4
        assert totals.outcomes[band, POSITION[Outcome.QUEUE_FULL]] == 4
        for outcome in ("completed", "refused", "timeout"):
            found = totals.outcomes[band, OUTCOMES.index(Outcome(outcome))]
            assert found == sum(row[3] == outcome for row in mine)
        assert totals.disagreed[band] == sum(row[4] == 0 for row in mine)
        completed = sum(row[4] is not None for row in mine)
        assert totals.kl[band] == 0.5 * completed
        assert totals.js_sq[band] == 0.0625 * completed
        assert totals.tokens[band] == 7 * completed
        assert totals.cost_usd[band] == pytest.approx(0.001 * completed)
        assert totals.weight[band] == pytest.approx(completed / (0.1 * (band + 1)))
    assert totals.requests.tolist() == [1000, 1000, 1000]
    assert totals.expected.tolist() == pytest.approx([80, 80, 80])


def test_rows_become_cells_of_their_time_and_requests_are_spread_as_the_rows_are(tmp_path):
    rows = old_file(tmp_path / "old.sqlite")
    history = history_of(opened(tmp_path / "old.sqlite"))
    cells: Cells = history.cells()
    ended = cells.where(cells.lost + cells.compared > 0)
    assert ended.requests.sum() == 3000
    assert np.all(ended.requests == np.round(ended.requests))
    known = ended.where(ended.slot > 0)  # one ended row each, or more after a day
    share = known.requests / (known.lost + known.compared) / (1000 / np.bincount(known.band))[known.band]
    assert share.min() > 0.5
    assert share.max() < 2.0
    day = cells.since(slot_of(NOW) - DAY)
    assert day.sampled.sum() == sum(row[0] <= DAY for row in rows)
    assert day.compared.sum() == sum(row[0] <= DAY and row[4] is not None for row in rows)
    assert cells.pending.sum() == sum(row[3] is None for row in rows)


def test_a_student_that_was_calm_before_the_conversion_is_not_accused_after_it(tmp_path):
    """Sampled texts are the uncertain ones; without the requests they came from they look like a gap of 30 %."""
    path, rate, share = tmp_path / "old.sqlite", np.array([0.01, 0.2, 0.5]), np.array([0.9, 0.07, 0.03])
    propensity, requests = np.array([0.01, 0.1, 0.3]), 20_000
    old_file(path, bundle="v1")
    generator = np.random.default_rng(8)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM rows")
        connection.execute("DELETE FROM tallies")
        for band in range(3):
            count = int(requests * share[band])
            for name, value in (("requests", count), ("expected", count * rate[band])):
                connection.execute("INSERT INTO tallies VALUES ('v1', 't@1', ?, ?, ?)", (band, name, value))
            for number in range(generator.binomial(count, propensity[band])):
                at = NOW - 3000 * generator.random()
                connection.execute(
                    "INSERT INTO rows (bundle, id, time, text, probabilities, band, propensity, split, outcome, agree,"
                    " teacher, answered, kl, js, tokens, cost_usd) VALUES ('v1', ?, ?, 't', ?, ?, ?, 'train',"
                    " 'completed', ?, 't@1', ?, 0, 0, 1, 0)",
                    (f"{band}-{number}", at, ANSWER, band, propensity[band], int(generator.random() >= rate[band]), at),
                )
    cells = history_of(opened(path)).cells()
    assert cells.requests.sum() == requests
    windows = measure(cells, NOW, 0.06, [(0.0, np.array([0.05, 0.4, 0.8]))], rate)
    assert max(window.log_evalue for window in windows.values()) < 0.0
    assert windows["1h"].estimate.gap == pytest.approx(windows["since"].estimate.gap)
    assert log_certify(cells, NOW, 0.06, rate) > LOG_CERTAIN


def test_the_detector_takes_the_old_comparisons_in_the_order_of_their_answers(tmp_path):
    old_file(tmp_path / "old.sqlite")
    outbox = opened(tmp_path / "old.sqlite")
    with sqlite3.connect(tmp_path / "old.sqlite") as reader:
        stored = reader.execute("SELECT band, agree, answered FROM rows WHERE agree NOT NULL ORDER BY answered, seq")
        expected, last = EDetector(NULL), 0.0
        for band, agree, answered in stored:
            expected.update(band, not agree)
            last = answered
    restored = outbox.restore(NOW, NULL)
    assert restored.detector.evidence == expected.evidence
    assert restored.last == last


def test_pending_rows_are_resumed_and_count_for_the_teacher_that_is_asked(tmp_path):
    rows = old_file(tmp_path / "old.sqlite")
    pending = sum(row[3] is None for row in rows)
    outbox = opened(tmp_path / "old.sqlite", teacher="t@2")
    assert len(outbox.restore(NOW, NULL).pending) == pending
    totals = history_of(outbox).totals()
    assert (totals.sampled.sum(), totals.requests.sum(), totals.outcomes.sum()) == (pending, 0, 0)
    outbox.close()
    assert history_of(opened(tmp_path / "old.sqlite")).totals().sampled.sum() == len(rows) + 12


def test_a_conversion_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "old.sqlite"
    rows = old_file(path)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE pairs (a)")  # in the way of what follows schema 1
    with pytest.raises(OutboxError, match="pairs"):
        opened(path)
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
        other.execute("DROP TABLE pairs")
    assert history_of(opened(path)).totals().sampled.sum() == len(rows) + 12


def test_a_file_of_schema_2_keeps_its_counts_and_has_room_for_what_is_deferred(tmp_path):
    path, key = tmp_path / "old.sqlite", Key(NOW, 1, 0.5)
    outbox = opened(path)
    outbox.write([], Changes(NOW, [key], [[7.0, 0.5, 0.0, 3.0, 0.0, 0.0]]))
    outbox.close()
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE tallies DROP COLUMN deferred")
        other.execute("PRAGMA user_version = 2")
    outbox = opened(path)
    totals = history_of(outbox).totals()
    assert (totals.requests.sum(), totals.outcomes.sum(), totals.deferred.sum()) == (7, 3, 0)
    outbox.write([], Changes(NOW, [key], [[7.0, 0.5, 2.0, 3.0, 0.0, 0.0]]))
    assert history_of(outbox).totals().deferred.sum() == 2
    outbox.close()
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_shared_store_of_schema_1_keeps_its_counts_when_it_is_migrated(postgres, monkeypatch):
    store = SharedStore(postgres, postgres.create())
    database = Database(store.url)
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        earlier.setattr(schema, "SCHEMA", 1)
        assert schema.migrate(database) == (0, 1)
    store.execute(
        "INSERT INTO tallies (bundle, teacher, slot, band, propensity, requests) VALUES ('v', 't', 0, 1, 1, 7)"
    )
    with database.transaction() as connection, pytest.raises(OutboxError, match=r"schema 1.*run `reflux migrate`"):
        schema.check(connection, database.place)
    assert schema.migrate(database) == (1, 2)
    assert store.execute("SELECT requests, deferred FROM tallies") == [(7, 0)]
    database.close()


async def test_a_service_goes_on_with_an_old_file(make_shadow, directory):
    rows = old_file(directory / "shadow.sqlite", bundle=VERSION, teacher="played@1")
    pending = sum(row[3] is None for row in rows)
    shadow = await make_shadow(disagree).start()
    assert shadow.metric("shadow_resumed_total") == pending
    await shadow.process(5)
    found = shadow.pipeline.gap()
    assert found["counts"]["compared"] == sum(row[4] is not None for row in rows) + pending + 5
    assert found["counts"]["requests"] == 3005
