"""The live gap of a decision is how often the application would have acted otherwise on the teacher's answer."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from export.bundle.classifier import Classifier
from export.bundle.decision import DECISION, Decision, Novelty
from tests.support.tiny_bundle import WORDS, rewritten
from tests.support.waiting import PATIENCE

ACTIONS = ("front", "back", "abstain")
FRONT_AND_BACK = np.array([0, 0, 1, 1])
TEXTS = [f"{word} {second}" for label in WORDS for word in WORDS[label] for second in ("card", "bug", "please")]


def rule(novelty=None):
    return Decision(ACTIONS, FRONT_AND_BACK, np.array([0.7, 0.7]), 2, novelty=novelty)


def half_of_the_texts_are_near(student):
    embeddings = np.stack([student.classify(text).embedding for text in TEXTS])
    centre = embeddings.mean(axis=0)
    known = np.stack([student.classify(" ".join(WORDS[label])).embedding - centre for label in WORDS])
    novelty = Novelty(centre, known / np.linalg.norm(known, axis=1, keepdims=True), 0.0)
    return dataclasses.replace(novelty, cutoff=float(np.median(novelty.distances(embeddings))))


@pytest.fixture(scope="module")
def classifiers(tiny_bundle, tiny_teacher):
    """The student and the teacher, without the service."""
    return Classifier.load(tiny_bundle), Classifier.load(tiny_teacher)


def expected(decision, classifiers):
    """The gap of the decision, and that of labels, computed text by text."""
    student, teacher = ([classifier.classify(text) for text in TEXTS] for classifier in classifiers)
    embeddings = [answer.embedding for answer in student]  # novelty is a property of the text
    acted, followed = (
        [decision.act(answer.probabilities, embedding) for answer, embedding in zip(answers, embeddings, strict=True)]
        for answers in (student, teacher)
    )
    labels = [one.best != other.best for one, other in zip(student, teacher, strict=True)]
    return np.mean([one != other for one, other in zip(acted, followed, strict=True)]), np.mean(labels)


async def live(running, bundle, teacher, tmp_path, *, texts=TEXTS):
    """`GET /gap` once every text is compared."""
    shadow = {
        "enabled": True,
        "teacher": {"kind": "bundle", "path": str(teacher.path)},
        "rate": 1.0,
        "path": tmp_path / "shadow.sqlite",
    }
    async with running(bundle=bundle.path, shadow=shadow) as client:

        async def gap():
            return (await client.get("/gap")).json()

        before = (await gap())["counts"]["compared"]
        for start in range(0, len(texts), 16):
            response = await client.post("/classify", json={"texts": texts[start : start + 16]})
            assert response.status_code == 200, response.text
        async with asyncio.timeout(PATIENCE):
            while sum((found := await gap())["outcomes"].values()) < before + len(texts):
                await asyncio.sleep(0.01)
        return found


@pytest.mark.parametrize("novel", [False, True])
async def test_it_is_counted_from_what_both_would_have_the_application_do(
    running, tiny_bundle, tiny_teacher, classifiers, tmp_path, novel
):
    decision = rule(half_of_the_texts_are_near(classifiers[0]) if novel else None)
    bundle = rewritten(tiny_bundle, tmp_path / "bundle", {DECISION: decision.to_bytes()})
    decisions, labels = expected(decision, classifiers)
    assert 0 < decisions != labels > 0
    if novel:
        assert decisions != expected(rule(), classifiers)[0]
    found = await live(running, bundle, tiny_teacher, tmp_path)
    assert found["gap"]["ratio"] == pytest.approx(labels)
    assert found["decision"]["ratio"] == pytest.approx(decisions)
    assert found["decision"]["lower"] < decisions < found["decision"]["upper"]
    assert found["decision"]["compared"] == len(TEXTS)


async def test_it_survives_a_restart(running, tiny_bundle, tiny_teacher, classifiers, tmp_path):
    bundle = rewritten(tiny_bundle, tmp_path / "bundle", {DECISION: rule().to_bytes()})
    first = await live(running, bundle, tiny_teacher, tmp_path)
    again = await live(running, bundle, tiny_teacher, tmp_path, texts=[])
    assert again["decision"] == first["decision"]


async def test_a_bundle_without_a_decision_has_no_gap_of_it(running, tiny_bundle, tiny_teacher, tmp_path):
    assert (await live(running, tiny_bundle, tiny_teacher, tmp_path, texts=TEXTS[:3]))["decision"] is None
