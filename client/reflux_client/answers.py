"""Types of the service's answers, the functions that read them, and the one error of both clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

Reply = httpx.Response | httpx.RequestError
"""The result of one attempt: a response, or the error of httpx if there was none."""


@dataclass(frozen=True, slots=True)
class Score:
    """A label and its probability, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one text: its label, the `top` labels best first, and the number of tokens that were read.

    `truncated` says whether the text was longer than the model reads. `labels` are the labels above the threshold; only
    a multi-label bundle sends them. `decision` is what to do about the text, `abstain` meaning to ask a human; only a
    bundle with a decision sends it. `stage` is the stage that answered; only a cascade sends it. `deferred` says
    whether the text was left to the teacher; only a cascade that may ask it sends that. `fallback` is why the teacher
    did not answer it, None if it did. `logits` (one per label of the bundle) and `embedding` are None unless requested.
    """

    label: str
    score: float
    top: tuple[Score, ...]
    tokens: int
    truncated: bool
    labels: tuple[str, ...] | None = None
    logits: tuple[float, ...] | None = None
    embedding: tuple[float, ...] | None = None
    decision: str | None = None
    stage: str | None = None
    deferred: bool | None = None
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer to one request: one result per text, in order, and the `version` of the bundle that computed them."""

    request_id: str
    model: str
    version: str
    results: tuple[Result, ...]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Build it from the JSON body of a response. Raises KeyError or TypeError if a field is missing or wrong."""
        results = tuple(_result(result) for result in data["results"])
        return cls(data["request_id"], data["model"], data["version"], results)


class RefluxError(Exception):
    """A call failed. `code` is the service's error code, or `unreachable`, `timeout` or `unexpected_answer`.

    `status_code` is None if there was no response. `request_id` identifies the request in the service's log. From
    `classify_many`, `texts` holds the positions of the texts of the failed request, counted from 0.
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
    """Set `texts` on a RefluxError that is raised in the block."""
    try:
        yield
    except RefluxError as error:
        error.texts = texts
        raise


def read_classification(reply: Reply, count: int) -> Classification:
    """Read a response to a request of `count` texts. Raises RefluxError."""
    data = read_json(reply)
    try:
        classification = Classification.from_json(data)
    except (KeyError, TypeError) as unreadable:
        raise _unexpected(reply) from unreadable
    if len(classification.results) != count:
        raise _unexpected(reply)
    return classification


def read_object(reply: Reply) -> dict[str, Any]:
    """Read a successful response whose body is a JSON object. Raises RefluxError."""
    data = read_json(reply)
    if not isinstance(data, dict):
        raise _unexpected(reply)
    return data


def read_json(reply: Reply) -> Any:
    """Read the JSON body of a successful response. Raises RefluxError."""
    if not isinstance(reply, httpx.Response):
        raise RefluxError(_code(reply), f"{type(reply).__name__} {reply}".strip()) from reply
    try:
        data = reply.json()
        failure = None if reply.is_success else _failure(reply, data["error"])
    except (ValueError, KeyError, TypeError) as unreadable:
        raise _unexpected(reply) from unreadable
    if failure:
        raise failure
    return data


def _code(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "timeout"
    return "unreachable" if isinstance(error, httpx.TransportError) else "unexpected_answer"


def _failure(response: httpx.Response, error: Any) -> RefluxError:
    # The message of a refused key may quote the key.
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    message = str(error["message"])
    message = message.replace(key, "***") if key else message
    return RefluxError(error["code"], message, status_code=response.status_code, request_id=error["request_id"])


def _unexpected(reply: Reply) -> RefluxError:
    """Return the error for a response that Reflux did not send, such as a proxy's error page."""
    status = reply.status_code if isinstance(reply, httpx.Response) else None
    return RefluxError(
        "unexpected_answer",
        f"status {status} with a body that Reflux does not send; is the address right?",
        status_code=status,
    )


def _result(data: Any) -> Result:
    # Field by field: a newer service may send fields that this client does not know.
    return Result(
        label=data["label"],
        score=data["score"],
        top=tuple(Score(item["label"], item["score"]) for item in data["top"]),
        tokens=data["tokens"],
        truncated=data["truncated"],
        labels=_tuple(data.get("labels")),
        logits=_tuple(data.get("logits")),
        embedding=_tuple(data.get("embedding")),
        decision=data.get("decision"),
        stage=data.get("stage"),
        deferred=data.get("deferred"),
        fallback=data.get("fallback"),
    )


def _tuple(values: Any) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
