"""A bundle is measured in a process of its own, as it answers: alone, together, and by length."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from distill.errors import DistillError
from export.bundle.cascade import load_classifier
from export.bundle.format import MODEL, Bundle
from export.sweep import measure
from export.sweep.measure import measure_answers, measure_bundle
from tests.support.tiny_bundle import build_cascade

TEXTS = ["my invoice is late", "parcel", "refund the tax please"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.02)


def test_a_process_of_its_own_measures_a_bundle(tiny_bundle):
    found = measure_bundle(tiny_bundle, TEXTS)
    for times in (found["alone"], found["together"], *found["by_length"]["16"].values()):
        assert 0 < times["p50"] <= times["p99"]
        assert times["runs"] >= 10
    assert found["texts_per_second"] == pytest.approx(32_000 / found["together"]["mean"])
    assert 10 < found["memory_mib"] < 2000


class Counting:
    """Answers as a classifier does, and counts the texts of each run and their tokens."""

    def __init__(self, bundle: Bundle) -> None:
        self.classifier = load_classifier(bundle)
        self.tokenizer = self.classifier.tokenizer  # type: ignore[union-attr]
        self.runs: set[tuple[int, int]] = set()

    def answer(self, texts):
        self.runs.add((len(texts), max(len(self.tokenizer.encode(text).ids) for text in texts)))
        return self.classifier.answer(texts)


def test_the_texts_have_the_lengths_that_are_told(tiny_bundle, monkeypatch):
    monkeypatch.setattr(measure, "LENGTHS", (8, 20, 64))
    counting: Any = Counting(tiny_bundle)
    found = measure_answers(counting, ["late"], tiny_bundle.manifest.max_tokens)
    assert list(found["by_length"]) == ["8", "20"]
    assert {(1, 8), (32, 8), (1, 20), (32, 20)} <= counting.runs
    assert {count for count, _ in counting.runs} == {1, 32}


def test_a_cascade_is_measured_as_a_whole(tiny_bundle, tmp_path):
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle, tiny_bundle], [0.9])
    assert measure_answers(load_classifier(cascade), TEXTS, 16)["alone"]["p50"] > 0


def test_a_process_that_fails_says_why(tiny_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, folder)
    bundle = Bundle.open(folder)
    (folder / MODEL).write_bytes(b"no graph")
    with pytest.raises(DistillError, match=r"cannot be measured \(.*BundleError.*\); try `reflux export --verify`"):
        measure_bundle(bundle, TEXTS)
