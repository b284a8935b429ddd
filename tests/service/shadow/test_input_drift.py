"""Input drift, live: foreign requests are found, usual ones never raise anything, each feature says what it saw."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from export.bundle.classifier import Prediction
from export.bundle.reference import Reference
from export.fit_drift import fit_drift
from export.fit_reference import fit_reference
from service.monitor.cells import SLOT_SECONDS
from service.shadow.input_counts import MOST_SLOTS
from service.shadow.input_drift import ENOUGH, FEATURES, InputDrift
from tests.service.shadow.conftest import REFERENCE, MakeShadow, prediction

CLASSES, WIDTH = 12, 16
CLASS_NAMES = tuple(f"class {index}" for index in range(CLASSES))
NOON = 1_700_000_100.0 // SLOT_SECONDS * SLOT_SECONDS
HOUR = 3600.0


def answers(generator: np.random.Generator, count: int, *, foreign: float = 0.0) -> list[Prediction]:
    """Return answers as a student gives them; a `foreign` share of texts is long, of another kind, and hard."""
    strange = generator.random(count) < foreign
    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    best = np.where(strange, generator.integers(0, 3, count), generator.integers(0, CLASSES, count))
    embeddings = (centres[best] + 0.5 * generator.normal(size=(count, WIDTH))).astype(np.float32)
    embeddings[strange] += 1.0
    scores = np.where(strange, generator.uniform(0.3, 0.7, count), 1 - 0.6 * generator.beta(0.4, 4.0, count))
    tokens = np.where(strange, 20, 4) + generator.poisson(8, count)
    unknown = generator.random(count) < np.where(strange, 0.3, 0.01)
    probabilities = np.full(CLASSES, 1 / CLASSES, dtype=np.float32)
    columns = zip(embeddings, tokens.tolist(), best.tolist(), scores.tolist(), unknown.tolist(), strict=True)
    return [
        Prediction(probabilities, probabilities, embedding, length, False, index, score, int(odd))
        for embedding, length, index, score, odd in columns
    ]


@pytest.fixture(scope="module")
def reference() -> Reference:
    generator = np.random.default_rng(1)
    known = answers(generator, 3000)
    scores = np.array([answer.score for answer in known])
    fitted = fit_reference(scores, generator.random(3000) < 0.7 * (1 - scores))
    return replace(fitted, drift=fit_drift(known, fitted, unknown=True))


def counted(reference: Reference, given: list[Prediction], time: float = NOON, slots: int = 1) -> InputDrift:
    """Count answers that were given evenly within `slots` slots until `time`."""
    inputs = InputDrift(reference, CLASS_NAMES, Random(0))
    for index, answer in enumerate(given):
        inputs.counts.count(answer, time - (slots - 1 - index * slots // len(given)) * SLOT_SECONDS)
    return inputs


def entries(inputs: InputDrift, time: float = NOON) -> dict[str, dict[str, Any]]:
    return {entry["feature"]: entry for entry in inputs.report(time)[0]["features"]}


def test_usual_requests_never_drift_and_a_fifth_of_foreign_ones_does(reference: Reference) -> None:
    generator = np.random.default_rng(2)
    usual = [counted(reference, answers(generator, 1000)).report(NOON)[1] for _ in range(60)]
    mixed = [counted(reference, answers(generator, 1000, foreign=0.2)).report(NOON)[1] for _ in range(20)]
    assert not any(usual)
    assert all(mixed)


def test_a_twentieth_of_foreign_requests_shows_in_five_thousand(reference: Reference) -> None:
    generator = np.random.default_rng(3)
    found = [counted(reference, answers(generator, 5000, foreign=0.05), slots=12).report(NOON)[1] for _ in range(4)]
    assert all(found)


def test_every_feature_says_what_it_saw(reference: Reference) -> None:
    inputs = counted(reference, answers(np.random.default_rng(4), 2000, foreign=0.5))
    section, drifted = inputs.report(NOON)
    found = entries(inputs)
    assert (section["status"], drifted) == ("drift", True)
    assert tuple(found) == FEATURES
    for entry in found.values():
        assert entry["drift"] is True, entry
        assert entry["statistic"] > entry["threshold"]
        assert entry["n"] == 2000
    assert "expected to disagree" in found["expected_disagreement"]["message"]
    assert "confidence band" in found["band"]["message"]
    assert "'class " in found["class"]["message"]
    assert "or more tokens" in found["length"]["message"]
    assert "have more than 0.0 % unknown tokens" in found["unknown"]["message"]
    assert "PSI" in found["length"]["message"]
    assert "squared distance" in found["embedding"]["message"]


def test_only_the_feature_that_changed_is_named(reference: Reference) -> None:
    given = [answer._replace(tokens=answer.tokens + 6) for answer in answers(np.random.default_rng(5), 2000)]
    found = entries(counted(reference, given))
    assert {name for name, entry in found.items() if entry["drift"]} == {"length"}


def test_an_hour_of_foreign_requests_shows_in_the_last_hour_after_a_calm_day(reference: Reference) -> None:
    generator = np.random.default_rng(6)
    inputs = InputDrift(reference, CLASS_NAMES)
    for hour in range(22):
        for answer in answers(generator, 1000):
            inputs.counts.count(answer, NOON + hour * HOUR)
    assert inputs.report(NOON + 21 * HOUR)[0]["status"] == "ok"
    for answer in answers(generator, 500, foreign=0.4):
        inputs.counts.count(answer, NOON + 22 * HOUR)
    found = entries(inputs, NOON + 22 * HOUR)["expected_disagreement"]
    assert (found["window"], found["n"], found["drift"]) == ("1h", 500, True)


def test_what_is_older_than_a_day_is_forgotten(reference: Reference) -> None:
    inputs = counted(reference, answers(np.random.default_rng(7), 1000, foreign=1.0))
    last = NOON + (MOST_SLOTS - 1) * SLOT_SECONDS
    assert inputs.report(last)[1]
    assert inputs.report(last + SLOT_SECONDS)[0]["status"] == "waiting"
    for answer in answers(np.random.default_rng(8), 1000):
        inputs.counts.count(answer, last + SLOT_SECONDS)
    assert inputs.report(last + SLOT_SECONDS)[0]["status"] == "ok"


def test_few_requests_are_waited_for(reference: Reference) -> None:
    given = answers(np.random.default_rng(9), ENOUGH, foreign=1.0)
    section, drifted = counted(reference, given[:-1]).report(NOON)
    assert (section["status"], drifted) == ("waiting", False)
    assert {entry["statistic"] for entry in section["features"]} == {None}
    assert f"{ENOUGH} are needed" in section["features"][0]["message"]
    assert counted(reference, given).report(NOON)[1]


def test_embeddings_are_drawn_more_rarely_the_more_requests_there_are_without_bias(reference: Reference) -> None:
    assert reference.drift is not None
    given = answers(np.random.default_rng(10), 20_000)
    given[10_000:] = [answer._replace(embedding=answer.embedding + 1) for answer in given[10_000:]]
    window = counted(reference, given).counts.window(1, NOON)
    drawn = window.weight**2 / window.weight_sq
    assert 500 < drawn < 3000
    assert window.weight == pytest.approx(20_000, rel=0.1)
    exact = reference.drift.features(np.stack([answer.embedding for answer in given])).mean(axis=0)
    assert np.abs(window.features / window.weight - exact).max() < 5 * np.sqrt(2 / exact.size / drawn)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_spoils_no_sum(reference: Reference, value: float) -> None:
    given = answers(np.random.default_rng(9), 1000)
    given[300] = given[300]._replace(embedding=np.full(WIDTH, value, dtype=np.float32))
    found = entries(counted(reference, given))["embedding"]
    assert 0.0 <= found["statistic"] < found["threshold"]


def test_a_bundle_without_a_reference_of_drift_is_compared_by_its_bands(reference: Reference) -> None:
    old = replace(reference, drift=None)
    inputs = counted(old, answers(np.random.default_rng(11), 1000, foreign=0.5))
    found = entries(inputs)
    assert inputs.report(NOON)[0]["status"] == "drift"
    assert {name for name, entry in found.items() if entry["statistic"] is not None} == {"band"}
    assert "older" in found["length"]["message"]


def test_a_bundle_of_few_validation_rows_is_compared_by_nothing(reference: Reference) -> None:
    tiny = replace(reference, drift=None, rows=reference.rows / 100, disagreements=reference.disagreements / 100)
    section, drifted = counted(tiny, answers(np.random.default_rng(12), 1000, foreign=1.0)).report(NOON)
    assert (section["status"], drifted) == ("off", False)


def test_a_tokenizer_without_unknown_tokens_lacks_that_feature_alone(reference: Reference) -> None:
    assert reference.drift is not None
    none = np.empty(0)
    inputs = counted(
        replace(reference, drift=replace(reference.drift, unknown=none, unknown_edges=none)),
        answers(np.random.default_rng(13), 1000),
    )
    found = entries(inputs)
    assert [name for name, entry in found.items() if entry["statistic"] is None] == ["unknown"]
    assert "no unknown token" in found["unknown"]["message"]


async def test_the_pipeline_counts_every_answer_and_reports(make_shadow: MakeShadow) -> None:
    shadow = make_shadow(enabled=False)
    await shadow.start()
    assert shadow.metric("drift_requests_total", feature="length", bin="0") == 0
    assert shadow.metric("drift_detected") == 0
    for _ in range(300):
        shadow.pipeline.observe("text", prediction(top=0.5))
    section = shadow.pipeline.gap()["drift"]["input"]
    assert section["status"] == "drift"
    assert shadow.metric("drift_detected") == 1
    assert shadow.metric("drift_requests_total", feature="length") == 300
    assert shadow.metric("drift_statistic", feature="band") > shadow.metric("drift_threshold", feature="band") > 0
    assert REFERENCE.drift is None
