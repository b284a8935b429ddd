"""What is said is read strictly, and what follows from it converges to the truth as the number of draws lets it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distill.teachers.prompting import naming, votes

LABELS = ("billing", "Card arrival", "refund")


def vote(label: object) -> str:
    return json.dumps({"label": label})


def ranking(*entries: tuple[object, object]) -> str:
    return json.dumps({"ranking": [{"label": label, "confidence": confidence} for label, confidence in entries]})


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (vote("refund"), 2),
        (vote("REFUND"), 2),
        (vote("card  arrival "), 1),
        ("Billing\n", 0),
        (vote("refunds"), None),
        (vote(None), None),
        (vote(["refund"]), None),
        ('{"label": "refund"', None),
        ("I cannot tell", None),
        ("", None),
        ("3", None),
    ],
)
def test_a_vote_names_one_label_in_whatever_case(text, label) -> None:
    assert naming.named_label(text, LABELS) == label


def test_labels_that_differ_in_case_alone_are_told_apart_and_never_guessed() -> None:
    labels = ("Apple", "apple", "pear")
    assert [naming.label_of(name, labels) for name in ("Apple", "apple", "APPLE", "PEAR")] == [0, 1, None, 2]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (ranking(("refund", 0.7), ("billing", 0.2)), {2: 0.7, 0: 0.2}),
        (ranking(("REFUND", 1)), {2: 1.0}),
        (ranking(("refund", 70), ("billing", 20.5)), {2: 0.7, 0: 0.205}),
        (ranking(("refund", 0.9), ("billing", 0.9)), {2: 0.5, 0: 0.5}),
        (ranking(("refund", 0.6), ("refund", 0.3)), {2: 0.6}),
        (ranking(("refund", 0.6), ("weather", 0.3)), {2: 0.6}),
        (ranking(("weather", 50), ("refund", 0.6)), {2: 0.006}),
        (ranking(("refund", 1.2)), None),
        (ranking(("refund", 120)), None),
        (ranking(("refund", -0.1)), None),
        (ranking(("refund", True)), None),
        (ranking(("refund", "high")), None),
        (ranking(("refund", float("nan"))), None),
        (ranking(("refund", 0.0)), None),
        (ranking(("weather", 0.9)), None),
        (ranking(), None),
        ('{"ranking": "refund"}', None),
        ('{"ranking": ["refund"]}', None),
        ("refund", None),
    ],
)
def test_a_ranking_states_confidences_or_nothing(text, stated) -> None:
    read = votes.read_ranking(text, LABELS)
    assert read == (None if stated is None else pytest.approx(stated))


def test_an_answer_that_fits_the_schema_has_room_and_is_read() -> None:
    labels = ["é" * 40, 'a "quoted" label', "b"]
    entries = [{"label": label, "confidence": 0.333333} for label in labels]
    assert votes.vote_room(labels) > len(json.dumps({"label": labels[0]}, indent=2).encode())
    assert votes.ranking_room(labels, 3) > len(json.dumps({"ranking": entries}, indent=2).encode())
    schema = votes.ranking_schema(labels)["properties"]["ranking"]["items"]
    assert schema["properties"]["label"]["enum"] == labels
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["confidence", "label"]
    assert votes.vote_schema(labels)["properties"]["label"]["enum"] == labels


def test_votes_are_smoothed_by_half_a_vote_in_all() -> None:
    estimate = votes.counted([0, 0, 2], draws=4, count=4)
    assert estimate.probabilities == pytest.approx(np.array([2.125, 0.125, 1.125, 0.125]) / 3.5)
    assert (estimate.covered, estimate.tail) == (0.75, pytest.approx(0.25 / 3.5))
    assert estimate.probabilities.dtype == np.float32


def test_what_is_not_stated_is_spread_over_the_rest_and_kept_as_tail() -> None:
    estimate = votes.spread({2: 0.7, 0: 0.2}, 4)
    assert estimate.probabilities == pytest.approx([0.2, 0.05, 0.7, 0.05])
    assert (estimate.covered, estimate.tail) == (pytest.approx(0.9), pytest.approx(0.1))
    every = votes.spread({0: 0.3, 1: 0.3}, 2)
    assert every.probabilities == pytest.approx([0.5, 0.5])
    assert every.tail == pytest.approx(0.4)


@pytest.mark.parametrize(("count", "draws"), [(3, 1), (8, 8), (77, 16)])
def test_the_mean_of_many_texts_converges_to_the_truth_drawn_towards_even_as_the_prior_says(count, draws) -> None:
    generator = np.random.default_rng(count)
    truth = generator.dirichlet(np.full(count, 0.5))
    texts = 40_000
    counts = generator.multinomial(draws, truth, size=texts)
    counted = np.array(
        [votes.counted(np.repeat(np.arange(count), row).tolist(), draws, count).probabilities for row in counts[:500]]
    )
    assert counted == pytest.approx((counts[:500] + 0.5 / count) / (draws + 0.5), abs=1e-6)  # so the rest is fast
    mean = ((counts + 0.5 / count) / (draws + 0.5)).mean(axis=0)
    expected = (draws * truth + 0.5 / count) / (draws + 0.5)
    error = np.sqrt(draws * truth * (1 - truth) / texts) / (draws + 0.5)
    assert (np.abs(mean - expected) <= 5 * error + 1e-12).all()
    unbiased = (mean * (draws + 0.5) - 0.5 / count) / draws
    assert np.abs(unbiased - truth).sum() < 0.02


def test_smoothing_costs_less_than_it_saves_and_no_label_is_impossible() -> None:
    """Over texts whose truth is drawn anew, the smoothed estimate has a finite log loss near that of the truth."""
    generator = np.random.default_rng(1)
    truths = generator.dirichlet(np.full(8, 0.1), size=3000)
    losses = []
    for truth in truths:
        drawn = generator.choice(8, size=16, p=truth).tolist()
        estimate = votes.counted(drawn, 16, 8).probabilities.astype(np.float64)
        assert estimate.min() > 0
        losses.append(float(-(truth * np.log(estimate)).sum()))
    entropy = float(-(truths * np.log(np.maximum(truths, 1e-300))).sum(axis=1).mean())
    assert 0 < np.mean(losses) - entropy < 0.15


def test_intervals_from_the_smoothed_votes_cover_the_truth_as_they_should() -> None:
    """The posterior that the smoothing is the mean of, a Beta for each label, covers a truth drawn from its prior."""
    generator = np.random.default_rng(2)
    count, draws, inside, total = 5, 12, 0, 0
    for _ in range(1000):
        truth = generator.dirichlet(np.full(count, 0.5 / count))
        drawn = generator.choice(count, size=draws, p=truth).tolist()
        mean = votes.counted(drawn, draws, count).probabilities.astype(np.float64)
        strength = draws + 0.5
        sample = generator.beta(mean[0] * strength, (1 - mean[0]) * strength, size=400)
        low, high = np.quantile(sample, [0.05, 0.95])
        inside += low <= truth[0] <= high
        total += 1
    assert abs(inside / total - 0.9) < 0.035
