"""What every outbox promises, whether it is a file of one process or a database of many."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.monitor.evalues import EDetector
from service.shadow.history import Changes, History
from service.shadow.outbox import base
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.checks import AnchorAnswer, Repeat
from service.shadow.outbox.rows import Restored, RowResult, TeacherIdentity
from service.shadow.outbox.store import Outbox
from service.shadow.outcome import Outcome
from service.shadow.shared.database import Database
from service.shadow.shared.outbox import SharedOutbox
from service.shadow.slots import Key
from service.shadow.totals import Totals
from tests.support.outbox_rows import COMPLETED, NOTHING, NULL, row
from tests.support.postgres import SharedStore


def counted(requests: float, queue_full: float = 0, deferred: float = 0) -> Changes:
    return Changes(0, [Key(0, 2, 0.5)], [[requests, 0.0, deferred, queue_full, 0.0, 0.0]])


class Store(Protocol):
    """A place for outboxes."""

    def make(self, bundle: str = "v1", teacher: str = "t@1", *, keep_text: bool = True) -> AnyOutbox:
        """Open the outbox of a bundle and a teacher, as at a start."""

    def restored(self, outbox: Any) -> Restored:
        """Return what is stored of its bundle and teacher."""

    def waiting(self, outbox: Any) -> int:
        """Return the number of pending rows of its bundle."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Read it as another program would."""

    def totals(self, outbox: Any) -> Totals:
        history = History([0.5] * len(NULL))
        restored = self.restored(outbox)
        history.load(restored.tallies, restored.pairs)
        return history.totals()


class FileStore(Store):
    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, bundle: str = "v1", teacher: str = "t@1", *, keep_text: bool = True) -> AnyOutbox:
        outbox = Outbox(self.path, bundle=bundle, labels=("a", "b"), teacher=teacher, keep_text=keep_text)
        outbox.open()
        return outbox

    def restored(self, outbox: Any) -> Restored:
        return outbox.restore(0, NULL)

    def waiting(self, outbox: Any) -> int:
        return len(outbox.restore(0, NULL).pending)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.path) as reader:
            return reader.execute(sql).fetchall()


class DatabaseStore(Store):
    def __init__(self, store: SharedStore) -> None:
        self.store = store

    def make(self, bundle: str = "v1", teacher: str = "t@1", *, keep_text: bool = True) -> AnyOutbox:
        name, version = teacher.split("@")
        outbox = SharedOutbox(
            Database(self.store.url),
            bundle=bundle,
            labels=("a", "b"),
            teacher=TeacherIdentity(name, version, (name, version)),
            keep_text=keep_text,
            lease_seconds=0.0,  # a row is free at once, as those of a file are
        )
        outbox.open()
        return outbox

    def restored(self, outbox: Any) -> Restored:
        outbox.restore(0, NULL)
        return outbox.state(NULL, None).restored

    def waiting(self, outbox: Any) -> int:
        return outbox.state(NULL, None).waiting

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.store.execute(sql)


@pytest.fixture(params=["file", "database"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return FileStore(tmp_path / "shadow.sqlite")
    return DatabaseStore(request.getfixturevalue("shared_store"))


def test_rows_are_pending_until_they_have_an_outcome(store):
    outbox = store.make()
    outbox.write([row("one"), row("two"), row("three")], NOTHING)
    first, second = outbox.pending(2)
    assert (first.text, second.text) == ("text one", "text two")
    assert [found.text for found in outbox.pending(2, {first.seq})] == ["text two", "text three"]
    assert outbox.finish(first.seq, COMPLETED)
    assert [found.text for found in outbox.pending(10)] == ["text two", "text three"]
    assert store.waiting(outbox) == 2


def test_an_outcome_is_final(store):
    outbox = store.make()
    outbox.write([row("one")], NOTHING)
    (found,) = outbox.pending(1)
    assert outbox.finish(found.seq, COMPLETED)
    assert not outbox.finish(found.seq, RowResult(Outcome.TIMEOUT, 3.0))
    assert store.totals(outbox).outcomes.sum() == store.totals(outbox).disagreed[2] == 1


def test_writing_twice_changes_nothing(store):
    outbox = store.make()
    for _ in range(2):
        outbox.write([row("one")], counted(7, queue_full=3, deferred=5))
    found = store.totals(outbox)
    assert (found.requests[2], found.deferred[2]) == (7, 5)
    assert found.sampled[2] == 1 + 3
    assert len(outbox.pending(10)) == 1


def test_counts_outlive_the_rows_that_they_are_about(store):
    outbox = store.make()
    outbox.write([row("one", 1, 0.25), row("two", 1, 0.25), row("three", 4, 1.0)], NOTHING)
    first, second, _ = outbox.pending(3)
    outbox.finish(first.seq, COMPLETED)
    outbox.finish(second.seq, RowResult(Outcome.REFUSED, 2.0, cost_usd=0.02))
    assert not outbox.delete_old(before=5.0)
    assert [waiting.text for waiting in outbox.pending(9)] == ["text three"]
    assert store.rows("SELECT count(*) FROM rows") == [(1,)]
    found = store.totals(outbox)
    assert found.sampled.tolist() == [0, 2, 0, 0, 1]
    assert found.disagreed.tolist() == [0, 1, 0, 0, 0]
    assert found.agreed.sum() == 0
    assert found.outcomes.sum() == 2
    assert (found.weight[1], found.weight_sq[1], found.disagree_weight[1]) == (4.0, 16.0, 4.0)
    assert (found.kl[1], found.kl_sq[1], found.js[1], found.js_sq[1]) == (0.5, 0.25, 0.25, 0.0625)
    assert found.cost_usd[1] == pytest.approx(0.03)
    assert found.tokens[1] == 7


def test_old_rows_are_deleted_a_few_at_a_time_and_no_others(store, monkeypatch):
    monkeypatch.setattr(base, "DELETED_ROWS", 3)
    outbox = store.make()
    outbox.restore(0, NULL)  # as at every start
    outbox.write([row(str(number)) for number in range(10)], NOTHING)
    for pending in outbox.pending(9):
        outbox.finish(pending.seq, COMPLETED._replace(answered=float(pending.seq)))
    assert [outbox.delete_old(before=8.0) for _ in range(3)] == [True, True, False]
    assert store.rows("SELECT answered FROM rows ORDER BY seq") == [(8.0,), (9.0,), (None,)]
    expected = EDetector(NULL)
    for _ in range(9):
        expected.update(2, True)
    assert store.restored(outbox).detector.evidence == expected.evidence


def test_versions_and_teachers_do_not_mix(store):
    outbox = store.make()
    outbox.write([row("one"), row("two")], counted(5))
    outbox.finish(outbox.pending(1)[0].seq, COMPLETED)
    outbox.close()

    outbox = store.make(bundle="v2")
    assert outbox.pending(10) == []
    assert store.totals(outbox).requests.sum() == store.totals(outbox).sampled.sum() == 0
    outbox.close()

    outbox = store.make(teacher="t@2")
    found = store.totals(outbox)
    assert (found.requests.sum(), found.sampled.sum(), found.compared.sum()) == (0, 1, 0)
    assert [waiting.text for waiting in outbox.pending(10)] == ["text two"]
    outbox.close()

    found = store.totals(store.make())  # it takes the pending row back
    assert (found.requests.sum(), found.sampled.sum(), found.compared.sum()) == (5, 2, 1)


def test_texts_can_be_erased_once_answered(store):
    outbox = store.make(keep_text=False)
    outbox.write([row("one"), row("two")], NOTHING)
    outbox.finish(outbox.pending(1)[0].seq, COMPLETED)
    assert store.rows("SELECT text FROM rows ORDER BY seq") == [(None,), ("text two",)]


def test_labels_are_kept_beside_the_rows(store):
    store.make().close()
    assert store.rows("SELECT version, labels FROM bundles") == [("v1", '["a", "b"]')]


def test_the_order_of_outcomes_is_that_in_which_they_were_stored(store):
    outbox = store.make()
    outbox.write([row(str(number)) for number in range(4)], NOTHING)
    rows = outbox.pending(4)
    for number in (2, 0, 3, 1):
        outbox.finish(rows[number].seq, COMPLETED)
    assert store.rows("SELECT id FROM rows ORDER BY finished") == [("2",), ("0",), ("3",), ("1",)]


def test_old_slots_are_folded_and_keep_their_counts(store):
    day = 86400
    outbox = store.make()
    keys = [Key(100 * day + 300 * number, 2, 0.5) for number in range(3)]
    outbox.write([], Changes(100 * day, keys, [[1.0, 0.1, 0.0, 0.0, 0.0, 0.0]] * 3))
    outbox.restore(102 * day, NULL)
    assert store.rows("SELECT slot, requests FROM tallies") == [(100 * day, 3.0)]
    outbox.write([], Changes(102 * day, keys[:1], [[4.0, 0.1, 0.0, 0.0, 0.0, 0.0]]))  # of the hour now
    assert store.totals(outbox).requests.sum() == 4
    outbox.restore(109 * day, NULL)
    assert store.rows("SELECT slot, requests FROM tallies") == [(0, 4.0)]


def test_what_was_learned_of_the_teacher_is_kept(store):
    outbox = store.make()
    answer = AnchorAnswer(3, 7.0, 1, "local", 0.5, "m", None)
    outbox.add_anchor(answer)
    outbox.add_repeat(Repeat("one", 8.0, 0, None, 0.25, "m", None))
    outbox.close()
    other = store.make("v2")
    found = other.checks()
    assert (found.anchors, found.repeats, found.models) == ([], [], [])
    other.close()
    found = store.make().checks()
    assert (found.anchors, found.repeats, found.cost_usd) == ([answer], [(0, None)], 0.75)
    assert [tuple(models) for models in found.models] == [("m", "", 7.0, 8.0, 2)]


def test_lowered_ceilings_go_on_with_the_evidence(store):
    outbox = store.make()
    outbox.write([row(str(number)) for number in range(5)], NOTHING)
    for pending in outbox.pending(5):
        outbox.finish(pending.seq, COMPLETED)
    lower = NULL / 2
    detector = outbox.tighten(300.0, NULL, lower)
    found = store.restored(outbox)
    assert [(since, null.tolist()) for since, null in found.ceilings] == [(300.0, lower.tolist())]
    assert found.detector.evidence == detector.evidence


@pytest.mark.parametrize("text", ["a\0b", "ein Ø und \U0001f600", "' OR 1=1 --", "100 % ?", ""])
def test_any_text_can_be_stored(store, text):
    outbox = store.make()
    outbox.write([row("one")._replace(text=text)], NOTHING)
    (found,) = outbox.pending(1)
    assert found.text.replace("\ufffd", "\0") == text


def test_disagreements_are_listed_newest_first(store):
    outbox = store.make()
    outbox.write([row(str(number)) for number in range(4)], NOTHING)
    agreed = COMPLETED._replace(comparison=COMPLETED.comparison._replace(agree=True))
    for pending in outbox.pending(4):
        outbox.finish(pending.seq, agreed if pending.id == "2" else COMPLETED)
    assert [found.text for found in outbox.disagreements(2)] == ["text 3", "text 1"]
