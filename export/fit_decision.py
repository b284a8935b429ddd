"""Fit the decision of a bundle, offline: a task's rule as numbers, with what it leaves open chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from distill.abstain import ABSTAIN
from distill.decision import Abstain, Costs, Rule, Threshold
from distill.errors import DistillError
from export.bundle.decision import Decision, Floats, Ints, Novelty

_LEVEL = 0.95
"""The level of the lower bound that must reach the wanted precision."""

_ATTAINABLE = 1e-9  # below every probability: the best action is always taken


@dataclass(frozen=True, slots=True)
class Answers:
    """The student's answers to N texts: its probabilities [N, K] and embeddings [N, d]."""

    probabilities: Floats
    embeddings: Floats


def fit_decision(
    rule: Rule,
    labels: Sequence[str],
    validation: Answers,
    teacher: Floats,
    training: Answers | None = None,
) -> Decision:
    """Return the decision over `labels` that a task's rule means for this student.

    `validation` and the teacher's probabilities [N, K] of the same texts choose the cut-offs that the rule leaves open.
    `training` gives the prototypes of novelty and may be None for a rule without it. Raises DistillError when no
    cut-off reaches the wanted precision.
    """
    names = tuple(rule.map or labels)
    action_of = np.arange(len(labels))
    if rule.map is not None:
        action_of = np.array([next(i for i, name in enumerate(names) if label in rule.map[name]) for label in labels])
    actions = (*names, ABSTAIN) if rule.abstains() else names
    novelty = None
    if rule.novelty is not None:
        if training is None:
            raise ValueError("a rule with novelty needs the answers to training texts")
        novelty = fit_novelty(training, validation.embeddings, rule.novelty)
    if isinstance(rule, Costs):
        return Decision(actions, action_of, costs=_costs(rule, names), novelty=novelty)
    thresholds, otherwise = np.full(len(names), _ATTAINABLE), ABSTAIN
    if isinstance(rule, Threshold):
        thresholds, otherwise = np.array([rule.per_action.get(name, rule.at) for name in names]), rule.otherwise
    elif rule.below is not None:
        thresholds[:] = rule.below
    else:
        always = Decision(actions, action_of, thresholds, actions.index(ABSTAIN), novelty=novelty)
        thresholds = np.full(len(names), _cutoff(rule, always, validation, teacher))
    return Decision(actions, action_of, thresholds, actions.index(otherwise), novelty=novelty)


def fit_novelty(training: Answers, validation: Floats, share: float) -> Novelty:
    """Return the novelty that calls `share` of the validation embeddings [N, d] near to the training texts.

    A prototype is the mean direction of the training texts to which the student gives one label, seen from the mean of
    all of them.
    """
    embeddings = training.embeddings.astype(np.float64)
    centre = embeddings.mean(axis=0)
    directions = _unit(embeddings - centre)
    given = training.probabilities.argmax(axis=1)
    prototypes = _unit(np.stack([directions[given == label].mean(axis=0) for label in np.unique(given)]))
    novelty = Novelty(centre.astype(np.float32), prototypes.astype(np.float32), 2.0)
    cutoff = float(np.quantile(novelty.distances(validation), share))
    return Novelty(novelty.centre, novelty.prototypes, cutoff)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _costs(rule: Costs, names: Sequence[str]) -> Floats:
    """Return the costs [M, A] of the actions `names`, and of leaving a text to a human if the rule may."""
    costs = 1.0 - np.eye(len(names))
    for right, row in rule.costs.items():
        for taken, cost in row.items():
            costs[names.index(right), names.index(taken)] = cost
    return costs if rule.abstain is None else np.column_stack([costs, np.full(len(names), rule.abstain)])


def _cutoff(rule: Abstain, always: Decision, validation: Answers, teacher: Floats) -> float:
    """Return the least probability of an action at which it is taken; `always` is the rule without a cut-off."""
    novel = always.novel(validation.embeddings)
    near = np.ones(len(teacher), dtype=np.bool_) if novel is None else ~novel
    likely = always.likely(validation.probabilities[near])
    order = np.argsort(-likely.max(axis=1), kind="stable")
    top = likely.max(axis=1)[order]
    # Texts of equal probability are decided together.
    ends: Ints = np.append(np.flatnonzero(np.diff(top)) + 1, len(top))
    if rule.coverage is not None:
        decided = int(ends[ends >= rule.coverage * len(top)][0])
    elif rule.precision is not None:
        right = np.cumsum((likely.argmax(axis=1) == always.likely(teacher[near]).argmax(axis=1))[order])
        decided = _most_precise(ends, right[ends - 1], rule.precision)
    return float(top[decided - 1] + top[min(decided, len(top) - 1)]) / 2


def _most_precise(decided: Ints, right: Ints, precision: float) -> int:
    """Return the greatest of the numbers `decided` at which the share that is right is surely at least `precision`.

    Sure is a one-sided lower bound by Clopper and Pearson: the cut-off must not be one that luck alone made precise.
    """
    lower = np.where(right > 0, beta.ppf(1 - _LEVEL, np.maximum(right, 1), decided - right + 1), 0.0)
    if not (lower >= precision).any():
        best = int(lower.argmax())
        raise DistillError(
            f"decision.precision: {precision:g} is not sure on {decided[-1]} validation texts; at best the "
            f"{decided[best]} most certain ones are right in {lower[best]:.3f} or more. Lower it, add validation rows, "
            "or give `below`"
        )
    return int(decided[lower >= precision][-1])
