"""What a row of a batch's results means: an answer, a call to be made again, or a text that the vendor will not take.

An unclear failure is the text's own where other texts were answered, which is known once all rows are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distill.teachers.api.http import ApiError, UnreadableError, unanswered
from distill.teachers.api.rejections import Rejection, rejection
from distill.teachers.batch.base import BatchApi, Row

MOST_ALIKE = 20
"""Calls of a batch that may be rejected in the same words where fewer are answered."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a call: its cost in dollars, and the response to keep, which is None where it is asked again.

    `problem` is what went wrong. It is `final` where asking again will not help, and `doubtful` while it is not known
    whether it is about this text alone.
    """

    cost_usd: float
    response: Mapping[str, Any] | None = None
    problem: str = ""
    final: bool = False
    doubtful: bool = False

    @property
    def settles(self) -> bool:
        """Whether there is something to settle before the call may be made again."""
        return self.response is not None or self.cost_usd > 0


class RowReader:
    """Reads the rows of batches for teachers that ask through `apis`, and knows which of these answered any text."""

    def __init__(self, apis: Sequence[BatchApi]) -> None:
        self._apis = apis
        self._answering: set[str] = set()
        self._again: set[str] = set()

    def read(self, api: BatchApi, row: Row, key: str, reserved: float) -> Result:
        """What came of the call of this key, for which so many dollars are reserved.

        A failure that may pass is doubtful only where it is the call's second one.
        """
        error, problem = row.error, row.problem
        if row.response is not None:
            error = self._failure(api, row.response)
            if error is None:
                self._answering.add(api.place)
                return Result(_cost(api, row.response, reserved), row.response)
            problem = f"paid for, but {error}"
        if error is None:
            return Result(0.0, problem=problem, final=row.final)
        cost = _cost(api, error.body, reserved if error.charged else 0.0)
        passing = error.passing if isinstance(error, UnreadableError) else error.retryable
        if passing and error.verdict is not None and key not in self._again:
            self._again.add(key)
            return Result(cost, problem=problem)
        if error.verdict is None:
            return Result(cost, problem=problem, final=not error.retryable)
        outcome: Literal["refused", "invalid"] = "refused" if error.verdict == "refused" else "invalid"
        kept = Rejection(outcome, error.said).response(error.body)
        return Result(cost, kept, problem, doubtful=error.verdict == "unclear")

    async def recognise(self, api: BatchApi, row: Row, key: str) -> None:
        """Take note of a row that was settled before, which may have been answered."""
        if row.response is not None and (paid := await api.api.account.recall(key)) is not None:
            self._answering.update([api.place] if rejection(paid.response) is None else [])

    def decide(self, api: BatchApi, doubtful: Iterable[tuple[str, Result]], answered: int) -> list[tuple[str, Result]]:
        """Decide doubtful results of a batch in which `answered` other calls were answered.

        Each becomes its text's own, or final where no text was answered, or too many failed in the same words.
        """
        results = list(doubtful)
        alike = Counter(result.problem for _, result in results)
        many = max(alike.values(), default=0) > max(MOST_ALIKE, answered)
        if api.place in self._answering and not many:
            return [(key, replace(result, problem="", doubtful=False)) for key, result in results]
        return [(key, replace(result, response=None, final=True, doubtful=False)) for key, result in results]

    def _failure(self, api: BatchApi, response: Mapping[str, Any]) -> ApiError | None:
        """Why no teacher that asks this API can read a response; None where one can."""
        failure = None
        for reader in (one.read for one in self._apis if one.place == api.place):
            try:
                reader(response)
            except UnreadableError as error:
                failure = unanswered(response, error, api.api.who, api.api.client.build_request("POST", ""))
            else:
                return None
        return failure


def _cost(api: BatchApi, body: object, unsaid: float) -> float:
    """What a call cost by the usage that is told, or `unsaid`."""
    usage = api.api.usage(body) if isinstance(body, Mapping) else None
    return unsaid if usage is None else api.api.price.of(usage) * api.api.price.batch
