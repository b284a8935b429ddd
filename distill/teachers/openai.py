"""The teacher kind `openai`: any server with OpenAI's chat API that gives `top_logprobs`, asked for one-token codes.

OpenAI, Azure, vLLM, llama.cpp, SGLang, Ollama, gateways. The key comes from the environment, never from a task file.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field

from distill.artifacts import fingerprint
from distill.teachers.base import Answer, Method, TeacherError
from distill.teachers.codes import Reading, codes, order_of, read
from distill.teachers.http import is_local, post
from distill.teachers.prompts import Prompt

_PROBES = 3


class Price(BaseModel):
    """Dollars per million tokens. `cached` is for prompt tokens that the server had in its cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)

    def of(self, usage: Mapping[str, Any]) -> float:
        """The cost of a call in dollars; OpenAI's `prompt_tokens` has the cached ones in it."""
        prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        cached = min(prompt, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))
        rate = self.input if self.cached is None else self.cached
        return ((prompt - cached) * self.input + cached * rate + completion * self.output) / 1e6


class Terms(BaseModel):
    """That one has read whether the teacher's terms allow training on its answers, and where one read it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    acknowledged: Literal[True]
    reference: str = Field(min_length=1)


class OpenAIConfig(BaseModel):
    """`usd_per_million` must be given, for what is not known cannot be kept to a budget; 0 for a server of one's own.

    `min_covered` is the least mass that must lie on codes: below it the model wanted to say something else, and the
    answer is no label. `permutations` is how many orders of the codes take turns. `extra_body` is sent along.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    model: str
    usd_per_million: Price
    key_env: str = "OPENAI_API_KEY"
    prompt: Prompt = Prompt()
    top_logprobs: int = Field(default=20, ge=2)
    min_covered: float = Field(default=0.5, ge=0, le=1)
    permutations: int = Field(default=2, ge=1, le=16)
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_seconds: float = Field(default=60.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    terms: Terms | None = None
    extra_body: dict[str, Any] = {}


class OpenAITeacher:
    """Asks for one token a text, and reads the distribution over labels from the likeliest tokens."""

    config_type: ClassVar[type[BaseModel]] = OpenAIConfig
    batch_size = 1

    def __init__(
        self, config: OpenAIConfig, labels: Sequence[str], *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.name = f"openai:{config.model}"
        self.labels = tuple(labels)
        self.concurrency = config.concurrency
        self._config = config
        self._codes = codes(len(labels))
        key = os.environ.get(config.key_env, "")
        self._client = httpx.AsyncClient(
            base_url=config.base_url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=config.timeout_seconds,
            limits=httpx.Limits(max_connections=config.concurrency),
            transport=transport,
        )
        unimportant = {"concurrency", "timeout_seconds", "attempts", "key_env", "usd_per_million", "terms"}
        self.version = fingerprint([config.model_dump(mode="json", exclude=unimportant), self.labels])
        self._probing = asyncio.Lock()
        self._probed = False

    @classmethod
    def from_config(cls, config: OpenAIConfig, labels: Sequence[str]) -> Self:
        """Make the teacher; nothing is asked yet. Raises TeacherError for labels or terms that will not do."""
        if config.terms is None and not is_local(config.base_url):
            raise TeacherError(
                f"{config.base_url} is somebody's service, and some forbid training on their answers. Read its terms, "
                "then add `terms: {acknowledged: true, reference: <where they stand>}` to the teacher"
            )
        if unknown := config.prompt.unknown(labels):
            raise TeacherError(f"teacher.prompt names labels {unknown[:5]} that the task does not have; correct them")
        try:
            return cls(config, labels)
        except ValueError as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str]) -> Sequence[Answer]:
        """Answer each text with a call of its own. Raises TeacherError when the server cannot be used like this."""
        await self._probe(texts)
        return list(await asyncio.gather(*(self._ask(text) for text in texts)))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _probe(self, texts: Sequence[str]) -> None:
        """Before the first answer counts, see that the model answers with codes at all.

        The probe's answers are not used, so it asks for a text of its own and not for one that would be paid twice.
        """
        async with self._probing:
            if self._probed or not texts:
                return
            readings = [await self._read(f"{label}") for label in self.labels[:_PROBES]]
            covered = max((reading.covered for reading, _ in readings if reading is not None), default=0.0)
            if covered < self._config.min_covered:
                raise TeacherError(
                    f"{self.name} puts {covered:.2f} of its mass on codes, less than min_covered "
                    f"{self._config.min_covered}: it wants to say something else. Give it `prompt.examples`, use an "
                    "instruction-tuned model, or, for a model that reasons first, switch that off with `extra_body`"
                )
            self._probed = True

    async def _ask(self, text: str) -> Answer:
        start = time.perf_counter()
        reading, usage = await self._read(text)
        answer = self._judge(reading)
        return replace(
            answer,
            tokens=int(usage.get("total_tokens") or 0),
            cost_usd=self._config.usd_per_million.of(usage),
            seconds=time.perf_counter() - start,
        )

    def _judge(self, reading: Reading | None) -> Answer:
        """A reading as an answer: a label's distribution, unless the model refused or meant something else."""
        if reading is None:
            return Answer(None, "logprobs", outcome="refused")
        method: Method = "logprobs" if reading.seen == len(self.labels) else "logprobs_tail"
        if reading.covered < self._config.min_covered:
            return Answer(None, method, reading.covered, reading.tail, outcome="invalid")
        return Answer(reading.probabilities, method, reading.covered, reading.tail)

    async def _read(self, text: str) -> tuple[Reading | None, Mapping[str, Any]]:
        """One call: what it says of the labels (None for a refusal), and its usage."""
        order = order_of(text, len(self.labels), self._config.permutations)
        body = {
            "model": self._config.model,
            "messages": self._config.prompt.messages(text, self.labels, order),
            "max_completion_tokens": 1,
            "temperature": 1,
            "logprobs": True,
            "top_logprobs": self._config.top_logprobs,
            **self._config.extra_body,
        }
        data = await post(self._client, "/chat/completions", body, who=self.name, attempts=self._config.attempts)
        usage = data.get("usage") or {}
        try:
            choice = data["choices"][0]
            if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
                return None, usage
            first = choice["logprobs"]["content"][0]["top_logprobs"]
            top = [(str(entry["token"]), float(entry["logprob"])) for entry in first]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TeacherError(
                f"{self.name} gives no top_logprobs ({type(error).__name__}): this model or server does not have them "
                "here. Use one that has, start the server with them (llama.cpp: --logits_all true), or, for a model "
                "that reasons first, switch that off with `extra_body`"
            ) from error
        return read(top, order), usage
