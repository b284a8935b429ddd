"""A bundle is written whole or not at all, and one that was changed since is not opened."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, REFERENCE, GOLDEN])
def test_another_file_is_another_version(bundle, tmp_path, name):
    other = write_bundle(tmp_path / "other", {**contents(), name: b"new"}, MANIFEST_FACTS)
    assert other.manifest.version != bundle.manifest.version


@pytest.mark.parametrize("change", [{"labels": ("b", "a")}, {"labels": ("a", "c")}, {"max_tokens": 31}])
def test_another_setting_that_changes_answers_is_another_version(bundle, tmp_path, change):
    other = write_bundle(tmp_path / "other", contents(), dataclasses.replace(MANIFEST_FACTS, **change))
    assert other.manifest.version != bundle.manifest.version


def test_several_labels_and_their_threshold_are_part_of_the_version(bundle, tmp_path):
    facts = [
        dataclasses.replace(MANIFEST_FACTS, multi_label=True, threshold=threshold, name=f"at-{threshold}")
        for threshold in (0.5, 0.6)
    ]
    others = [write_bundle(tmp_path / one.name, contents(), one) for one in facts]
    assert len({one.manifest.version for one in [bundle, *others]}) == 3
    assert [Bundle.open(one.path).manifest.threshold for one in others] == [0.5, 0.6]


def test_without_several_labels_the_threshold_is_no_part_of_the_version(bundle, tmp_path):
    other = write_bundle(tmp_path / "other", contents(), dataclasses.replace(MANIFEST_FACTS, threshold=0.9))
    assert other.manifest.version == bundle.manifest.version


def test_a_bundle_of_before_there_were_several_labels_is_still_opened(bundle):
    path = bundle.path / MANIFEST
    old = json.loads(path.read_text())
    del old["multi_label"], old["threshold"]
    path.write_text(json.dumps(old))
    assert Bundle.open(bundle.path) == bundle
    assert not bundle.manifest.multi_label


@pytest.mark.parametrize("values", [{"multi_label": "no"}, {"multi_label": 1}, {"threshold": "0.5"}])
def test_several_labels_are_said_by_the_right_kind_of_value(edit, values):
    with pytest.raises(BundleError, match=rf"'{next(iter(values))}' must be .*, not "):
        Bundle.open(edit(**values))


def test_the_version_depends_on_neither_card_nor_time_nor_place(bundle, tmp_path):
    facts = dataclasses.replace(MANIFEST_FACTS, created="2099-01-01", name="else", measured={"milliseconds": 3.0})
    other = write_bundle(tmp_path / "other", {**contents(), CARD: b"another card"}, facts)
    assert other.manifest.version == bundle.manifest.version


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_by_name(bundle, name):
    path = bundle.path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=rf"{path}: does not match its hash.*again"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(bundle, name):
    (bundle.path / name).unlink()
    with pytest.raises(BundleError, match=rf"{bundle.path / name}: missing"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, REFERENCE, GOLDEN])
def test_a_manifest_that_lists_no_such_file_is_refused(bundle, edit, name):
    files = {key: value for key, value in bundle.manifest.files.items() if key != name}
    with pytest.raises(BundleError, match=rf"lists no {name}"):
        Bundle.open(edit(files=files))


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


def test_unknown_and_missing_keys_are_refused_by_name(bundle, edit):
    path = edit(colour="red")
    data = json.loads((path / MANIFEST).read_text())
    del data["variant"]
    (path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match=rf"{MANIFEST}: 'colour' is no key of a manifest; 'variant' is missing"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("key", "value"), [("labels", 5), ("files", [MODEL]), ("max_tokens", "32"), ("temperature", None), ("version", 1)]
)
def test_a_key_with_something_else_in_it_is_refused_by_name(edit, key, value):
    with pytest.raises(BundleError, match=rf"{MANIFEST}.*'{key}'"):
        Bundle.open(edit(**{key: value}))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe{"])
def test_a_manifest_that_is_none_is_refused_by_name(bundle, text):
    (bundle.path / MANIFEST).write_bytes(text)
    with pytest.raises(BundleError, match=rf"{bundle.path / MANIFEST}: .*export the bundle again"):
        Bundle.open(bundle.path)


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


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"{}",
        b"[]",
        b"3",
        b"\xff\xff",
        b'{"text": "x", "label": "a"}',
        b'{"text": "x", "label": "a", "probabilities": 1}',
        b'{"text": "x", "label": "a", "probabilities": ["high", "low"]}',
    ],
)
def test_a_line_that_is_no_golden_row_is_named(tmp_path, line):
    lines = golden_jsonl(GOLDEN_ROWS[:2]) + line + b"\n"
    written = write_bundle(tmp_path / "golden", {**contents(), GOLDEN: lines}, MANIFEST_FACTS)
    with pytest.raises(BundleError, match=rf"{written.path / GOLDEN}:3: not a golden row"):
        written.golden()


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
    monkeypatch.setattr(module, "_exchange", (lambda *_: full_disk()) if swaps else (lambda *_: False))
    with pytest.raises(OSError, match="No space left"):
        write_bundle(bundle.path, contents(b"new"), MANIFEST_FACTS)
    assert Bundle.open(bundle.path) == bundle
    assert names(bundle.path.parent) == ["bundle"]


def test_where_directories_cannot_be_swapped_a_bundle_is_replaced_all_the_same(bundle, monkeypatch):
    monkeypatch.setattr(module, "_exchange", lambda *_: False)
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
