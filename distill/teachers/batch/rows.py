"""Interprets the results of a batch: an answer, a call to repeat, or a text that the vendor rejects.

An unclear failure concerns its text if other texts were answered, which is known once all rows are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distill.teachers.api.errors import ApiError, UnreadableError, error_of_unreadable
from distill.teachers.api.rejections import Rejection, rejection
from distill.teachers.batch.base import BatchApi, ResultRow

MAX_ALIKE = 20
"""The most calls of a batch that may fail in the same words, unless more are answered."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The outcome of a call: its cost in dollars, and the response to store, which is None if the call is repeated.

    `problem` says what went wrong. It is `final` if a retry cannot help, and `doubtful` while it is not known whether
    it concerns only this text.
    """

    cost_usd: float
    response: Mapping[str, Any] | None = None
    problem: str = ""
    final: bool = False
    doubtful: bool = False

    @property
    def settles(self) -> bool:
        """Whether there is something to settle before the call may be repeated."""
        return self.response is not None or self.cost_usd > 0


class RowReader:
    """Reads the rows of batches of `apis`, and keeps track of which of these answered any text."""

    def __init__(self, apis: Sequence[BatchApi]) -> None:
        self._apis = apis
        self._answering: set[str] = set()
        self._repeated: set[str] = set()

    def read(self, api: BatchApi, row: ResultRow, key: str, reserved: float) -> CallResult:
        """Read the row of a call for which `reserved` dollars are reserved.

        The first transient failure of a call is repeated; only the second is doubtful.
        """
        error, problem = row.error, row.problem
        if row.response is not None:
            error = self._failure(api, row.response)
            if error is None:
                self._answering.add(api.place)
                return CallResult(_cost(api, row.response, reserved), row.response)
            problem = f"paid for, but {error}"
        if error is None:
            return CallResult(0.0, problem=problem, final=row.final)
        cost = _cost(api, error.body, reserved if error.charged else 0.0)
        transient = error.transient if isinstance(error, UnreadableError) else error.retryable
        if transient and error.verdict is not None and key not in self._repeated:
            self._repeated.add(key)
            return CallResult(cost, problem=problem)
        if error.verdict is None:
            return CallResult(cost, problem=problem, final=not error.retryable)
        outcome: Literal["refused", "invalid"] = "refused" if error.verdict == "refused" else "invalid"
        kept = Rejection(outcome, error.reason).response(error.body)
        return CallResult(cost, kept, problem, doubtful=error.verdict == "unclear")

    async def recognise(self, api: BatchApi, row: ResultRow, key: str) -> None:
        """Note whether a row that was settled before was answered."""
        if row.response is not None and (paid := await api.api.account.recall(key)) is not None:
            self._answering.update([api.place] if rejection(paid.response) is None else [])

    def decide(
        self, api: BatchApi, doubtful: Iterable[tuple[str, CallResult]], answered: int
    ) -> list[tuple[str, CallResult]]:
        """Decide the doubtful results of a batch in which `answered` other calls were answered.

        Each concerns its own text, unless no text was answered or too many failed in the same words: then it is final.
        """
        results = list(doubtful)
        alike = Counter(result.problem for _, result in results)
        many = max(alike.values(), default=0) > max(MAX_ALIKE, answered)
        if api.place in self._answering and not many:
            return [(key, replace(result, problem="", doubtful=False)) for key, result in results]
        return [(key, replace(result, response=None, final=True, doubtful=False)) for key, result in results]

    def _failure(self, api: BatchApi, response: Mapping[str, Any]) -> ApiError | None:
        """Why no teacher of this API can read a response; None if one can."""
        failure = None
        for reader in (one.read for one in self._apis if one.place == api.place):
            try:
                reader(response)
            except UnreadableError as error:
                request = api.api.client.build_request("POST", "")
                failure = error_of_unreadable(response, error, api.api.name, request)
            else:
                return None
        return failure


def _cost(api: BatchApi, body: object, otherwise: float) -> float:
    """The cost of a call by the usage that its body reports, or `otherwise` without one."""
    usage = api.api.usage(body) if isinstance(body, Mapping) else None
    return otherwise if usage is None else api.api.price.cost(usage) * api.api.price.batch
