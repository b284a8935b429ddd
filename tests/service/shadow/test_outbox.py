"""What the outbox of one process promises of its file; `test_outbox_contract.py` has what every outbox does."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.shadow.errors import OutboxError
from service.shadow.outbox.file import CACHE_KIB
from service.shadow.outbox.rows import OutboxRow
from service.shadow.outbox.store import Outbox
from tests.support.outbox_rows import NOTHING, row

ROOT = Path(__file__).parents[3]


def make(path: Path, bundle: str = "v1", teacher: str = "t@1", **options) -> Outbox:
    outbox = Outbox(path, bundle=bundle, labels=("a", "b"), teacher=teacher, busy_seconds=0.0, **options)
    outbox.open()
    return outbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "shadow.sqlite"


def test_the_cache_of_an_outbox_is_bounded(path):
    connection = make(path)._connection
    assert connection is not None
    assert connection.execute("PRAGMA cache_size").fetchone() == (-CACHE_KIB,)


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


def another_schema(path: Path) -> None:
    make(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")


def another_program(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE rows (a)")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_schema, "schema 99, this version reads 3; move the file away"),
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
