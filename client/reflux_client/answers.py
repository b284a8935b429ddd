"""What the service answers, as types, and the one error for when it does not. How to ask is not here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

Outcome = httpx.Response | httpx.RequestError
"""What comes of asking once."""


@dataclass(frozen=True, slots=True)
class Score:
    """A label and its probability, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one text: its label, the `top` labels best first, and how much of it was read.

    `labels` are those above the threshold, from a bundle that gives a text several. `logits` (one per label of the
    bundle) and `embedding` are there if they were asked for.
    """

    label: str
    score: float
    top: tuple[Score, ...]
    tokens: int
    truncated: bool
    labels: tuple[str, ...] | None = None
    logits: tuple[float, ...] | None = None
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer to one request: a result per text, in order, and the bundle `version` that gave them."""

    request_id: str
    model: str
    version: str
    results: tuple[Result, ...]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the body of an answer. Raises KeyError or TypeError when it is not one."""
        results = tuple(_result(result) for result in data["results"])
        return cls(data["request_id"], data["model"], data["version"], results)


class RefluxError(Exception):
    """No answer. `code` is the service's word for it, or `unreachable`, `timeout` or `unexpected_answer`.

    `status_code` is None when there was no response, `request_id` finds the request in the service's log. From
    `classify_many`, `texts` says which of them it is about, counted from 0.
    """

    def __init__(
        self, code: str, message: str, *, status_code: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status_code = status_code
        self.request_id = request_id
        self.texts: range | None = None

    def __str__(self) -> str:
        which = f" (texts {self.texts.start} to {self.texts.stop - 1})" if self.texts else ""
        return f"{self.code}: {self.message}{which}"


@contextmanager
def about(texts: range) -> Iterator[None]:
    """An error raised in here says that it is about these texts."""
    try:
        yield
    except RefluxError as error:
        error.texts = texts
        raise


def read_classification(outcome: Outcome, count: int) -> Classification:
    """Read the answer to `count` texts. Raises RefluxError."""
    data = read_json(outcome)
    try:
        classification = Classification.from_json(data)
    except (KeyError, TypeError) as unreadable:
        raise _unexpected(outcome) from unreadable
    if len(classification.results) != count:
        raise _unexpected(outcome)
    return classification


def read_object(outcome: Outcome) -> dict[str, Any]:
    """Read an answer that is a JSON object. Raises RefluxError."""
    data = read_json(outcome)
    if not isinstance(data, dict):
        raise _unexpected(outcome)
    return data


def read_json(outcome: Outcome) -> Any:
    """Read an answer that is a success. Raises RefluxError."""
    if not isinstance(outcome, httpx.Response):
        raise RefluxError(_code(outcome), f"{type(outcome).__name__} {outcome}".strip()) from outcome
    try:
        data = outcome.json()
        failure = None if outcome.is_success else _failure(outcome, data["error"])
    except (ValueError, KeyError, TypeError) as unreadable:
        raise _unexpected(outcome) from unreadable
    if failure:
        raise failure
    return data


def _code(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    return "unreachable" if isinstance(error, httpx.TransportError) else "unexpected_answer"


def _failure(response: httpx.Response, error: Any) -> RefluxError:
    # Whoever refuses a key may repeat it.
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    message = str(error["message"])
    message = message.replace(key, "***") if key else message
    return RefluxError(error["code"], message, status_code=response.status_code, request_id=error["request_id"])


def _unexpected(outcome: Outcome) -> RefluxError:
    """The error for what is not from Reflux: a proxy's page, say."""
    status = outcome.status_code if isinstance(outcome, httpx.Response) else None
    return RefluxError(
        "unexpected_answer",
        f"status {status} with a body that Reflux does not send; is the address right?",
        status_code=status,
    )


def _result(data: Any) -> Result:
    # Field by field, so that a service that says more is still understood.
    return Result(
        label=data["label"],
        score=data["score"],
        top=tuple(Score(item["label"], item["score"]) for item in data["top"]),
        tokens=data["tokens"],
        truncated=data["truncated"],
        labels=_tuple(data.get("labels")),
        logits=_tuple(data.get("logits")),
        embedding=_tuple(data.get("embedding")),
    )


def _tuple(values: Any) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
