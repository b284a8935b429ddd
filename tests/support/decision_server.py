"""A decision API as a handler, in both dialects, as strict as the types of the vendors' SDKs (openai, typesafe-sdk)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Change = Callable[[dict[str, Any]], dict[str, Any]]


def distribution(text: str, instructions: str, options: Sequence[str]) -> dict[str, float]:
    """Return probabilities of `options` that depend on all but their order; an option that the text names gets most."""
    weights = {}
    for option in options:
        digest = hashlib.sha256(f"{text}\0{instructions}\0{option}".encode()).digest()
        weights[option] = 1 + digest[0] + 10_000 * (option.lower() in text.lower())
    total = sum(weights.values())
    return {option: weight / total for option, weight in weights.items()}


@dataclass
class DecisionServer:
    """Answers `POST /v1/decisions` and `POST /v1/systemone`; `change` makes a response another one.

    `bodies` has the requests, `texts` what they ask about. A call costs a token for each character of its text.
    """

    change: Change = lambda response: response
    bodies: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    url: str = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        answer = {"/v1/decisions": _decide, "/v1/systemone": _system_one}.get(request.url.path)
        if request.method != "POST" or answer is None:
            return httpx.Response(404, json={"detail": "Not Found"})
        self.bodies.append(body)
        self.headers.append(request.headers)
        try:
            text, answers = answer(body)
        except (ValueError, KeyError, TypeError) as error:
            return httpx.Response(422, json={"detail": [{"loc": ["body"], "msg": repr(error), "type": "value_error"}]})
        self.texts.append(text)
        usage: dict[str, Any] = {"input_tokens": len(text), "output_tokens": len(answers)}
        if isinstance(answers, list):
            usage |= {
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": len(text) + len(answers),
            }
        return httpx.Response(200, json=self.change({"model": "tiny-1", "answers": answers, "usage": usage}))


def _decide(body: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """OpenAI's dialect: `DecisionCreateParams` and `Decision` of openai 3.57."""
    _only(body, {"model", "input", "questions"})
    text, questions = _string(body["input"]), body["questions"]
    if not 1 <= len(questions) <= 400:
        raise ValueError("between 1 and 400 questions")
    answers = []
    for question in questions:
        _only(question, {"type", "name", "instructions", "choices"})
        for choice in question["choices"]:
            _only(choice, {"value", "description"})
            _string(choice.get("description", ""))
        values = [_string(choice["value"]) for choice in question["choices"]]
        if not 2 <= len(values) <= 255 or len(set(values)) < len(values) or question["type"] != "choice":
            raise ValueError("between 2 and 255 choices, each of them unique")
        p = distribution(text, _string(question["instructions"]), values)
        answers.append(
            {
                "type": "choice",
                "name": question.get("name"),
                "choice": max(p, key=lambda value: p[value]),
                "confidence": 0.5,
                "probabilities": [{"value": value, "probability": p[value]} for value in values],
            }
        )
    return text, answers


def _system_one(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """System One: `SystemOneRequest` and `SystemOneResponse` of typesafe-sdk 0.7.5."""
    _only(body, {"model", "state", "questions"})
    text, answers = _string(body["state"]), {}
    for name, question in body["questions"].items():
        _only(question, {"type", "instructions", "criteria"})
        criteria = question["criteria"]
        if not 1 <= len(criteria) <= 255 or question["type"] != "choice":
            raise ValueError("between 1 and 255 options")
        p = distribution(text, _string(question["instructions"]), list(criteria))
        choice = max(p, key=lambda option: p[option])
        answers[name] = {"type": "choice", "choice": choice, "probabilities": p, "confidence": 0.5}
    return text, answers


def _only(found: Mapping[str, Any], known: set[str]) -> None:
    if unknown := found.keys() - known:
        raise ValueError(f"unknown parameters {sorted(unknown)}")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, not {type(value).__name__}")
    return value
