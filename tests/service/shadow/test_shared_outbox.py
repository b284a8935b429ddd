"""What only a shared outbox does: leases, writers at once, commits of unknown end, and errors with their remedy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import psycopg
import pytest
from pydantic import ValidationError

from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.history import Changes, History
from service.shadow.outbox.rows import RowResult, TeacherIdentity
from service.shadow.outcome import Outcome
from service.shadow.settings import ShadowSettings
from service.shadow.shared.database import Database
from service.shadow.shared.outbox import SharedOutbox
from service.shadow.slots import DAY, Key
from tests.support.outbox_rows import COMPLETED, NOTHING, NULL, row

TEACHER = TeacherIdentity("t", "1", ("t", "1"))


@pytest.fixture
def make(shared_store):
    """`make(teacher)` is another process with the same store."""
    made = []

    def make(teacher: TeacherIdentity | None = TEACHER, **options) -> SharedOutbox:
        outbox = SharedOutbox(
            Database(shared_store.url),
            bundle="v1",
            labels=("a", "b"),
            teacher=teacher,
            **{"lease_seconds": 60.0} | options,
        )
        made.append(outbox)
        outbox.open()
        return outbox

    yield make
    for outbox in made:
        outbox.close()


def test_a_leased_row_is_nobody_elses_until_the_lease_ends(make):
    one, two = make(lease_seconds=0.3), make()
    one.write([row("a"), row("b"), row("c")], NOTHING)
    began = time.monotonic()
    mine = one.pending(2)
    theirs = two.pending(9)
    assert [[found.id for found in rows] for rows in (mine, theirs)] == [["a", "b"], ["c"]]
    while not (again := two.pending(9)):
        time.sleep(0.01)
    assert time.monotonic() - began >= 0.29
    assert [found.id for found in again] == ["a", "b"]
    assert two.finish(again[0].seq, COMPLETED)
    assert not one.finish(mine[0].seq, RowResult(Outcome.TIMEOUT, 3.0))  # too late
    assert one.finish(mine[1].seq, COMPLETED)  # the first to answer counts, whoever has the lease
    assert not two.finish(again[1].seq, COMPLETED)


def test_closing_frees_what_was_taken(make):
    one, two = make(), make()
    one.write([row("a")], NOTHING)
    assert len(one.pending(1)) == 1
    assert two.pending(1) == []
    one.close()
    assert [found.id for found in two.pending(1)] == ["a"]


def writing(outbox: SharedOutbox, number: int) -> None:
    random = Random(number)
    for batch in range(15):
        keys = [Key(300 * slot, band, 0.5) for slot in range(2) for band in range(5)]
        random.shuffle(keys)
        new = [row(f"{number}-{batch}-{index}", random.randrange(5)) for index in range(8)]
        outbox.write(new, Changes(0, keys, [[batch + 1.0, 0.0, 0.0, 0.0, 0.0, 0.0] for _ in keys]))


def asking(outbox: SharedOutbox, ended: Callable[[], bool]) -> None:
    outbox.restore(0, NULL)
    while not ended():
        for found in outbox.pending(5):
            assert outbox.finish(found.seq, COMPLETED)
        outbox._tidied, outbox._hour = 0.0, -1  # tidy up all the time


def test_many_processes_at_once_count_every_row_and_wait_for_nobody_for_ever(make, shared_store):
    """A deadlock would raise OutboxBusyError in one of the threads."""
    rows = 3 * 15 * 8

    def ended() -> bool:
        return shared_store.execute("SELECT count(*) FROM rows WHERE outcome IS NOT NULL") == [(rows,)]

    serving, workers = [make(None) for _ in range(3)], [make() for _ in range(2)]
    with ThreadPoolExecutor(5) as pool:
        written = [pool.submit(writing, outbox, number) for number, outbox in enumerate(serving)]
        asked = [pool.submit(asking, outbox, ended) for outbox in workers]
        for future in (*written, *asked):
            future.result(60)
    query = "SELECT sum(sampled), sum(disagreed), sum(requests), count(DISTINCT teacher) FROM tallies"
    assert shared_store.execute(query) == [(rows, rows, 3 * 10 * 15, 1)]
    assert shared_store.execute("SELECT count(DISTINCT finished), max(finished) FROM rows") == [(rows, rows)]


class Cable:
    """Breaks a connection in the middle of a transaction, or so that the end of its commit is not known."""

    def __init__(self, monkeypatch) -> None:
        self.breaks: str | None = None
        transaction = Database.transaction

        @contextmanager
        def breaking(database: Database, *, writes: bool = True):
            with transaction(database, writes=writes) as connection:
                yield connection
                if self.breaks == "before":
                    database.close()
                    raise OutboxBusyError("broken before the commit")
            if self.breaks == "after":
                database.close()
                raise OutboxBusyError("broken after the commit")

        monkeypatch.setattr(Database, "transaction", breaking)


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_added_once_however_a_commit_ends(make, shared_store, monkeypatch, seed):
    random, cable, outbox = Random(seed), Cable(monkeypatch), make()
    history, now = History([0.5] * 5), 100.0 * DAY
    number, stored = 0, set()
    for step in range(40):
        for _ in range(random.randrange(4)):
            history.count_request(now, random.randrange(5), 0.25)
        if random.random() < 0.2:
            history.add(Key(int(now // 300) * 300, random.randrange(5), 0.5), "queue_full")
        now += random.choice([1.0, 400.0, 4000.0, 30000.0])
        cable.breaks = random.choice([None, None, "before", "after"])
        batch = [row(f"r{number}")] if random.random() < 0.7 else []
        changes = history.take_changes()
        try:
            outbox.write(batch, changes)
        except OutboxBusyError:
            history.give_back(changes)
        else:
            number += len(batch)
        if cable.breaks != "before":
            stored |= {each.id for each in batch}
        if step % 17 == 0:
            cable.breaks = None
            outbox.restore(int(now // 3600) * 3600, NULL)
    cable.breaks = None
    history.turn(now)
    outbox.write([], history.take_changes())
    wanted = history.totals()
    restored = outbox.state(NULL, None).restored
    view = History([0.5] * 5)
    view.turn(now)
    view.load(restored.tallies, restored.pairs)
    found = view.totals()
    assert found.requests.tolist() == wanted.requests.tolist()
    assert found.expected.tolist() == wanted.expected.tolist()
    assert found.outcomes.tolist() == wanted.outcomes.tolist()
    assert shared_store.execute("SELECT sum(sampled) FROM tallies") == [(len(stored),)]
    assert shared_store.execute("SELECT count(*) FROM rows") == [(len(stored),)]


def test_a_writer_without_rights_is_told_what_to_do(make, shared_store):
    make()
    shared_store.execute("CREATE ROLE reader LOGIN PASSWORD 'other'")
    try:
        outbox = SharedOutbox(
            Database(shared_store.url.replace("reflux:", "reader:").replace(shared_store.server.quoted, "other")),
            bundle="v1",
            labels=("a", "b"),
            teacher=None,
        )
        with pytest.raises(OutboxError, match=r"permission denied.*grant the user the rights"):
            outbox.open()
    finally:
        shared_store.execute("DROP ROLE reader")


def test_after_a_failover_it_waits_for_the_primary(make, shared_store):
    make().close()
    shared_store.execute(f"ALTER DATABASE {shared_store.name} SET default_transaction_read_only = on")
    with pytest.raises(OutboxBusyError, match="it is a standby"):
        make()


def test_a_lock_that_another_program_holds_is_waited_for_no_longer_than_a_statement_may_take(
    make, shared_store, monkeypatch
):
    monkeypatch.setattr("service.shadow.shared.database.STATEMENT_SECONDS", 0.1)
    outbox = make()
    with psycopg.connect(shared_store.url) as other:
        other.execute("LOCK TABLE reflux.rows")
        with pytest.raises(OutboxBusyError, match="it is tried again"):
            outbox.write([row("a")], NOTHING)
        other.rollback()
    outbox.write([row("a")], NOTHING)
    assert len(outbox.pending(2)) == 1


def test_a_server_that_is_not_there_is_named_without_the_password(shared_store):
    database = Database("postgresql://me:hidden@127.0.0.1:1/nowhere")
    with (
        pytest.raises(OutboxBusyError, match=r"127\.0\.0\.1:1/nowhere.*check that it runs") as failed,
        database.transaction(),
    ):
        pass
    assert "hidden" not in str(failed.value)


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hidden@h/d", "postgresql://u:hidden@h", "hidden", "postgresql://u:hidden@h:port/d", "postgresql:///"],
)
def test_what_is_no_url_of_postgresql_is_refused_without_repeating_it(url):
    with pytest.raises(ValidationError, match="must be postgresql://user@host:5432/name") as refused:
        ShadowSettings(database=url)
    assert "hidden" not in str(refused.value) + json.dumps(refused.value.errors(include_input=False), default=str)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enabled": True, "ask": False}, r"shadow\.ask is off, and without shadow\.database"),
        ({"database": "postgresql://h/d", "lease_seconds": 40.0}, r"more than twice shadow\.deadline_seconds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ShadowSettings(**settings)
