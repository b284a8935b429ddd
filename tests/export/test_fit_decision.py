"""What a task's rule leaves open is chosen on validation so that it holds on other texts."""

import numpy as np
import pytest

from distill.decision import Abstain, Costs, Threshold
from distill.errors import DistillError
from export.fit_decision import Answers, fit_decision

LABELS = ("a", "b", "c")


def drawn(generator, count, spread=0.5):
    """A calibrated student's answers to `count` texts, and those of a teacher that gives one label."""
    rows = generator.dirichlet(np.full(3, spread), size=count)
    teacher = np.eye(3)[[generator.choice(3, p=row) for row in rows]]
    centres = np.eye(3, 6)
    embeddings = centres[rows.argmax(1)] + 0.1 * generator.normal(size=(count, 6)) + 5
    return Answers(rows, embeddings), teacher


def names(decision, answers):
    return np.array(decision.actions)[decision.choose(answers.probabilities, decision.novel(answers.embeddings))]


def test_given_numbers_are_taken_over():
    validation, teacher = drawn(np.random.default_rng(0), 50)
    rule = Threshold(kind="threshold", at=0.7, per_action={"b": 0.4}, otherwise="c")
    fitted = fit_decision(rule, LABELS, validation, teacher)
    assert (fitted.actions, fitted.thresholds.tolist(), fitted.otherwise) == (LABELS, [0.7, 0.4, 0.7], 2)
    fitted = fit_decision(Abstain(kind="abstain", below=0.6), LABELS, validation, teacher)
    assert (fitted.actions[-1], fitted.thresholds.tolist(), fitted.otherwise) == ("abstain", [0.6] * 3, 3)


def test_costs_are_1_for_a_mistake_unless_they_are_given():
    validation, teacher = drawn(np.random.default_rng(0), 50)
    rule = Costs(kind="costs", map={"x": ("a", "c"), "y": ("b",)}, costs={"y": {"x": 9}}, abstain=0.25)
    fitted = fit_decision(rule, LABELS, validation, teacher)
    assert fitted.actions == ("x", "y", "abstain")
    assert fitted.costs.tolist() == [[0, 1, 0.25], [9, 0, 0.25]]
    assert names(fitted, Answers(np.array([[0.5, 0.01, 0.49], [0.1, 0.9, 0.0]]), np.zeros((2, 6)))).tolist() == [
        "x",
        "y",
    ]


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_the_wanted_share_of_other_texts_is_decided(coverage):
    generator = np.random.default_rng(1)
    fitted = fit_decision(Abstain(kind="abstain", coverage=coverage), LABELS, *drawn(generator, 2000))
    other, _ = drawn(generator, 20_000)
    assert (names(fitted, other) != "abstain").mean() == pytest.approx(coverage, abs=0.03)


def test_the_wanted_precision_holds_on_other_texts_in_9_of_10_simulations_and_wastes_little():
    precisions, shares = [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        fitted = fit_decision(Abstain(kind="abstain", precision=0.9), LABELS, *drawn(generator, 400, 0.2))
        other, _ = drawn(generator, 4000, 0.2)
        decided = names(fitted, other) != "abstain"
        # Of a calibrated student the expected precision is known, without the noise of drawn labels.
        precisions.append(other.probabilities[decided].max(axis=1).mean())
        shares.append(decided.mean())
    assert np.mean(np.array(precisions) >= 0.9) >= 0.9
    possible, _ = drawn(np.random.default_rng(7), 20_000, 0.2)
    top = np.sort(possible.probabilities.max(axis=1))[::-1]
    ideal = (np.cumsum(top) / np.arange(1, len(top) + 1) >= 0.9).mean()
    assert np.mean(shares) >= 0.8 * ideal


def test_a_precision_that_cannot_be_reached_is_refused_with_the_best_there_is():
    with pytest.raises(DistillError, match=r"decision\.precision: 0\.99 is not sure on 30 validation texts; at best"):
        fit_decision(Abstain(kind="abstain", precision=0.99), LABELS, *drawn(np.random.default_rng(2), 30))


def test_texts_of_equal_probability_are_decided_alike():
    rows = np.array([[0.8, 0.1, 0.1]] * 8 + [[0.5, 0.3, 0.2]] * 2)
    validation = Answers(rows, np.zeros((10, 6)))
    fitted = fit_decision(Abstain(kind="abstain", coverage=0.5), LABELS, validation, rows)
    assert names(fitted, validation).tolist() == ["a"] * 8 + ["abstain"] * 2


def test_the_wanted_share_of_texts_is_near_and_foreign_texts_are_not():
    generator = np.random.default_rng(3)
    training, _ = drawn(generator, 2000)
    validation, teacher = drawn(generator, 1000)
    rule = Abstain(kind="abstain", below=0.01, novelty=0.95)
    fitted = fit_decision(rule, LABELS, validation, teacher, training)
    other, _ = drawn(generator, 5000)
    assert (names(fitted, other) == "abstain").mean() == pytest.approx(0.05, abs=0.015)
    # Directions that no training text has. The common part of all embeddings must not hide it.
    foreign = Answers(other.probabilities, 5 + np.eye(3, 6, k=3)[other.probabilities.argmax(1)])
    assert (names(fitted, foreign) == "abstain").all()
