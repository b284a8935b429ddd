"""Labels that a model says, where it shows no probabilities: votes counted, and confidences that it states.

Pure: what to say to a model, what shape its answer must have, how to read it, and what distribution follows. Who asks
is `distill.teachers.stated`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
    answer = _parsed(text)
    return label_of(answer.get("label") if isinstance(answer, Mapping) else text, labels)


def read_ranking(text: str, labels: Sequence[str]) -> dict[int, float] | None:
    """The confidence, in [0, 1], that an answer states for each label it names, by index; None where it is no ranking.

    A label that is named twice has what was said first. Numbers up to 100 are per cent where one is 2 or more; one
    between 1 and 2 makes no sense. More than everything in all is brought down to 1.
    """
    answer = _parsed(text)
    entries = answer.get("ranking") if isinstance(answer, Mapping) else None
    if not isinstance(entries, list):
        return None
    stated: dict[int, float] = {}
    largest = 0.0
    for entry in entries:
        label = label_of(entry.get("label"), labels) if isinstance(entry, Mapping) else None
        confidence = _number(entry.get("confidence")) if isinstance(entry, Mapping) else None
        if confidence is None:
            return None
        largest = max(largest, confidence)
        if label is not None:
            stated.setdefault(label, confidence)
    whole = 1.0 if largest <= 1 else 100.0
    total = sum(stated.values()) / whole
    if total == 0 or 1 < largest < 2 or largest > whole:
        return None
    return {label: confidence / whole / max(1.0, total) for label, confidence in stated.items()}


def label_of(name: object, labels: Sequence[str]) -> int | None:
    """The label of this name, by index: as it is written, else in whatever case, where that is only one."""
    if not isinstance(name, str):
        return None
    if name in labels:
        return labels.index(name)
    alike = [index for index, label in enumerate(labels) if _folded(label) == _folded(name)]
    return alike[0] if len(alike) == 1 else None


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


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    """A confidence as a number, where it is one and not below 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
