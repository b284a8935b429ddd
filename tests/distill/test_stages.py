"""A stage's result is whole or not there, and made again exactly when something that determines it changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import DistillError
from distill.stages import RECORD, Stage, file_digest, fingerprint, write_atomic

ROOT = Path(__file__).parents[2]


def write_two(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_text("first")
    (folder / "sub" / "b.txt").write_text("second")


def write_third(folder: Path) -> None:
    (folder / "c.txt").write_text("third")


def refuse(folder: Path) -> None:
    pytest.fail("a stage that is up to date was made again")


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_a_stage_is_made_once(tmp_path):
    stage = Stage(tmp_path / "runs" / "data", {"rows": 3})
    assert not stage.done
    assert stage.ensure(write_two) == stage.path
    assert files(stage.path) == {"a.txt", "sub/b.txt", RECORD}
    assert stage.done
    stage.ensure(refuse)
    assert Stage(stage.path, {"rows": 3}).done


def test_other_inputs_make_it_anew_and_leave_nothing_of_the_old(tmp_path):
    Stage(tmp_path / "data", {"rows": 3}).ensure(write_two)
    other = Stage(tmp_path / "data", {"rows": 4})
    assert not other.done
    other.ensure(write_third)
    assert files(other.path) == {"c.txt", RECORD}
    assert not Stage(tmp_path / "data", {"rows": 3}).done


@pytest.mark.parametrize("damage", ["truncate", "remove", "no record", "garbage record"])
def test_a_damaged_result_is_not_done(tmp_path, damage):
    stage = Stage(tmp_path / "data", {})
    stage.ensure(write_two)
    if damage == "truncate":
        os.truncate(stage.path / "sub" / "b.txt", 3)
    elif damage == "remove":
        (stage.path / "a.txt").unlink()
    elif damage == "no record":
        (stage.path / RECORD).unlink()
    else:
        (stage.path / RECORD).write_text("[1, 2")
    assert not stage.done
    stage.ensure(write_two)
    assert stage.done


def test_a_failing_stage_leaves_the_result_before_it(tmp_path):
    Stage(tmp_path / "data", {"rows": 3}).ensure(write_two)

    def fail(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        Stage(tmp_path / "data", {"rows": 4}).ensure(fail)
    assert Stage(tmp_path / "data", {"rows": 3}).done
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


KILLED = """
import os, signal, sys
from pathlib import Path
from distill.stages import Stage

def work(folder):
    (folder / "a.txt").write_text("half of it")
    os.kill(os.getpid(), signal.SIGKILL)

Stage(Path(sys.argv[1]), {"rows": int(sys.argv[2])}).ensure(work)
"""


@pytest.mark.parametrize("before", [None, 3])
def test_a_killed_stage_leaves_nothing_half_written_and_starts_anew(tmp_path, before):
    path = tmp_path / "data"
    if before is not None:
        Stage(path, {"rows": before}).ensure(write_two)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), "4"], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert path.exists() == (before is not None)
    assert len(list(tmp_path.iterdir())) == 1 + (before is not None)  # and what the killed process left behind
    stage = Stage(path, {"rows": 4})
    assert not stage.done
    stage.ensure(write_two)
    assert stage.done
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_a_kill_while_the_old_result_is_removed_is_no_result(tmp_path):
    stage = Stage(tmp_path / "data", {"rows": 3})
    stage.ensure(write_two)
    (stage.path / "a.txt").unlink()  # as far as the removal came
    assert not stage.done
    with pytest.raises(DistillError, match="out of date"):
        stage.require("check")


def test_a_stage_that_is_required_but_not_there_names_the_verb(tmp_path):
    stage = Stage(tmp_path / "data", {"rows": 3})
    with pytest.raises(DistillError, match=r"data has not been made: run `reflux check` with this task first"):
        stage.require("check")
    stage.ensure(write_two)
    assert stage.require("check") == stage.path
    with pytest.raises(DistillError, match=r"data is out of date: run `reflux check`"):
        Stage(tmp_path / "data", {"rows": 4}).require("check")


def test_the_record_says_what_went_in(tmp_path):
    stage = Stage(tmp_path / "data", {"rows": 3, "path": Path("x")})
    record = json.loads((stage.ensure(write_two) / RECORD).read_text())
    assert record["inputs"] == {"rows": 3, "path": "x"}
    assert record["fingerprint"] == stage.fingerprint


def test_fingerprints_tell_values_apart_but_not_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert len({fingerprint(value) for value in ({"a": 1}, {"a": 2}, {"a": "1"}, [1, 2], [2, 1], None)}) == 6


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new and longer")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_holds_what_was_given(tmp_path):
    write_atomic(tmp_path / "text", "café\n")
    write_atomic(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "café\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644
    assert file_digest(tmp_path / "bytes") != file_digest(tmp_path / "text")
