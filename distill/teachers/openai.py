"""The teacher kind `openai`: any server with OpenAI's chat API that gives `top_logprobs`, asked for one-token codes.

OpenAI, Azure, vLLM, llama.cpp, SGLang, Ollama, gateways. The key comes from the environment, never from a task file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import httpx
from pydantic import BaseModel, Field

from distill.artifacts import fingerprint
from distill.teachers.account import Account, NoAccount
from distill.teachers.api import Api, ApiConfig, Request
from distill.teachers.base import Answer, Method, TeacherError
from distill.teachers.codes import Reading, codes, order_of, read
from distill.teachers.pricing import Usage

_PROBES = 3


class OpenAIConfig(ApiConfig):
    """`permutations` is how many orders of the codes take turns.

    `min_covered` is the least mass that must lie on codes: below it the model wanted to say something else, and the
    answer is no label.
    """

    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    key_env: str = "OPENAI_API_KEY"
    top_logprobs: int = Field(default=20, ge=2)
    min_covered: float = Field(default=0.5, ge=0, le=1)
    permutations: int = Field(default=2, ge=1, le=16)


class OpenAITeacher:
    """Asks for one token a text, and reads the distribution over labels from the likeliest tokens."""

    config_type: ClassVar[type[BaseModel]] = OpenAIConfig
    batch_size = 1

    def __init__(
        self,
        config: OpenAIConfig,
        labels: Sequence[str],
        account: Account,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"openai:{config.model}"
        self.labels = tuple(labels)
        self.concurrency = config.concurrency
        self.version = fingerprint([config.answering(), self.labels])
        self._config = config
        self._codes = codes(len(labels))
        key = config.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.api = Api(config, account, who=self.name, headers=headers, usage=usage_of, transport=transport)
        self._probing = asyncio.Lock()
        self._probed = False

    @classmethod
    def from_config(cls, config: OpenAIConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the teacher; nothing is asked yet. Raises TeacherError for labels, terms or a price that will not do."""
        config.check(labels)
        try:
            return cls(config, labels, account or NoAccount())
        except ValueError as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text with a call of its own. Raises TeacherError when the server cannot be used like this."""
        await self._probe(texts)
        return list(await asyncio.gather(*(self._ask(text, repeat) for text in texts)))

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The call that answers a text, unless it was paid for before."""
        request, _ = self._request(text, repeat)
        known = await self.api.account.recall(self.api.key(request))
        return [] if known is not None else [(self.api, request)]

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()

    async def _probe(self, texts: Sequence[str]) -> None:
        """Before the first answer counts, see that the model answers with codes at all.

        It asks for texts of its own, the names of labels, which are kept and paid for like any other.
        """
        async with self._probing:
            if self._probed or not texts:
                return
            readings = [(await self._read(label))[0] for label in self.labels[:_PROBES]]
            covered = max((reading.covered for reading in readings if reading is not None), default=0.0)
            if covered < self._config.min_covered:
                raise TeacherError(
                    f"{self.name} puts {covered:.2f} of its mass on codes, less than min_covered "
                    f"{self._config.min_covered}: it wants to say something else. Give it `prompt.examples`, use an "
                    "instruction-tuned model, or, for a model that reasons first, switch that off with `extra_body`"
                )
            self._probed = True

    async def _ask(self, text: str, repeat: int) -> Answer:
        start = time.perf_counter()
        reading, tokens, cost = await self._read(text, repeat)
        return replace(self._judge(reading), tokens=tokens, cost_usd=cost, seconds=time.perf_counter() - start)

    def _judge(self, reading: Reading | None) -> Answer:
        """A reading as an answer: a label's distribution, unless the model refused or meant something else."""
        if reading is None:
            return Answer(None, "logprobs", outcome="refused")
        method: Method = "logprobs" if reading.seen == len(self.labels) else "logprobs_tail"
        if reading.covered < self._config.min_covered:
            return Answer(None, method, reading.covered, reading.tail, outcome="invalid")
        return Answer(reading.probabilities, method, reading.covered, reading.tail)

    async def _read(self, text: str, repeat: int = 0) -> tuple[Reading | None, int, float]:
        """One call: what it says of the labels (None for a refusal), its tokens, and its cost in dollars."""
        request, order = self._request(text, repeat)
        top, paid = await self.api.call(request, self._top)
        usage = usage_of(paid.response)
        return None if top is None else read(top, order), usage.total if usage else 0, paid.cost_usd

    def _request(self, text: str, repeat: int) -> tuple[Request, tuple[int, ...]]:
        """The call for a text, and the label that each code stands for in it."""
        order = order_of(text, len(self.labels), self._config.permutations, repeat)
        body = {
            "model": self._config.model,
            "messages": self._config.prompt.messages(text, self.labels, order),
            "max_completion_tokens": 1,
            "temperature": 1,
            "logprobs": True,
            "top_logprobs": self._config.top_logprobs,
            **self._config.extra_body,
        }
        return Request("/chat/completions", body, max_output=1, sample=repeat), order

    def _top(self, response: Mapping[str, Any]) -> list[tuple[str, float]] | None:
        """The likeliest first tokens with their log probabilities; None for a refusal.

        Raises TeacherError where the response has none.
        """
        try:
            choice = response["choices"][0]
            if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
                return None
            first = choice["logprobs"]["content"][0]["top_logprobs"]
            return [(str(entry["token"]), float(entry["logprob"])) for entry in first]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TeacherError(
                f"{self.name} gives no top_logprobs ({type(error).__name__}): this model or server does not have them "
                "here. Use one that has, start the server with them (llama.cpp: --logits_all true), or, for a model "
                "that reasons first, switch that off with `extra_body`"
            ) from error


def usage_of(response: Mapping[str, Any]) -> Usage | None:
    """The tokens of a response, if it says; OpenAI's `prompt_tokens` has the cached ones in it."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None
    try:
        prompt, output = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
        cached = min(prompt, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Usage(input=prompt - cached, cached=cached, output=output)
