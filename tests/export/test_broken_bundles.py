"""A bundle with anything wrong in it is refused in one line that names the file and the key."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from export.bundle import classifier
from export.bundle.classifier import Classifier, InferenceError
from export.bundle.format import GOLDEN, MODEL, TOKENIZER, Bundle, BundleError, Manifest, write_bundle
from export.bundle.reference import Reference
from export.bundle.verify import verify
from tests.support.broken_bundles import EXTERNAL, FAULTS, FITS, LINKS, OTHER_KINDS, seal, set_in_manifest


@pytest.fixture
def folder(tiny_bundle, tmp_path):
    """The folder of a good bundle, to be spoilt."""
    return shutil.copytree(tiny_bundle.path, tmp_path / "bundle")


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_refused_in_one_line_that_names_it(folder, name):
    FAULTS[name].apply(folder)
    with pytest.raises(BundleError) as refused:
        verify(folder)
    message = str(refused.value)
    assert re.search(FAULTS[name].names, message), message
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 1500


@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key, kinds in FITS.items() for kind in sorted(kinds)])
def test_what_a_key_may_hold_is_accepted(folder, key, kind):
    set_in_manifest(**{key: OTHER_KINDS[kind]})(folder)
    seal(folder)
    assert getattr(verify(folder).manifest, key) == OTHER_KINDS[kind]


def test_weights_in_a_file_that_the_manifest_lists_are_accepted_and_part_of_the_version(folder, tiny_bundle):
    EXTERNAL(folder)
    seal(folder)
    assert verify(folder).manifest.version != tiny_bundle.manifest.version
    (folder / "weights.bin").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"weights\.bin: does not match its hash"):
        verify(folder)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_within_the_bundle_is_accepted(folder, tiny_bundle, name):
    LINKS[name](folder)
    assert verify(folder).manifest == tiny_bundle.manifest


def test_a_bundle_behind_a_link_is_accepted(folder, tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert verify(tmp_path / "link").manifest == tiny_bundle.manifest


@pytest.mark.parametrize("name", ["nowhere", "bundle/model.onnx", "bundle/model.onnx/within", "x" * 300, "a\0b"])
def test_a_path_that_is_no_folder_is_refused_by_name(folder, name):
    with pytest.raises(BundleError, match=re.escape(str(folder.parent / name))):
        verify(folder.parent / name)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"labels": ("a", "a")}, "labels"),
        ({"labels": ("a", "")}, "labels"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"measured": {"milliseconds": float("nan")}}, "NaN"),
    ],
)
def test_what_would_be_refused_is_not_written(tiny_bundle, tmp_path, change, key):
    facts = {name: getattr(tiny_bundle.manifest, name) for name in Manifest.__slots__} | change
    contents = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    with pytest.raises(BundleError, match=key):
        write_bundle(tmp_path / "new", contents, Manifest(**facts))
    assert not list(tmp_path.iterdir())


def test_a_failure_that_nobody_foresaw_is_a_refusal_too(folder, monkeypatch):
    def fail(*_, **__):
        raise LookupError("an error\nof two lines")

    monkeypatch.setattr(Reference, "open", fail)
    with pytest.raises(BundleError, match=rf"{folder}: cannot be used \(LookupError: an error of two lines\)"):
        verify(folder)


class PanicException(BaseException):  # as pyo3 raises it for a panic in Rust
    """A harmless stand-in for what a library written in Rust raises."""


class Fragile:
    """A tokenizer that breaks on a word, with a message that repeats the text, and is otherwise the real one."""

    word = ""
    kind: type[BaseException] = PanicException

    def __init__(self, real):
        self._real = real

    @classmethod
    def from_file(cls, path):
        return cls(REAL.from_file(path))

    def __getattr__(self, name):
        return getattr(self._real, name)

    def encode(self, text, **options):
        if self.word in text:
            raise self.kind(f"byte index 3 is not a char boundary of `{text}`")
        return self._real.encode(text, **options)


REAL = classifier.Tokenizer


@pytest.fixture
def fragile(monkeypatch):
    """`fragile(word, kind)`: from now on, tokenizers raise `kind` for texts with the word."""

    def break_on(word, kind=PanicException):
        monkeypatch.setattr(classifier, "Tokenizer", type("Fragile", (Fragile,), {"word": word, "kind": kind}))

    return break_on


def test_a_tokenizer_that_panics_is_refused(folder, fragile):
    fragile("a")
    with pytest.raises(BundleError, match=rf"{folder / TOKENIZER}: not a tokenizer \(the library panicked\)"):
        verify(folder)


def test_a_tokenizer_that_panics_on_a_golden_text_is_refused(folder, fragile):
    fragile("late")
    with pytest.raises(BundleError, match=rf"{GOLDEN}: golden row .*the tokenizer failed on this text"):
        verify(folder)


@pytest.mark.parametrize("kind", [PanicException, Exception, MemoryError, ValueError])
def test_a_text_that_breaks_the_tokenizer_fails_alone_and_is_not_repeated(folder, fragile, kind):
    fragile("fragile", kind)
    classifier = Classifier.load(Bundle.open(folder))
    with pytest.raises(InferenceError) as failed:
        classifier.classify("a fragile secret")
    assert kind.__name__ in str(failed.value)
    assert "secret" not in f"{failed.value}{failed.value.__cause__}"
    assert np.isfinite(classifier.classify("invoice").score)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_to_end_the_process_does(folder, fragile, kind):
    fragile("fragile", kind)
    classifier = Classifier.load(Bundle.open(folder))
    with pytest.raises(kind):
        classifier.classify("fragile")


def test_a_graph_that_reads_other_files_is_not_loaded_at_all(folder, monkeypatch):
    FAULTS["graph has weights in another folder"].apply(folder)
    monkeypatch.setattr(classifier, "create_session", lambda *_, **__: pytest.fail("ONNX Runtime has read it"))
    with pytest.raises(BundleError, match=rf"{folder / MODEL}: the graph reads '\.\./outside/weights\.bin'"):
        verify(folder)
