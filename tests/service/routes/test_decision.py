"""A bundle with a decision says for each text what to do about it; other bundles answer as before."""

import numpy as np
import pytest

from export.bundle.classifier import Classifier
from export.bundle.decision import DECISION, Decision, Novelty
from reflux_client.answers import Classification
from service.errors import StartupError
from tests.support.tiny_bundle import WORDS, rewritten

LABELS = ("billing", "shipping", "account", "technical")
TEXTS = ["invoice refund", "parcel", "invoice parcel", "please help", "crash"]


def decided_bundle(bundle, path, **parts):
    rule = {"actions": (*LABELS, "abstain"), "action_of": np.arange(4), "thresholds": np.full(4, 0.6), "otherwise": 4}
    return rewritten(bundle, path, {DECISION: Decision(**{**rule, **parts}).to_bytes()})


async def classification(client, texts, **body):
    response = await client.post("/classify", json={"texts": texts, **body})
    assert response.status_code == 200, response.text
    return Classification.from_json(response.json())


async def decisions(running, bundle, texts):
    async with running(bundle=bundle.path) as client:
        return [result.decision for result in (await classification(client, texts)).results]


async def test_each_text_has_the_action_of_the_rule(running, tiny_bundle, tmp_path):
    bundle = decided_bundle(tiny_bundle, tmp_path / "bundle")
    assert await decisions(running, bundle, TEXTS) == ["billing", "shipping", "abstain", "abstain", "technical"]


async def test_labels_lead_to_the_actions_of_a_map(running, tiny_bundle, tmp_path):
    parts = {"actions": ('the "desk"', "lab"), "action_of": np.array([0, 0, 0, 1]), "thresholds": np.full(2, 0.6)}
    bundle = decided_bundle(tiny_bundle, tmp_path / "bundle", **parts, otherwise=1)
    desk = 'the "desk"'
    assert await decisions(running, bundle, TEXTS) == [desk, desk, desk, desk, "lab"]


async def test_a_text_unlike_the_training_texts_is_left_to_a_human_however_sure_the_student_is(
    running, tiny_bundle, tmp_path
):
    classifier = Classifier.load(tiny_bundle)
    known = np.stack([classifier.classify(" ".join(WORDS[label])).embedding for label in LABELS[:3]])
    novelty = Novelty(np.zeros(8), known / np.linalg.norm(known, axis=1, keepdims=True), 0.3)
    bundle = decided_bundle(tiny_bundle, tmp_path / "bundle", novelty=novelty)
    assert await decisions(running, bundle, ["invoice refund", "crash error bug"]) == ["billing", "abstain"]


async def test_everything_else_in_an_answer_stays(running, tiny_bundle, tmp_path):
    bundle = decided_bundle(tiny_bundle, tmp_path / "bundle")
    async with running(bundle=tiny_bundle.path) as client:
        before = (await client.post("/classify", json={"texts": TEXTS, "top_k": 2, "logits": True})).json()
    async with running(bundle=bundle.path) as client:
        after = (await client.post("/classify", json={"texts": TEXTS, "top_k": 2, "logits": True})).json()
    assert all("decision" not in result for result in before["results"])
    assert [{key: value for key, value in result.items() if key != "decision"} for result in after["results"]] == (
        before["results"]
    )


async def test_a_damaged_decision_is_refused_before_it_is_served(running, tiny_bundle, tmp_path):
    bundle = rewritten(tiny_bundle, tmp_path / "bundle", {DECISION: b"PK damaged"})
    with pytest.raises(StartupError, match=r"decision\.npz: not a decision"):
        async with running(bundle=bundle.path):
            pass
