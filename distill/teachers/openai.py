"""The teacher kind `openai`: any server with OpenAI's chat API, asked for label codes of one token, or labels by name.

OpenAI, Azure, vLLM, llama.cpp, SGLang, Ollama, gateways. Requests and responses are described in
`distill.teachers.prompting.chat_logprobs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from distill.teachers.api.calls import with_calls
from distill.teachers.api.client import Api, ApiRequest, Reader
from distill.teachers.api.config import is_local
from distill.teachers.api.errors import about
from distill.teachers.api.teacher import ApiTeacher
from distill.teachers.base import Answer, AnswerOutcome, Method
from distill.teachers.errors import TeacherError
from distill.teachers.prompting import chat_logprobs, two_step
from distill.teachers.prompting.label_codes import Reading, label_codes
from distill.teachers.prompting.paraphrases import Paraphraser
from distill.teachers.prompting.probe import Exact, Probe, ProbeQuestion
from distill.teachers.prompting.verbalised import VerbalisedConfig, VerbalisedMethod
from distill.teachers.prompting.verbalised_chat import ChatFormat, VerbalisedChat

if TYPE_CHECKING:
    from distill.teachers.batch.base import BatchApi

_PROBES = 3


class OpenAIConfig(VerbalisedConfig):
    """`method` is `logprobs`, which reads log probabilities of label codes, or one that VerbalisedConfig describes.

    `permutations` is the number of orders of the codes. If less than `min_covered` of the mass is on codes, the model
    meant something else, and the answer is invalid. `exact` says whether to request codes by their token ids.
    `groups` maps names to labels and turns the question into two steps: which group, then which of its labels, for the
    heaviest groups until the others have less than `epsilon` of the mass.
    """

    vendor_host: ClassVar[str] = "api.openai.com"

    kind: Literal["openai"] = "openai"
    base_url: str = Field(default=f"https://{vendor_host}/v1", repr=False)
    key_env: str = Field(default="OPENAI_API_KEY", repr=False)
    method: Literal["logprobs"] | VerbalisedMethod = "logprobs"
    top_logprobs: int = Field(default=20, ge=2)
    exact: Exact = "auto"
    groups: Mapping[str, tuple[str, ...]] = {}
    epsilon: float = Field(default=0.01, ge=0, lt=1)

    def check(self, labels: Sequence[str]) -> None:
        """Raise TeacherError for unacknowledged terms of use, and for a prompt or groups that do not fit the labels."""
        if self.groups:
            if self.method != "logprobs":
                raise TeacherError(f"groups need `method: logprobs`: leave them out, {self.method} needs no codes")
            two_step.check(self.groups, labels)
        if unknown := sorted({label for _, label in self.prompt.examples} - set(labels)):
            raise TeacherError(f"teacher.prompt.examples name labels {unknown[:5]} that the task does not have")
        super().check([*labels, *self.groups])


class OpenAITeacher(ApiTeacher[OpenAIConfig]):
    """Asks questions of one token and reads the distribution over labels from its log probabilities."""

    config_type: ClassVar[type[BaseModel]] = OpenAIConfig
    kind = "openai"

    def _build(self) -> None:
        """Make the choices and the probe, or what asks for labels by name. Raises ValueError for too many labels."""
        config = self._config
        groups, prompt = list(config.groups.values()), config.prompt
        self._groups = [np.array([self.labels.index(label) for label in one], dtype=np.intp) for one in groups]
        self._within = [two_step.within(one, prompt) for one in groups]
        self._first = two_step.between(config.groups, prompt) if groups else two_step.Choice(self.labels, prompt)
        if config.method == "logprobs":
            for choice in (self._first, *self._within):
                label_codes(len(choice.options))  # raises ValueError for too many
        self._probe = Probe(
            self.api,
            self.version,
            model=config.model,
            start=chat_logprobs.Dialect(limit=chat_logprobs.LIMITS[is_local(config.base_url)], top=config.top_logprobs),
            exact=config.exact,
            min_covered=config.min_covered,
            permutations=config.permutations,
            extra_body=config.extra_body,
        )
        self._verbalised = (
            None if config.method == "logprobs" else VerbalisedChat(self.api, config, config.method, self.labels)
        )

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """The calls for a text that can be made now and are not paid for: the first, or those that follow from it."""
        if self._verbalised is not None:
            return await self._verbalised.plan(text, repeat)
        request, paid, reading = await self._probe.recall(self._first, text, repeat)
        if paid is None:
            return [(self.api, request)]
        second = [await self._probe.recall(self._within[one], text, repeat) for one in self._to_expand(reading)]
        return [(self.api, request) for request, paid, _ in second if paid is None]

    async def prepare(self) -> None:
        """Check that the server can be used, and find out which dialect of the API it supports. Raises TeacherError."""
        if self._verbalised is not None:
            return await self._verbalised.prepare()
        probes: list[ProbeQuestion] = [(self._first, label) for label in self.labels[:_PROBES]]
        if self._within:
            largest = max(self._within, key=lambda choice: len(choice.options))
            probes.append((largest, largest.options[0]))
        await self._probe.prepare(probes)

    def batch_apis(self) -> Sequence[BatchApi]:
        """The Batch API of the server, if it has one."""
        from distill.teachers.batch.openai import OpenAIBatches

        read = self._probe.usable if self._verbalised is None else self._verbalised.read
        return [OpenAIBatches(self.api, self._config.batch, read)]

    def paraphraser(self, count: int) -> Paraphraser:
        """Make what writes `count` paraphrases of a text."""
        api = self._make_api(f"{self.name} (paraphrases)", self.api.account)
        chat = ChatFormat(self._config, api.name)

        def batches(read: Reader[object]) -> BatchApi:
            from distill.teachers.batch.openai import OpenAIBatches

            return OpenAIBatches(api, self._config.batch, read)

        return Paraphraser(
            api, self._config, count, request=chat.request, read=chat.completion, batches=batches, adapt=chat.adapt
        )

    usage_of = staticmethod(chat_logprobs.usage_of)

    async def _ask(self, text: str, repeat: int) -> Answer:
        if self._verbalised is not None:
            return await self._verbalised.ask(text, repeat)
        start = time.perf_counter()
        with about(text):
            reading, paid = await self._probe.read(self._first, text, repeat)
            expanded = self._to_expand(reading)
            inner = await asyncio.gather(*(self._probe.read(self._within[one], text, repeat) for one in expanded))
        calls = [paid, *(call for _, call in inner)]
        answer = self._combine(reading, dict(zip(expanded, (within for within, _ in inner), strict=True)))
        return with_calls(answer, calls, time.perf_counter() - start, self.usage_of)

    def _to_expand(self, reading: Reading | AnswerOutcome | None) -> list[int]:
        """The groups to ask within; none without a valid first answer."""
        if not isinstance(reading, Reading) or reading.covered < self._config.min_covered or not self._within:
            return []
        sizes = [len(labels) for labels in self._groups]
        return two_step.to_expand(reading.probabilities, sizes, self._config.epsilon)

    def _combine(self, reading: Reading | AnswerOutcome, inner: Mapping[int, Reading | AnswerOutcome]) -> Answer:
        """The answer by the first reading and those within groups: a distribution, unless one of them is none."""
        method: Method = "two_step" if self._within else "logprobs"
        within = {group: one for group, one in inner.items() if isinstance(one, Reading)}
        if not isinstance(reading, Reading) or len(within) < len(inner):
            refused = "refused" in (reading, *inner.values())
            return Answer(None, method, 0.0, outcome="refused" if refused else "invalid")
        if not self._within:
            method = "logprobs" if reading.seen == len(self.labels) else "logprobs_tail"
            return self._answer(reading.probabilities, method, reading.covered, reading.tail)
        combined = two_step.combine(reading, within, self._groups, len(self.labels))
        return self._answer(combined.probabilities, "two_step", combined.covered, combined.bound)

    def _answer(self, probabilities: npt.NDArray[np.float32], method: Method, covered: float, tail: float) -> Answer:
        if covered < self._config.min_covered:
            return Answer(None, method, covered, tail, outcome="invalid")
        return Answer(probabilities, method, covered, tail)
