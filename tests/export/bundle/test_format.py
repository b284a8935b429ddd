"""A bundle is written whole or not at all, and one that was changed since is not opened."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from export.bundle import atomic
from export.bundle import format as module
from export.bundle.format import (
    CARD,
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    TOKENIZER,
    Bundle,
    BundleError,
    Golden,
    Manifest,
    golden_jsonl,
    write_bundle,
)

FILES = (MODEL, TOKENIZER, REFERENCE, GOLDEN, CARD)
ROOT = Path(__file__).parents[3]
MANIFEST_FACTS = Manifest(
    name="small", family="tiny", labels=("a", "b"), max_tokens=32, variant="plain", temperature=1.5, files={}
)


def contents(mark=b"old"):
    return {name: name.encode() + mark for name in FILES}


@pytest.fixture
def bundle(tmp_path):
    """A bundle of five small files; nothing in them is looked at here."""
    return write_bundle(tmp_path / "bundle", contents(), MANIFEST_FACTS)


@pytest.fixture
def edit(bundle):
    """`edit(key=value)`: change the manifest's text and nothing else."""

    def change(**values):
        path = bundle.path / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return bundle.path

    return change


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_what_was_written_is_opened(bundle):
    opened = Bundle.open(bundle.path)
    assert opened == bundle
    assert names(bundle.path) == sorted([*FILES, MANIFEST])
    facts = dataclasses.replace(opened.manifest, files={}, version="")
    assert facts == MANIFEST_FACTS


def test_the_manifest_has_the_hash_of_every_file(bundle):
    expected = {name: hashlib.sha256((bundle.path / name).read_bytes()).hexdigest() for name in FILES}
    assert bundle.manifest.files == expected


def test_content_may_be_given_as_a_file(bundle, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(contents()[MODEL])
    copied = write_bundle(tmp_path / "copied", {**contents(), MODEL: source}, MANIFEST_FACTS)
    assert copied.manifest == bundle.manifest
    assert source.exists()


ELSEWHERE = {"created": "2099-01-01", "name": "else", "measured": {"milliseconds": 3.0}}


@pytest.mark.parametrize(
    ("files", "facts", "same"),
    [
        *(({name: b"new"}, {}, False) for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN)),
        ({}, {"labels": ("b", "a")}, False),
        ({}, {"labels": ("a", "c")}, False),
        ({}, {"max_tokens": 31}, False),
        ({}, {"multi_label": True}, False),
        ({}, {"threshold": 0.9}, True),  # of no effect where a text has one label
        ({CARD: b"another card"}, ELSEWHERE, True),
    ],
)
def test_the_version_is_of_what_changes_answers_and_of_nothing_else(bundle, tmp_path, files, facts, same):
    other = write_bundle(tmp_path / "other", contents() | files, dataclasses.replace(MANIFEST_FACTS, **facts))
    assert (other.manifest.version == bundle.manifest.version) == same


def test_of_several_labels_the_threshold_is_part_of_the_version(tmp_path):
    facts = [dataclasses.replace(MANIFEST_FACTS, multi_label=True, threshold=threshold) for threshold in (0.5, 0.6)]
    made = [write_bundle(tmp_path / str(one.threshold), contents(), one) for one in facts]
    assert len({one.manifest.version for one in made}) == 2
    assert [Bundle.open(one.path).manifest.threshold for one in made] == [0.5, 0.6]


def test_a_bundle_of_before_there_were_several_labels_is_still_opened(bundle):
    path = bundle.path / MANIFEST
    old = json.loads(path.read_text())
    del old["multi_label"], old["threshold"]
    path.write_text(json.dumps(old))
    assert Bundle.open(bundle.path) == bundle
    assert not bundle.manifest.multi_label


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(bundle, name):
    path = bundle.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=rf"{path}: does not match its hash.*again"):
        Bundle.open(bundle.path)


def test_a_directory_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(BundleError, match=rf"{tmp_path}: no {MANIFEST}.*reflux export"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("change", [{"labels": ["b", "a"]}, {"max_tokens": 16}, {"version": "0123456789ab"}])
def test_an_edited_manifest_is_refused(edit, change):
    with pytest.raises(BundleError, match=rf"{MANIFEST}: version \w+ is not that of its content"):
        Bundle.open(edit(**change))


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused_with_both_numbers(edit, schema):
    with pytest.raises(BundleError, match=rf"{MANIFEST}: schema {json.dumps(schema)}, this version reads 1"):
        Bundle.open(edit(schema=schema))


def test_a_bundle_that_is_not_ours_to_read_is_refused_by_name(bundle, monkeypatch):
    def forbid(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(module, "file_sha256", forbid)
    with pytest.raises(BundleError, match=rf"{bundle.path}: cannot be read .*Permission denied.*permissions"):
        Bundle.open(bundle.path)


GOLDEN_ROWS = [
    Golden("my invoice", "a", (0.75, 0.25)),
    Golden("", "b", (0.5, 0.5)),
    Golden("two\nlines\r\nand \u2028 others \x85 of \u2029 them \x1c\x0b\x0c", "a", (1.0, 0.0)),
    Golden("Größe – 価格 🙂", "a", (0.9, 0.1)),
]


def test_golden_rows_come_back_whatever_their_text(tmp_path):
    written = write_bundle(tmp_path / "golden", {**contents(), GOLDEN: golden_jsonl(GOLDEN_ROWS)}, MANIFEST_FACTS)
    assert Bundle.open(written.path).golden() == GOLDEN_ROWS


def test_a_bundle_that_stands_there_is_replaced(bundle):
    replaced = write_bundle(bundle.path, contents(b"new"), MANIFEST_FACTS)
    assert Bundle.open(bundle.path).manifest == replaced.manifest != bundle.manifest
    assert names(bundle.path.parent) == ["bundle"]


def test_a_file_that_the_new_bundle_lacks_does_not_linger(bundle):
    (bundle.path / "notes.txt").write_text("old")
    write_bundle(bundle.path, contents(b"new"), MANIFEST_FACTS)
    assert names(bundle.path) == sorted([*FILES, MANIFEST])


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("owner", "function"), [(Path, "write_bytes"), (os, "fsync"), (shutil, "copyfile")])
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(bundle, tmp_path, monkeypatch, owner, function):
    source = tmp_path / "elsewhere" / MODEL
    source.parent.mkdir()
    source.write_bytes(b"new")
    monkeypatch.setattr(owner, function, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(bundle.path, {**contents(b"new"), MODEL: source}, MANIFEST_FACTS)
    monkeypatch.undo()
    assert Bundle.open(bundle.path) == bundle
    assert names(tmp_path) == ["bundle", "elsewhere"]


@pytest.mark.parametrize("name", ["small", ".small-abc"])
def test_what_is_being_written_lies_hidden_beside_its_place(tmp_path, monkeypatch, name):
    seen = set()
    monkeypatch.setattr(os, "fsync", lambda _: seen.update(names(tmp_path)))
    write_bundle(tmp_path / name, contents(), MANIFEST_FACTS)
    (staging,) = seen
    assert staging.startswith(f".{name.lstrip('.')}-")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("swaps", [True, False])
def test_a_failure_to_put_the_new_bundle_in_place_leaves_the_old_one(bundle, monkeypatch, swaps):
    rename = Path.rename

    def failing(self, target):
        if target == bundle.path and not self.name.endswith("-old"):
            full_disk()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr(atomic, "_exchange", (lambda *_: full_disk()) if swaps else (lambda *_: False))
    with pytest.raises(OSError, match="No space left"):
        write_bundle(bundle.path, contents(b"new"), MANIFEST_FACTS)
    assert Bundle.open(bundle.path) == bundle
    assert names(bundle.path.parent) == ["bundle"]


def test_where_directories_cannot_be_swapped_a_bundle_is_replaced_all_the_same(bundle, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    replaced = write_bundle(bundle.path, contents(b"new"), MANIFEST_FACTS)
    assert Bundle.open(bundle.path).manifest == replaced.manifest
    assert names(bundle.path.parent) == ["bundle"]


KILL_AT_EVERY_STEP = textwrap.dedent(
    """
    import os, signal, sys
    from export.bundle.format import Bundle, write_bundle
    from tests.export.bundle.test_format import MANIFEST_FACTS, contents

    STEPS = ("open", "ctypes.dlopen", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")

    def write_until(step):
        left = step

        def count(event, _):
            nonlocal left
            if event in STEPS:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        write_bundle(sys.argv[1], contents(b"new"), MANIFEST_FACTS)
        os._exit(0)

    status, step = 1, 0
    while status:
        step += 1
        child = os.fork()
        if not child:
            write_until(step)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, Bundle.open(sys.argv[1]).manifest.version)
    """
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two directories in one step")
def test_a_process_killed_at_any_step_leaves_the_old_bundle_or_the_new(bundle, tmp_path):
    new = write_bundle(tmp_path / "elsewhere" / "new", contents(b"new"), MANIFEST_FACTS)
    command = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(bundle.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {int(status) for status, _ in lines[:-1]} == {-signal.SIGKILL}, done.stderr
    assert [version for _, version in lines] == sorted(
        (version for _, version in lines), key=[bundle.manifest.version, new.manifest.version].index
    )
    assert lines[0][1] == bundle.manifest.version
    assert lines[-1] == ["0", new.manifest.version]
    assert len(lines) > 2 * len(FILES)
