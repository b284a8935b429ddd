"""A bundle with anything wrong in it is refused in one line that names the file and the key."""

import re

import numpy as np
import pytest

from export.bundle import classifier
from export.bundle.classifier import Classifier, InferenceError
from export.bundle.format import GOLDEN, MODEL, TOKENIZER, Bundle, BundleError, Manifest, write_bundle
from export.bundle.reference import Reference
from export.bundle.verify import verify
from tests.support.broken_bundles import EXTERNAL, FAULTS, FITS, LINKS, OTHER_KINDS, seal, set_in_manifest
from tests.support.fragile_tokenizer import PanicException, break_tokenizers


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_refused_in_one_line_that_names_it(bundle_copy, name):
    FAULTS[name].apply(bundle_copy)
    with pytest.raises(BundleError) as refused:
        verify(bundle_copy)
    message = str(refused.value)
    assert re.search(FAULTS[name].names, message), message
    assert str(bundle_copy) in message
    assert "\n" not in message
    assert len(message) < 1500


@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key, kinds in FITS.items() for kind in sorted(kinds)])
def test_what_a_key_may_hold_is_accepted(bundle_copy, key, kind):
    set_in_manifest(**{key: OTHER_KINDS[kind]})(bundle_copy)
    seal(bundle_copy)
    assert getattr(verify(bundle_copy).manifest, key) == OTHER_KINDS[kind]


def test_weights_in_a_file_that_the_manifest_lists_are_accepted_and_part_of_the_version(bundle_copy, tiny_bundle):
    EXTERNAL(bundle_copy)
    seal(bundle_copy)
    assert verify(bundle_copy).manifest.version != tiny_bundle.manifest.version
    (bundle_copy / "weights.bin").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"weights\.bin: does not match its hash"):
        verify(bundle_copy)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_within_the_bundle_is_accepted(bundle_copy, tiny_bundle, name):
    LINKS[name](bundle_copy)
    assert verify(bundle_copy).manifest == tiny_bundle.manifest


def test_a_bundle_behind_a_link_is_accepted(bundle_copy, tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle_copy)
    assert verify(tmp_path / "link").manifest == tiny_bundle.manifest


@pytest.mark.parametrize("name", ["nowhere", "bundle/model.onnx", "bundle/model.onnx/within", "x" * 300, "a\0b"])
def test_a_path_that_is_no_folder_is_refused_by_name(bundle_copy, name):
    with pytest.raises(BundleError, match=re.escape(str(bundle_copy.parent / name))):
        verify(bundle_copy.parent / name)


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


def test_a_failure_that_nobody_foresaw_is_a_refusal_too(bundle_copy, monkeypatch):
    def fail(*_, **__):
        raise LookupError("an error\nof two lines")

    monkeypatch.setattr(Reference, "open", fail)
    with pytest.raises(BundleError, match=rf"{bundle_copy}: cannot be used \(LookupError: an error of two lines\)"):
        verify(bundle_copy)


def test_a_tokenizer_that_panics_is_refused(bundle_copy, monkeypatch):
    break_tokenizers(monkeypatch, "a")
    with pytest.raises(BundleError, match=rf"{bundle_copy / TOKENIZER}: not a tokenizer \(the library panicked\)"):
        verify(bundle_copy)


def test_a_tokenizer_that_panics_on_a_golden_text_is_refused(bundle_copy, monkeypatch):
    break_tokenizers(monkeypatch, "late")
    with pytest.raises(BundleError, match=rf"{GOLDEN}: golden row .*the tokenizer failed on this text"):
        verify(bundle_copy)


@pytest.mark.parametrize("kind", [PanicException, Exception, MemoryError, ValueError])
def test_a_text_that_breaks_the_tokenizer_fails_alone_and_is_not_repeated(bundle_copy, monkeypatch, kind):
    break_tokenizers(monkeypatch, "fragile", kind)
    classifier = Classifier.load(Bundle.open(bundle_copy))
    with pytest.raises(InferenceError) as failed:
        classifier.classify("a fragile secret")
    assert kind.__name__ in str(failed.value)
    assert "secret" not in f"{failed.value}{failed.value.__cause__}"
    assert np.isfinite(classifier.classify("invoice").score)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_to_end_the_process_does(bundle_copy, monkeypatch, kind):
    break_tokenizers(monkeypatch, "fragile", kind)
    classifier = Classifier.load(Bundle.open(bundle_copy))
    with pytest.raises(kind):
        classifier.classify("fragile")


def test_a_graph_that_reads_other_files_is_not_loaded_at_all(bundle_copy, monkeypatch):
    FAULTS["graph has weights in another folder"].apply(bundle_copy)
    monkeypatch.setattr(classifier, "create_session", lambda *_, **__: pytest.fail("ONNX Runtime has read it"))
    with pytest.raises(BundleError, match=rf"{bundle_copy / MODEL}: the graph reads '\.\./outside/weights\.bin'"):
        verify(bundle_copy)
