"""Labels that a model says, where it shows no probabilities: votes counted, and confidences that it states.

Pure: what to say to a model, what shape its answer must have, how to read it, and what distribution follows. Who asks
is `distill.teachers.prompting.verbalised`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.teachers.prompting import naming
from distill.teachers.prompting.naming import label_of as label_of

PRIOR = 0.5
"""Votes that smoothing adds in all, evenly over the labels: 0.5/K for each."""

_SLACK = 32  # tokens for spaces and line breaks that a model may put into its JSON


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered: its `text`, whether it `refused`, and whether it was `cut` for want of room."""

    text: str
    refused: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """A distribution over K labels that rests on what a model said.

    `probabilities` float32 [K] sums to 1. `covered` is the share of what was said that names labels, `tail` the mass
    that was spread over labels of which nothing was said, both in [0, 1].
    """

    probabilities: npt.NDArray[np.float32]
    covered: float
    tail: float


def vote_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer that names one label."""
    return _object(label={"type": "string", "enum": list(labels)})


def ranking_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of an answer that ranks labels with a confidence each.

    Vendors do not take bounds of numbers or lengths in a schema; the prompt states them, and reading checks them.
    """
    entry = _object(label={"type": "string", "enum": list(labels)}, confidence={"type": "number"})
    return _object(ranking={"type": "array", "items": entry})


def vote_room(labels: Sequence[str]) -> int:
    """Tokens that are enough for any vote: no tokenizer makes more of them than there are bytes."""
    return max(_bytes({"label": label}) for label in labels) + _SLACK


def ranking_room(labels: Sequence[str], ranked: int) -> int:
    """Tokens that are enough for a ranking of so many labels."""
    entry = max(_bytes({"label": label, "confidence": 0.123456}) for label in labels)
    return min(ranked, len(labels)) * (entry + _SLACK) + _SLACK


def read_vote(text: str, labels: Sequence[str]) -> int | None:
    """The label that an answer names, by index; None where it names none. A bare name will do too."""
    return naming.named(text, labels)


def read_ranking(text: str, labels: Sequence[str]) -> dict[int, float] | None:
    """The confidence, in [0, 1], that an answer states for each label it names, by index; None where it is no ranking.

    More than everything in all is brought down to 1.
    """
    stated = naming.stated(text, labels)
    total = sum(stated.values()) if stated else 0.0
    if stated is None or total == 0:
        return None
    return {label: confidence / max(1.0, total) for label, confidence in stated.items()}


def counted(votes: Sequence[int], draws: int, count: int) -> Estimate:
    """The distribution over K labels from votes, smoothed by a Dirichlet prior of 0.5/K for each label.

    `votes` are those of `draws` answers that named a label, at least one. The estimate is pulled towards even by
    0.5 / (votes + 0.5) of the way, and its resolution is one vote.
    """
    heard = np.zeros(count)
    for label, times in Counter(votes).items():
        heard[label] = times
    probabilities = (heard + PRIOR / count) / (len(votes) + PRIOR)
    return Estimate(probabilities.astype(np.float32), len(votes) / draws, float(probabilities[heard == 0].sum()))


def spread(stated: Mapping[int, float], count: int) -> Estimate:
    """The distribution over K labels from stated confidences, what they leave spread over the labels not named.

    Where every label is named, they are brought up to 1.
    """
    probabilities = np.zeros(count)
    for label, confidence in stated.items():
        probabilities[label] = confidence
    covered = min(1.0, float(probabilities.sum()))
    rest = [label for label in range(count) if label not in stated]
    if rest:
        probabilities[rest] = (1.0 - covered) / len(rest)
    probabilities /= probabilities.sum()
    return Estimate(probabilities.astype(np.float32), covered, 1.0 - covered)


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _bytes(value: object) -> int:
    return len(json.dumps(value).encode())
