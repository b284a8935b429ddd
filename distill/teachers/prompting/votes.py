"""Distributions from a model that shows no probabilities: counted votes, or the confidences that it states.

Pure functions: the JSON schema of an answer, how to read it, and the resulting distribution. The calls are in
`distill.teachers.prompting.verbalised`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.teachers.prompting import naming

PRIOR = 0.5
"""The votes that smoothing adds, spread evenly over the K labels: 0.5/K each."""

_SLACK = 32  # tokens for white space in the JSON


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer: its `text`, whether it `refused`, and whether it was `cut` at its token limit."""

    text: str
    refused: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class LabelDistribution:
    """A distribution over K labels that is estimated from answers.

    `probabilities` float32 [K] sums to 1. `covered` is the share of the answers that names labels, `tail` the mass that
    was spread over labels that no answer names, both in [0, 1].
    """

    probabilities: npt.NDArray[np.float32]
    covered: float
    tail: float


def vote_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer that names one label."""
    return _object(label={"type": "string", "enum": list(labels)})


def ranking_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer that ranks labels, each with a confidence.

    Vendors do not accept bounds on numbers or lengths in a schema; the prompt states them, and reading checks them.
    """
    entry = _object(label={"type": "string", "enum": list(labels)}, confidence={"type": "number"})
    return _object(ranking={"type": "array", "items": entry})


def vote_room(labels: Sequence[str]) -> int:
    """Enough tokens for any vote: at most one per byte."""
    return max(_bytes({"label": label}) for label in labels) + _SLACK


def ranking_room(labels: Sequence[str], ranked: int) -> int:
    """Enough tokens for a ranking of `ranked` labels."""
    entry = max(_bytes({"label": label, "confidence": 0.123456}) for label in labels)
    return min(ranked, len(labels)) * (entry + _SLACK) + _SLACK


def read_ranking(text: str, labels: Sequence[str]) -> dict[int, float] | None:
    """The confidence, in [0, 1], that an answer states for each label it names, by index; None if it is not a ranking.

    Confidences with a sum above 1 are scaled down to 1.
    """
    confidences = naming.confidences_in(text, labels)
    total = sum(confidences.values()) if confidences else 0.0
    if confidences is None or total == 0:
        return None
    return {label: confidence / max(1.0, total) for label, confidence in confidences.items()}


def counted(votes: Sequence[int], draws: int, count: int) -> LabelDistribution:
    """Estimate the distribution over K labels from votes, smoothed by a Dirichlet prior of 0.5/K for each label.

    `votes` has the label of each of the `draws` that named one; at least one did. The prior moves the estimate towards
    the uniform distribution, with a weight of 0.5 / (votes + 0.5).
    """
    counts = np.bincount(votes, minlength=count)
    probabilities = (counts + PRIOR / count) / (len(votes) + PRIOR)
    tail = float(probabilities[counts == 0].sum())
    return LabelDistribution(probabilities.astype(np.float32), len(votes) / draws, tail)


def spread(confidences: Mapping[int, float], count: int) -> LabelDistribution:
    """The distribution over K labels from stated confidences, with the rest spread evenly over the other labels.

    If every label is named, the confidences are scaled up to 1.
    """
    probabilities = np.zeros(count)
    for label, confidence in confidences.items():
        probabilities[label] = confidence
    covered = min(1.0, float(probabilities.sum()))
    rest = [label for label in range(count) if label not in confidences]
    if rest:
        probabilities[rest] = (1.0 - covered) / len(rest)
    probabilities /= probabilities.sum()
    return LabelDistribution(probabilities.astype(np.float32), covered, 1.0 - covered)


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _bytes(value: object) -> int:
    return len(json.dumps(value).encode())
