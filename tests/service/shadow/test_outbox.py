from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.monitor.evalues import EDetector
from service.shadow.comparison import Comparison
from service.shadow.errors import OutboxError
from service.shadow.history import Changes, History
from service.shadow.outbox import store
from service.shadow.outbox.file import CACHE_KIB
from service.shadow.outbox.rows import OutboxRow, RowResult
from service.shadow.outbox.store import Outbox
from service.shadow.outcome import Outcome
from service.shadow.slots import Key
from service.shadow.totals import Totals

NULL = np.full(5, 0.1)
NOTHING = Changes(0, [], [])
ROOT = Path(__file__).parents[3]


def make(path: Path, bundle: str = "v1", teacher: str = "t@1", **options) -> Outbox:
    outbox = Outbox(path, bundle=bundle, labels=("a", "b"), teacher=teacher, busy_seconds=0.0, **options)
    outbox.open()
    return outbox


def row(key: str, band: int = 2, propensity: float = 0.5) -> OutboxRow:
    return OutboxRow(key, 1.0, f"text {key}", np.array([0.9, 0.1], dtype="<f4").tobytes(), band, propensity, "train")


def counted(requests: float, queue_full: float = 0) -> Changes:
    return Changes(0, [Key(0, 2, 0.5)], [[requests, 0.0, queue_full, 0.0, 0.0]])


def totals(outbox: Outbox) -> Totals:
    history = History([0.5] * len(NULL))
    restored = outbox.restore(0, NULL)
    history.load(restored.tallies, restored.pairs)
    return history.totals()


COMPLETED = RowResult(
    Outcome.COMPLETED,
    2.0,
    b"12345678",
    "local",
    comparison=Comparison(agree=False, kl=0.5, js=0.25, student_class=0, teacher_class=1),
    tokens=7,
    cost_usd=0.01,
    seconds=0.2,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "shadow.sqlite"


def test_rows_are_pending_until_they_have_an_outcome(path):
    outbox = make(path)
    outbox.write([row("one"), row("two"), row("three")], NOTHING)
    first, second = outbox.pending(2)
    assert (first.text, second.text) == ("text one", "text two")
    assert [found.text for found in outbox.pending(2, {first.seq})] == ["text two", "text three"]
    assert outbox.finish(first.seq, COMPLETED)
    assert [found.text for found in outbox.pending(10)] == ["text two", "text three"]
    assert outbox.restore(0, NULL).pending == [Key(0, 2, 0.5)] * 2


def test_the_cache_of_an_outbox_is_bounded(path):
    connection = make(path)._connection
    assert connection is not None
    assert connection.execute("PRAGMA cache_size").fetchone() == (-CACHE_KIB,)


def test_an_outcome_is_final(path):
    outbox = make(path)
    outbox.write([row("one")], NOTHING)
    (found,) = outbox.pending(1)
    assert outbox.finish(found.seq, COMPLETED)
    assert not outbox.finish(found.seq, RowResult(Outcome.TIMEOUT, 3.0))
    assert totals(outbox).outcomes.sum() == totals(outbox).disagreed[2] == 1


def test_writing_twice_changes_nothing(path):
    outbox = make(path)
    for _ in range(2):
        outbox.write([row("one")], counted(7, queue_full=3))
    found = totals(outbox)
    assert found.requests[2] == 7
    assert found.sampled[2] == 1 + 3
    assert len(outbox.pending(10)) == 1


def test_counts_outlive_the_rows_that_they_are_about(path):
    outbox = make(path)
    outbox.write([row("one", 1, 0.25), row("two", 1, 0.25), row("three", 4, 1.0)], NOTHING)
    first, second, _ = outbox.pending(3)
    outbox.finish(first.seq, COMPLETED)
    outbox.finish(second.seq, RowResult(Outcome.REFUSED, 2.0, cost_usd=0.02))
    assert not outbox.delete_old(before=5.0)
    assert [waiting.text for waiting in outbox.pending(9)] == ["text three"]
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT count(*) FROM rows").fetchone() == (1,)
    found = totals(outbox)
    assert found.sampled.tolist() == [0, 2, 0, 0, 1]
    assert found.disagreed.tolist() == [0, 1, 0, 0, 0]
    assert found.agreed.sum() == 0
    assert found.outcomes.sum() == 2
    assert (found.weight[1], found.weight_sq[1], found.disagree_weight[1]) == (4.0, 16.0, 4.0)
    assert (found.kl[1], found.kl_sq[1], found.js[1], found.js_sq[1]) == (0.5, 0.25, 0.25, 0.0625)
    assert found.cost_usd[1] == pytest.approx(0.03)
    assert found.tokens[1] == 7


def test_old_rows_are_deleted_a_few_at_a_time_and_no_others(path, monkeypatch):
    monkeypatch.setattr(store, "DELETED_ROWS", 3)
    outbox = make(path)
    outbox.restore(0, NULL)  # as at every start
    outbox.write([row(str(number)) for number in range(10)], NOTHING)
    for pending in outbox.pending(9):
        outbox.finish(pending.seq, COMPLETED._replace(answered=float(pending.seq)))
    assert [outbox.delete_old(before=8.0) for _ in range(3)] == [True, True, False]
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT answered FROM rows ORDER BY seq").fetchall() == [(8.0,), (9.0,), (None,)]
    expected = EDetector(NULL)
    for _ in range(9):
        expected.update(2, True)
    assert outbox.restore(0, NULL).detector.evidence == expected.evidence


def test_versions_and_teachers_do_not_mix(path):
    outbox = make(path)
    outbox.write([row("one"), row("two")], counted(5))
    outbox.finish(outbox.pending(1)[0].seq, COMPLETED)
    outbox.close()

    outbox = make(path, bundle="v2")
    assert outbox.pending(10) == []
    assert totals(outbox).requests.sum() == totals(outbox).sampled.sum() == 0
    outbox.close()

    outbox = make(path, teacher="t@2")
    found = totals(outbox)
    assert (found.requests.sum(), found.sampled.sum(), found.compared.sum()) == (0, 1, 0)
    assert [waiting.text for waiting in outbox.pending(10)] == ["text two"]
    outbox.close()

    found = totals(make(path))  # it takes the pending row back
    assert (found.requests.sum(), found.sampled.sum(), found.compared.sum()) == (5, 2, 1)


def test_texts_can_be_erased_once_answered(path):
    outbox = make(path, keep_text=False)
    outbox.write([row("one"), row("two")], NOTHING)
    outbox.finish(outbox.pending(1)[0].seq, COMPLETED)
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT text FROM rows ORDER BY seq").fetchall() == [(None,), ("text two",)]


def test_a_second_owner_is_refused(path):
    outbox = make(path)
    with pytest.raises(OutboxError, match="another process uses this outbox"):
        make(path)
    outbox.close()
    make(path).close()


def test_a_second_process_is_refused_even_without_files_beside_the_database(path):
    outbox = make(path)
    outbox.write([row("one")], NOTHING)
    Path(f"{path}.lock").unlink(missing_ok=True)
    code = (
        "import sys; from pathlib import Path; from service.shadow.outbox.store import Outbox\n"
        "Outbox(Path(sys.argv[1]), bundle='v1', labels=('a', 'b'), teacher='t').open()"
    )
    other = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "another process uses this outbox" in other.stderr
    outbox.write([row("two")], NOTHING)
    assert {name.name for name in path.parent.iterdir()} == {"shadow.sqlite", "shadow.sqlite-wal", "shadow.sqlite-shm"}
    outbox.close()
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode == 0


def test_an_owner_whose_file_was_replaced_is_refused(path):
    first = make(path)
    path.unlink()
    second = make(path)
    with pytest.raises(OutboxError, match="another process uses this outbox"):
        first.write([row("one")], NOTHING)
    second.write([row("two")], NOTHING)
    second.close()
    first.write([row("three")], NOTHING)
    assert [found.text for found in first.pending(9)] == ["text two", "text three"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_other_users_cannot_read_it_whatever_the_umask(path, mask):
    before = os.umask(mask)
    try:
        outbox = Outbox(path, bundle="v1", labels=("a", "b"), teacher="t@1")
        path.parent.mkdir(mode=0o700)
        path.parent.chmod(0o700)
        outbox.open()
        outbox.write([row("one")], NOTHING)
        path.unlink()
        outbox.write([row("two")], NOTHING)  # and again when it is made anew
    finally:
        os.umask(before)
    modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()}
    assert modes == dict.fromkeys(("shadow.sqlite", "shadow.sqlite-wal", "shadow.sqlite-shm"), 0o600)


def test_readable_files_of_an_earlier_version_become_private(path):
    path.parent.mkdir()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA journal_mode = WAL")
    reader.execute("CREATE TABLE t (a)")
    for name in path.parent.iterdir():
        name.chmod(0o664)
    with pytest.raises(OutboxError, match="another program's database"):
        make(path)
    assert {stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()} == {0o600}
    reader.close()


def test_readers_do_not_disturb(path):
    outbox = make(path)
    with sqlite3.connect(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM rows").fetchall()
        outbox.write([row("one")], NOTHING)
    assert len(outbox.pending(10)) == 1


def test_labels_are_kept_beside_the_rows(path):
    make(path).close()
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT * FROM bundles").fetchall() == [("v1", '["a", "b"]')]


def another_schema(path: Path) -> None:
    make(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")


def another_program(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE rows (a)")


def text_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database " * 100)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_schema, "schema 99, this version reads 2; move the file away"),
        (another_program, r"another program's database; set shadow\.path"),
        (
            lambda path: path.parent.mkdir() or path.write_text("text " * 100),
            r"move the file away, or set shadow\.path",
        ),
        (lambda path: path.parent.touch(), "new"),
        (lambda path: path.mkdir(parents=True), r"set shadow\.path to a file"),
        (lambda path: path.parent.mkdir() or os.mkfifo(path), r"not a regular file; set shadow\.path to a file"),
    ],
    ids=["another schema", "another program", "text", "below a file", "directory", "pipe"],
)
def test_a_file_that_is_no_outbox_is_refused_with_the_remedy(path, spoil, message):
    spoil(path)
    with pytest.raises(OutboxError, match=message):
        make(path)


def test_writing_works_again_after_a_full_disk(path):
    outbox = make(path, max_bytes=2**20)
    big = [OutboxRow(f"{index}", 1.0, "x" * 100_000, b"12345678", 0, 1.0, "train") for index in range(20)]
    with pytest.raises(OutboxError, match=r"free disk space or raise shadow\.max_bytes"):
        outbox.write(big, NOTHING)
    outbox.max_bytes = 2**30
    outbox.write(big, NOTHING)
    assert len(outbox.pending(50)) == 20
