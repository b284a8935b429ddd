"""Closed questions to decision APIs, in their two dialects, and the distributions in their answers.

`openai` is OpenAI's Decisions API, `systemone` TypeSafe's System One format, which many open servers speak. Both give a
probability for every option of a question. Their `confidence` is not read: vendors compute it differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distill.teachers.api.errors import UnreadableError
from distill.teachers.base import AnswerOutcome

DialectName = Literal["openai", "systemone"]
PATHS: Mapping[DialectName, str] = {"openai": "/decisions", "systemone": "/systemone"}
MAX_OPTIONS = 255

_NAMES: Mapping[DialectName, str] = {"openai": "OpenAI's Decisions API", "systemone": "System One"}
_ROUNDING = 1e-2
"""How far from 1 the sum of an answer's probabilities may be."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question: which of the N `options`? They are listed in this `order`, with the descriptions that they have."""

    name: str
    instructions: str
    options: tuple[str, ...]
    descriptions: Mapping[str, str]
    order: Sequence[int]

    @property
    def listed(self) -> dict[str, str | None]:
        """The description, or None, of each option, in the order in which to list them."""
        return {self.options[index]: self.descriptions.get(self.options[index]) for index in self.order}


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a question: `probabilities` float64 [N] in the order of its options, which sum to 1, if it is `ok`.

    `reason` says what is wrong with it otherwise; `total` is the mass on the options, as the server states it.
    """

    probabilities: npt.NDArray[np.float64] | None
    outcome: AnswerOutcome = "ok"
    reason: str = ""
    total: float = 0.0


def body(dialect: DialectName, text: str, questions: Sequence[Question]) -> dict[str, Any]:
    """The fields of a request that asks `questions` about a text."""
    if dialect == "openai":
        return {"input": text, "questions": [_openai_question(question) for question in questions]}
    return {
        "state": text,
        "questions": {
            question.name: {"type": "choice", "instructions": question.instructions, "criteria": question.listed}
            for question in questions
        },
    }


def decisions(
    dialect: DialectName, response: Mapping[str, Any], questions: Sequence[Question], server: str
) -> list[Decision]:
    """Read the answer to each question. Raises UnreadableError for a response in another format."""
    answers = response.get("answers")
    if isinstance(answers, Mapping if dialect == "openai" else list):
        raise _other_dialect(dialect, server)
    if dialect == "openai" and isinstance(answers, list) and len(answers) == len(questions):
        found = answers
    elif dialect == "systemone" and isinstance(answers, Mapping):
        found = [answers.get(question.name) for question in questions]
    else:
        why = "no answers" if answers is None else "not one answer for each question"
        raise UnreadableError(
            f"{server} gives no decision in the format of {_NAMES[dialect]} ({why}); are base_url and `dialect` right?",
            why,
        )
    return [_decision(dialect, answer, question, server) for answer, question in zip(found, questions, strict=True)]


def _openai_question(question: Question) -> dict[str, Any]:
    choices = [
        {"value": value} if description is None else {"value": value, "description": description}
        for value, description in question.listed.items()
    ]
    return {"type": "choice", "name": question.name, "instructions": question.instructions, "choices": choices}


def _decision(dialect: DialectName, answer: object, question: Question, server: str) -> Decision:
    kind = answer.get("type") if isinstance(answer, Mapping) else None
    if kind == "refusal":
        return Decision(None, "refused", "the model declined to answer")
    if not isinstance(answer, Mapping) or kind != "choice":
        why = "no answer to a question" if kind is None else f"an answer of the type {str(kind)[:30]} to a choice"
        raise UnreadableError(f"{server} gives {why}, so it does not speak the format of {_NAMES[dialect]}", why)
    stated = answer.get("probabilities")
    if isinstance(stated, Mapping if dialect == "openai" else list):
        raise _other_dialect(dialect, server)
    if isinstance(stated, list):  # a boolean is another value than the string of the same spelling
        entries = [entry for entry in stated if isinstance(entry, Mapping) and isinstance(entry.get("value"), str)]
        stated = {entry["value"]: entry.get("probability") for entry in entries}
    if not isinstance(stated, Mapping):
        return Decision(None, "invalid", "no `probabilities` in the answer")
    return _distribution(stated, question.options)


def _distribution(stated: Mapping[str, object], options: Sequence[str]) -> Decision:
    """Check that the probabilities cover all options and sum to 1; the answer is invalid if they do not."""
    values = [_probability(stated.get(option)) for option in options]
    if lacking := [option for option, value in zip(options, values, strict=True) if value is None]:
        shown = ", ".join(repr(option[:40]) for option in lacking[:3])
        return Decision(None, "invalid", f"no probability for {len(lacking)} of {len(options)} options: {shown}")
    probabilities = np.array(values, dtype=np.float64)
    total = float(probabilities.sum())
    if abs(total - 1.0) > _ROUNDING:
        return Decision(None, "invalid", f"the probabilities sum to {total:.3g} instead of 1", min(total, 1.0))
    return Decision(probabilities / total, total=min(total, 1.0))


def _probability(value: object) -> float | None:
    """A probability; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if 0 <= value <= 1 + _ROUNDING else None


def _other_dialect(dialect: DialectName, server: str) -> UnreadableError:
    other: DialectName = "systemone" if dialect == "openai" else "openai"
    return UnreadableError(
        f"{server} answers in the format of {_NAMES[other]}: set `dialect: {other}`", f"the format of {_NAMES[other]}"
    )
