"""The witness reads answered texts in a thread of its own, and every text offered to it is in one count."""

from __future__ import annotations

import asyncio
import threading
import time
from random import Random

import numpy as np
import pytest

from export.bundle.classifier import Classifier
from export.bundle.witness import WITNESS
from service.shadow.errors import ShadowError
from service.shadow.settings import ShadowSettings
from service.shadow.witness import Answered, LoadedWitness, Seen, Witness
from tests.support.tiny_bundle import POISON, WORDS, build_bundle, build_witness, rewritten
from tests.support.waiting import until

LABELS = tuple(WORDS)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student that takes `refund` for shipping."""
    return build_bundle(tmp_path_factory.mktemp("student") / "student", flip={"refund": "shipping"})


@pytest.fixture(scope="module")
def witness(student, tmp_path_factory):
    """Its witness, which knows better, and has its labels in another order."""
    folder = tmp_path_factory.mktemp("witness")
    return build_witness(folder / "witness", student, build_bundle(folder / "better", labels=LABELS[::-1]))


@pytest.fixture(scope="module")
def classify(student):
    return Classifier.load(student).classify


class Played:
    """A loaded witness that answers as `read` does."""

    name, version = "played", "1"

    def __init__(self, read=None):
        self.batches = []
        self._read = read or (lambda batch: [Seen(0.9, True) for _ in batch])

    def read(self, batch):
        self.batches.append(batch)
        return self._read(batch)


@pytest.fixture
async def running():
    """`running(loaded, **settings)`: a witness in its thread, and the list of what it counted."""
    made = []

    def make(loaded, random=None, **settings):
        counted = []
        witness = Witness(
            loaded,
            ShadowSettings(**settings),
            lambda item, confidence: counted.append((item.text, confidence)),
            (random or Random(0)).random,
        )
        made.append(witness)
        return witness, counted

    yield make
    for witness in made:
        await witness.stop(1.0)


def test_the_joint_confidence_is_low_where_the_witness_gives_another_label(student, witness, classify):
    loaded = LoadedWitness(witness.path, student.manifest)
    wrong, right = loaded.read(offered([("refund", classify("refund")), ("invoice", classify("invoice"))]))
    assert (wrong.agrees, right.agrees) == (False, True)
    own = classify("invoice").score
    assert right.confidence == pytest.approx(own)  # both models give the word's label the same probability
    other = (1 - own) / (len(LABELS) - 1)
    assert wrong.confidence == pytest.approx(np.sqrt(own * other), rel=1e-4)
    assert loaded.reference.expected_disagreement(wrong.confidence) > 2 * loaded.reference.expected_disagreement(own)


def test_a_text_that_the_witness_fails_on_does_not_take_others_with_it(student, witness, classify):
    loaded = LoadedWitness(witness.path, student.manifest)
    answer = classify("invoice")
    found = loaded.read(offered([("invoice", answer), (POISON, answer), ("card", answer)]))
    assert [seen is None for seen in found] == [False, True, False]


def offered(pairs):
    """Items as the witness queues them."""
    return [Answered(text, prediction, 0.0) for text, prediction in pairs]


def test_a_witness_of_another_version_is_refused(student, witness, tmp_path):
    other = rewritten(student, tmp_path / "other", max_tokens=31)
    with pytest.raises(ShadowError, match=f"witness of version {student.manifest.version}.*reflux witness"):
        LoadedWitness(witness.path, other.manifest)


def test_a_bundle_that_is_no_witness_is_refused(student, tmp_path):
    with pytest.raises(ShadowError, match=r"shadow\.witness: .*reflux witness"):
        LoadedWitness(student.path, student.manifest)
    with pytest.raises(ShadowError, match=r"shadow\.witness: .*no manifest\.json"):
        LoadedWitness(tmp_path, student.manifest)


def test_a_witness_of_other_labels_is_refused(student, witness, tmp_path):
    labels = (*LABELS[:-1], "elsewhere")
    changed = rewritten(witness, tmp_path / "changed", labels=labels)
    with pytest.raises(ShadowError, match="elsewhere"):
        LoadedWitness(changed.path, student.manifest)


def test_a_witness_that_was_changed_is_refused(student, witness, tmp_path):
    copy = rewritten(witness, tmp_path / "copy")
    (copy.path / WITNESS).write_bytes(b"no longer")
    with pytest.raises(ShadowError, match="does not match its hash"):
        LoadedWitness(copy.path, student.manifest)


async def test_every_text_is_read_once_and_counted_in_order(running, classify):
    loaded = Played()
    witness, counted = running(loaded)
    texts = [f"text {number}" for number in range(100)]
    for text in texts:
        witness.offer(text, classify("invoice"), 0.0)
    await until(lambda: witness.seen == 100)
    assert [text for text, _ in counted] == texts
    assert (witness.agreed, witness.waiting, witness.requests) == (100, 0, 100)
    assert max(map(len, loaded.batches)) <= 8


async def test_a_full_queue_drops_and_counts(running, classify):
    free = threading.Event()
    witness, counted = running(Played(lambda batch: free.wait(10) and [Seen(0.9, True)] * len(batch)), queue_rows=5)
    for _ in range(8):
        witness.offer("text", classify("invoice"), 0.0)
    assert (witness.waiting, witness.dropped) == (5, 3)
    free.set()
    await until(lambda: witness.seen == 5)
    assert len(counted) == 5
    witness.offer("text", classify("invoice"), 0.0)
    await until(lambda: witness.seen == 6)
    assert witness.requests == 9


async def test_long_texts_are_bounded_by_their_memory(running, classify):
    free = threading.Event()
    witness, _ = running(Played(lambda batch: free.wait(10) and [None] * len(batch)), queue_bytes=100_000)
    for _ in range(10):
        witness.offer("a" * 10_000, classify("invoice"), 0.0)
    assert (witness.waiting, witness.dropped) == (2, 8)
    free.set()


async def test_texts_that_the_witness_fails_on_are_counted_and_not_tossed(running, classify):
    def read(batch):
        raise RuntimeError("broken")

    witness, counted = running(Played(read))
    for _ in range(20):
        witness.offer("text", classify("invoice"), 0.0)
    await until(lambda: witness.failed == 20)
    assert (counted, witness.seen, witness.waiting) == ([], 0, 0)


async def test_a_share_of_the_texts_is_read_and_the_others_are_counted(running, classify):
    witness, _ = running(Played(), witness_share=0.25, queue_rows=10_000)
    for _ in range(2000):
        witness.offer("text", classify("invoice"), 0.0)
    await until(lambda: witness.waiting == 0)
    assert witness.seen + witness.skipped == 2000
    assert abs(witness.seen - 500) < 100


async def test_a_witness_that_hangs_is_left_behind_in_bounded_time(running, classify):
    free = threading.Event()
    witness, counted = running(Played(lambda batch: free.wait(30) and [Seen(0.9, True)] * len(batch)))
    for _ in range(40):
        witness.offer("text", classify("invoice"), 0.0)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await witness.stop(0.2)
    assert time.monotonic() - began < 5
    assert (witness.dropped, witness.waiting, witness.requests) == (40, 0, 40)
    free.set()
    await asyncio.sleep(0.1)
    assert (counted, witness.seen, witness.dropped) == ([], 0, 40)  # an answer that comes too late counts nowhere
