"""What was written is on disk, all or none of it, and what goes wrong with the file is told with a remedy."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from distill.errors import DistillError
from distill.labelling import sqlite_store as module
from distill.labelling.sqlite_store import Store

ROOT = Path(__file__).parents[3]
SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY);"
ADD = "INSERT INTO numbers VALUES (?)"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "numbers.sqlite"


def on_disk(path: Path) -> list[int]:
    """What a reader beside the process sees."""
    with closing(sqlite3.connect(path)) as reader:
        return [n for (n,) in reader.execute("SELECT n FROM numbers ORDER BY n")]


async def test_a_write_is_on_disk_when_it_returns(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        for number in range(5):
            await store.write((ADD, (number,)))
            assert on_disk(path) == list(range(number + 1))
            assert store.read("SELECT count(*) FROM numbers") == [(number + 1,)]


async def test_writes_that_come_together_are_committed_together(path, monkeypatch) -> None:
    commits = []
    commit = Store._commit

    def count(self, statements):
        commits.append(len(statements))
        commit(self, statements)

    monkeypatch.setattr(Store, "_commit", count)
    with Store(path, SCHEMA, 1) as store:
        await asyncio.gather(*(store.write((ADD, (number,))) for number in range(200)))
    assert on_disk(path) == list(range(200))
    assert sum(commits) == 200
    assert len(commits) < 20


async def test_a_write_is_whole_or_not_at_all(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        await store.write((ADD, (1,)))
        with pytest.raises(DistillError, match=r"numbers\.sqlite: answers could not be stored"):
            await store.write((ADD, (2,)), (ADD, (1,)))
        assert on_disk(path) == [1]
        await store.write((ADD, (3,)))
        assert on_disk(path) == [1, 3]


async def test_what_was_handed_over_is_written_though_nobody_waits(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        writing = asyncio.create_task(store.write((ADD, (1,))))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        store.put((ADD, (2,)))
    assert on_disk(path) == [1, 2]


def test_what_was_handed_over_is_written_though_the_loop_ends(path) -> None:
    with Store(path, SCHEMA, 1) as store:

        async def leave() -> None:
            store.put(*((ADD, (number,)) for number in range(1000)))

        asyncio.run(leave())
    assert on_disk(path) == list(range(1000))


def test_a_second_process_in_the_same_folder_is_refused_and_the_first_goes_on(path) -> None:
    code = (
        "import sys; from pathlib import Path; from distill.labelling.sqlite_store import Store\n"
        f"Store(Path(sys.argv[1]), {SCHEMA!r}, 1)"
    )
    with Store(path, SCHEMA, 1) as store:
        Path(f"{path}.lock").unlink(missing_ok=True)  # the lock is not in a file that somebody could delete
        other = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
        assert other.returncode == 1
        assert "numbers.sqlite: another reflux labels in this folder; wait for it, or stop it" in other.stderr
        asyncio.run(store.write((ADD, (1,))))
    assert on_disk(path) == [1]
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode == 0


async def test_a_file_that_another_program_holds_is_told_and_can_be_written_again(path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with Store(path, SCHEMA, 1) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DistillError, match=r"could not be stored \(database is locked\); another program"):
                await store.write((ADD, (1,)))
            other.execute("ROLLBACK")
        await store.write((ADD, (2,)))
    assert on_disk(path) == [2]


async def test_a_file_that_is_let_go_in_time_is_waited_for(path) -> None:
    with Store(path, SCHEMA, 1) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.write((ADD, (1,))))
        await asyncio.sleep(0.1)
        assert not writing.done()
        other.execute("ROLLBACK")
        await writing
    assert on_disk(path) == [1]


async def test_others_cannot_read_it(path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    with Store(path, SCHEMA, 1) as store:
        await store.write((ADD, (1,)))
        modes = {name.name: oct(stat.S_IMODE(name.stat().st_mode)) for name in path.parent.iterdir()}
    assert modes == dict.fromkeys(("numbers.sqlite", "numbers.sqlite-wal", "numbers.sqlite-shm"), "0o600")


async def test_what_would_go_into_a_file_that_was_taken_away_is_told(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        await store.write((ADD, (1,)))
        path.rename(path.with_name("away"))
        with pytest.raises(DistillError, match=r"numbers\.sqlite: answers could not be stored .*put it back"):
            await store.write((ADD, (2,)))
        path.with_name("away").rename(path)
        await store.write((ADD, (3,)))
    assert on_disk(path) == [1, 3]


def test_a_mode_that_cannot_be_changed_is_said(path, monkeypatch, caplog) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    monkeypatch.setattr(os, "chmod", lambda *_: None)  # as a file system without modes does
    Store(path, SCHEMA, 1).close()
    assert f"{path}: others may read it" in caplog.text


def test_a_file_that_cannot_be_opened_for_now_leaves_no_lock_behind(path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    Store(path, SCHEMA, 1).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DistillError, match=r"cannot be opened \(database is locked\); another program has it open"):
            Store(path, SCHEMA, 1)
    Store(path, SCHEMA, 1).close()


def test_a_damaged_file_is_told_and_left_as_it_is(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        asyncio.run(store.write(*((ADD, (number,)) for number in range(20_000))))
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xff" * (len(damaged) - 8192)
    path.write_bytes(damaged)
    with Store(path, SCHEMA, 1) as store:
        with pytest.raises(DistillError, match=r"could not be read .*malformed.*it is damaged; put a copy of it"):
            store.read("SELECT sum(n) FROM numbers")
        with pytest.raises(DistillError, match=r"could not be stored .*malformed.*it is damaged"):
            asyncio.run(store.write((ADD, (-1,))))


def test_a_file_of_another_schema_is_refused_and_left_alone(path) -> None:
    with Store(path, SCHEMA, 1) as store:
        asyncio.run(store.write((ADD, (1,))))
    with pytest.raises(DistillError, match=r"another version of reflux wrote .*\(schema 1, expected 2\); use that"):
        Store(path, SCHEMA + "CREATE TABLE more (n INTEGER);", 2)
    with Store(path, SCHEMA, 1) as store:
        assert store.read("SELECT n FROM numbers") == [(1,)]
        assert store.read("SELECT name FROM sqlite_master") == [("numbers",)]
