"""Probes which dialect of the chat API a server supports, and asks it questions of one token in that dialect.

Dialects are described in `chat_logprobs`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from distill.stages import fingerprint
from distill.teachers.account import PaidResponse
from distill.teachers.api.client import Api, ApiRequest, Call
from distill.teachers.api.errors import ApiError, UnreadableError
from distill.teachers.api.gateways import left_out
from distill.teachers.base import AnswerOutcome
from distill.teachers.errors import TeacherError
from distill.teachers.prompting import chat_logprobs
from distill.teachers.prompting.label_codes import Reading, label_codes, order_of
from distill.teachers.prompting.token_ids import token_ids
from distill.teachers.prompting.two_step import Choice

Exact = Literal["auto", "never", "always"]
"""Whether to request codes by token id: if the server supports it, never, or always (an error if it does not)."""

log = logging.getLogger(__name__)

ProbeQuestion = tuple[Choice, str]
PaidReading = tuple[Reading | AnswerOutcome, PaidResponse]


class Probe:
    """Asks questions of one token each, after probing the server. `version` is the teacher's."""

    def __init__(
        self,
        api: Api,
        version: str,
        *,
        model: str,
        start: chat_logprobs.Dialect,
        exact: Exact,
        min_covered: float,
        permutations: int,
        extra_body: Mapping[str, Any],
    ) -> None:
        self.api = api
        self._dialect_key = fingerprint(["dialect", version])
        self._model = model
        self._dialect = start
        self._exact = exact
        self._min_covered = min_covered
        self._permutations = permutations
        self._extra_body = extra_body
        self._recalled = self._prepared = False
        self._preparing = asyncio.Lock()

    def request(self, choice: Choice, text: str, repeat: int = 0) -> tuple[ApiRequest, tuple[int, ...]]:
        """The call for a question, and the option, by index, that each code stands for."""
        count = len(choice.options)
        order = order_of(text, count, self._permutations, repeat)
        body = {
            "model": self._model,
            "messages": choice.messages(text, order),
            **self._dialect.parameters(count),
            **self._extra_body,
        }
        fresh = repeat > 0 or not self._prepared
        return ApiRequest("/chat/completions", body, max_output=1, sample=repeat, fresh=fresh), order

    async def read(self, choice: Choice, text: str, repeat: int = 0) -> PaidReading:
        """Ask a question: its distribution or why there is none, and the paid response. Raises TeacherError."""
        for earlier in range(repeat):
            await self.api.remember(self.request(choice, text, earlier)[0])
        call = self._call(choice, text, repeat)
        return await self.api.call(call.request, call.read)

    async def recall(
        self, choice: Choice, text: str, repeat: int = 0
    ) -> tuple[ApiRequest, PaidResponse | None, Reading | AnswerOutcome | None]:
        """The call for a question, and the paid response and its reading if there is one; makes no call."""
        if not self._recalled and (kept := await self.api.account.recall(self._dialect_key)) is not None:
            self._dialect = chat_logprobs.Dialect(**kept.response)
        self._recalled = True
        request, order = self.request(choice, text, repeat)
        paid = await self.api.account.recall(self.api.key(request))
        return request, paid, None if paid is None else self._dialect.reading(paid.response, order, self.api.name)

    def usable(self, response: Mapping[str, Any]) -> None:
        """Raise UnreadableError for a response without an answer."""
        self._dialect.reading(response, (0, 1), self.api.name)

    async def prepare(self, probes: Sequence[ProbeQuestion]) -> None:
        """Find out what the server supports, and check that the model answers with codes. Only the first time costs.

        Raises TeacherError, which says what to do, if the server cannot be used.
        """
        async with self._preparing:
            if self._prepared:
                return
            await self.recall(*probes[0])
            readings = {0: await self._find_dialect(*probes[0])}
            if self._exact != "never" and not self._dialect.ids:
                readings = await self._try_token_ids(readings, probes)
            await self._check(probes, readings)
            await self._store_dialect()
            self.api.control = self._call(*probes[0])
            self._prepared = True

    def _call(self, choice: Choice, text: str, repeat: int = 0) -> Call[Reading | AnswerOutcome]:
        """The call for a question, to be read in the current dialect."""
        request, order = self.request(choice, text, repeat)
        dialect = self._dialect
        return Call(request, lambda response: dialect.reading(response, order, self.api.name))

    async def _find_dialect(self, choice: Choice, text: str) -> PaidReading:
        """Ask a question in one dialect after the other until the server accepts it."""
        tried = [self._dialect]
        while True:
            try:
                reading, paid = await self.read(choice, text)
            except UnreadableError as error:
                if error.lacks != chat_logprobs.NO_LOGPROBS or self.api.gateway is None:
                    raise
                raise TeacherError(f"{error}{left_out(self.api.gateway, *chat_logprobs.LOGPROBS)}") from error
            except ApiError as error:
                dialect = chat_logprobs.adapted(self._dialect, error, self.api.name)
                if dialect in tried:
                    raise
            else:
                usage = chat_logprobs.usage_of(paid.response)
                if usage is None or usage.output <= 1:
                    return reading, paid
                if (dialect := chat_logprobs.other_limit(self._dialect)) in tried:
                    raise TeacherError(
                        f"{self.api.name} generates {usage.output} tokens instead of one, so no budget would hold: "
                        "its server ignores max_tokens and max_completion_tokens"
                        f"{left_out(self.api.gateway, *chat_logprobs.LIMITS)}"
                    )
            tried.append(dialect)
            self._dialect = dialect

    async def _try_token_ids(
        self, readings: dict[int, PaidReading], probes: Sequence[ProbeQuestion]
    ) -> dict[int, PaidReading]:
        """Switch to token ids if the server supports them. Returns the readings in the new dialect.

        Raises TeacherError if token ids are required and not supported.
        """
        plain = self._dialect
        vllm = chat_logprobs.is_vllm(readings[0][1].response)
        if self._exact == "always" or vllm:
            names = label_codes(max(len(choice.options) for choice, _ in probes))
            self._dialect = replace(plain, ids=await token_ids(self.api, self._model, names))
        able = [index for index, (choice, _) in enumerate(probes) if self._dialect.requested(len(choice.options))]
        try:
            if able:
                again = {able[0]: await self._find_dialect(*probes[able[0]])}
                if self._dialect.ids:
                    return again
        except chat_logprobs.IgnoredParameterError:
            pass
        self._dialect = plain
        gateway = self.api.gateway
        if self._exact == "always":
            between = f". {gateway.name} stands between: give the server's own address as base_url" if gateway else ""
            raise TeacherError(
                f"{self.api.name}: `exact: always` needs a server that lists given token ids (vLLM: "
                f"logprob_token_ids), with /tokenize beside its API, and at most {chat_logprobs.MOST_IDS} labels whose "
                f"codes are one token{between}"
            )
        if gateway is not None or vllm:
            hidden = (
                f"{gateway.name} hides whether its server supports that"
                if gateway
                else "this server does not support that"
            )
            log.warning(
                "%s is asked for its %d likeliest tokens: listing given token ids needs vLLM from May 2026 on, with "
                "/tokenize, and %s. Answers are exact up to their `tail`; `exact: never` leaves out this warning",
                self.api.name,
                plain.top,
                hidden,
            )
        return readings

    async def _check(self, probes: Sequence[ProbeQuestion], readings: Mapping[int, PaidReading]) -> None:
        """Raise TeacherError if questions with some number of options are not answered with codes."""
        answers: dict[int, list[PaidReading]] = defaultdict(list)
        for index, (choice, text) in enumerate(probes):
            answers[len(choice.options)].append(readings.get(index) or await self.read(choice, text))
        for size, ones in answers.items():
            best, paid = max(ones, key=lambda one: _covered(one[0]))
            covered, tail = (0.0, 0.0) if isinstance(best, str) else (best.covered, best.tail)
            if covered < self._min_covered:
                raise TeacherError(
                    chat_logprobs.complaint(paid.response, covered, tail, self._min_covered, size, self.api.name)
                )

    async def _store_dialect(self) -> None:
        """Store the dialect in the account, next to the responses in it."""
        if await self.api.account.recall(self._dialect_key) is None:
            reservation = await self.api.account.reserve(0.0)
            await self.api.account.settle(
                reservation, 0.0, self._dialect_key, PaidResponse(asdict(self._dialect), 0.0, 0.0)
            )


def _covered(reading: Reading | AnswerOutcome) -> tuple[float, float]:
    return (-1.0, 0.0) if isinstance(reading, str) else (reading.covered, -reading.tail)
