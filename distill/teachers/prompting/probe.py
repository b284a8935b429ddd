"""Questions to one server, in the dialect it was found to take: the probe before the first of them, and the asking.

`chat_logprobs` says what a dialect is; the teacher says what the answers make of a text.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from distill.stages import fingerprint
from distill.teachers.account import Paid
from distill.teachers.api.client import Api, Call, Request
from distill.teachers.api.http import ApiError
from distill.teachers.base import Outcome
from distill.teachers.errors import TeacherError
from distill.teachers.prompting import chat_logprobs
from distill.teachers.prompting.label_codes import Reading, codes, order_of
from distill.teachers.prompting.token_ids import token_ids
from distill.teachers.prompting.two_step import Choice

Exact = Literal["auto", "never", "always"]
"""Whether to ask for codes by their token ids: where the server can, not at all, or else not at all."""

log = logging.getLogger(__name__)

Probe = tuple[Choice, str]
Heard = tuple[Reading | Outcome, Paid]


class Dialogue:
    """Asks for one token a question. `version` is the teacher's, which determines what a server is asked."""

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
        self._agreement = fingerprint(["dialect", version])
        self._model = model
        self._dialect = start
        self._exact = exact
        self._min_covered = min_covered
        self._permutations = permutations
        self._extra_body = extra_body
        self._recalled = self._prepared = False
        self._preparing = asyncio.Lock()

    def request(self, choice: Choice, text: str, repeat: int = 0) -> tuple[Request, tuple[int, ...]]:
        """The call for a question, and the option that each code stands for in it."""
        count = len(choice.options)
        order = order_of(text, count, self._permutations, repeat)
        body = {
            "model": self._model,
            "messages": choice.messages(text, order),
            **self._dialect.parameters(count),
            **self._extra_body,
        }
        fresh = repeat > 0 or not self._prepared
        return Request("/chat/completions", body, max_output=1, sample=repeat, fresh=fresh), order

    async def read(self, choice: Choice, text: str, repeat: int = 0) -> Heard:
        """One call: what it says of the options, or why nothing, and what was paid. Raises TeacherError."""
        for earlier in range(repeat):
            await self.api.remember(self.request(choice, text, earlier)[0])
        call = self._call(choice, text, repeat)
        return await self.api.call(call.request, call.read)

    async def recall(
        self, choice: Choice, text: str, repeat: int = 0
    ) -> tuple[Request, Paid | None, Reading | Outcome | None]:
        """The call for a question, and what was paid for it and read before; it makes none."""
        if not self._recalled and (kept := await self.api.account.recall(self._agreement)) is not None:
            self._dialect = chat_logprobs.Dialect(**kept.response)
        self._recalled = True
        request, order = self.request(choice, text, repeat)
        paid = await self.api.account.recall(self.api.key(request))
        return request, paid, None if paid is None else self._dialect.reading(paid.response, order, self.api.who)

    def usable(self, response: Mapping[str, Any]) -> None:
        """Raise TeacherError for a response that says nothing of any code."""
        self._dialect.reading(response, (0, 1), self.api.who)

    async def prepare(self, probes: Sequence[Probe]) -> None:
        """Find out what the server takes, and see that the model answers with codes. Only the first time costs.

        Raises TeacherError where the server cannot be used like this, and says what to do.
        """
        async with self._preparing:
            if self._prepared:
                return
            await self.recall(*probes[0])
            heard = {0: await self._agree(*probes[0])}
            if self._exact != "never" and not self._dialect.ids:
                heard = await self._agree_on_ids(heard, probes)
            await self._check(probes, heard)
            await self._keep()
            self.api.control = self._call(*probes[0])
            self._prepared = True

    def _call(self, choice: Choice, text: str, repeat: int = 0) -> Call[Reading | Outcome]:
        """A question, and how to read what the server answers in the dialect of now."""
        request, order = self.request(choice, text, repeat)
        dialect = self._dialect
        return Call(request, lambda response: dialect.reading(response, order, self.api.who))

    async def _agree(self, choice: Choice, text: str) -> Heard:
        """Put a question until the server takes it, in another dialect each time."""
        tried = [self._dialect]
        while True:
            try:
                reading, paid = await self.read(choice, text)
            except ApiError as error:
                dialect = chat_logprobs.adapted(self._dialect, error, self.api.who)
                if dialect in tried:
                    raise
            else:
                usage = chat_logprobs.usage_of(paid.response)
                if usage is None or usage.output <= 1:
                    return reading, paid
                if (dialect := chat_logprobs.other_limit(self._dialect)) in tried:
                    raise TeacherError(
                        f"{self.api.who} generates {usage.output} tokens where one is asked for, so that no budget "
                        "could hold: its server obeys neither max_tokens nor max_completion_tokens"
                    )
            tried.append(dialect)
            self._dialect = dialect

    async def _agree_on_ids(self, heard: dict[int, Heard], probes: Sequence[Probe]) -> dict[int, Heard]:
        """Speak of codes by their token ids from now on, where the server does. Gives what was heard like that.

        Raises TeacherError where it must and does not.
        """
        plain = self._dialect
        if self._exact == "always" or chat_logprobs.is_vllm(heard[0][1].response):
            names = codes(max(len(choice.options) for choice, _ in probes))
            self._dialect = replace(plain, ids=await token_ids(self.api, self._model, names))
        able = [index for index, (choice, _) in enumerate(probes) if self._dialect.asked(len(choice.options))]
        try:
            if able:
                again = {able[0]: await self._agree(*probes[able[0]])}
                if self._dialect.ids:
                    return again
        except chat_logprobs.UnheededError:
            pass
        self._dialect = plain
        gateway = self.api.gateway
        if self._exact == "always":
            between = f". {gateway.name} stands between: give the server's own address as base_url" if gateway else ""
            raise TeacherError(
                f"{self.api.who}: `exact: always` needs a server that lists given token ids (vLLM: logprob_token_ids), "
                f"with /tokenize beside its API, and at most {chat_logprobs.MOST_IDS} labels whose codes are one token"
                + between
            )
        if gateway is not None or chat_logprobs.is_vllm(heard[0][1].response):
            why = (
                f"{gateway.name} hides whether its server does" if gateway else "this server does not, for these labels"
            )
            log.warning(
                "%s is asked for its %d likeliest tokens: to list given token ids takes vLLM from May 2026 on, with "
                "/tokenize, and %s. Answers are exact up to their `tail`; `exact: never` leaves this line out",
                self.api.who,
                plain.top,
                why,
            )
        return heard

    async def _check(self, probes: Sequence[Probe], heard: Mapping[int, Heard]) -> None:
        """Raise TeacherError where the questions of some size are not answered with codes."""
        answers: dict[int, list[Heard]] = defaultdict(list)
        for index, (choice, text) in enumerate(probes):
            answers[len(choice.options)].append(heard.get(index) or await self.read(choice, text))
        for size, ones in answers.items():
            best, paid = max(ones, key=lambda one: _covered(one[0]))
            covered, tail = (0.0, 0.0) if isinstance(best, str) else (best.covered, best.tail)
            if covered < self._min_covered:
                raise TeacherError(
                    chat_logprobs.complaint(paid.response, covered, tail, self._min_covered, size, self.api.who)
                )

    async def _keep(self) -> None:
        """Keep what was agreed beside the responses that depend on it."""
        if await self.api.account.recall(self._agreement) is None:
            reservation = await self.api.account.reserve(0.0)
            await self.api.account.settle(reservation, 0.0, self._agreement, Paid(asdict(self._dialect), 0.0, 0.0))


def _covered(heard: Reading | Outcome) -> tuple[float, float]:
    return (-1.0, 0.0) if isinstance(heard, str) else (heard.covered, -heard.tail)
