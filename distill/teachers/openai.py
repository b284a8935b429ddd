"""The teacher kind `openai`: any server with OpenAI's chat API that gives log probabilities, asked for one-token codes.

OpenAI, Azure, vLLM, llama.cpp, SGLang, Ollama, gateways. The key comes from the environment, never from a task file.
What their requests and responses look like is in `distill.teachers.prompting.chat_logprobs`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from distill.stages import fingerprint
from distill.teachers.account import Account, NoAccount
from distill.teachers.api import rejections
from distill.teachers.api.client import Api, Request
from distill.teachers.api.http import about, is_local
from distill.teachers.base import Answer, Method, Outcome
from distill.teachers.errors import TeacherError
from distill.teachers.prompting import chat_logprobs
from distill.teachers.prompting import two_step as groups
from distill.teachers.prompting.label_codes import Reading, codes
from distill.teachers.prompting.probe import Dialogue, Exact, Probe
from distill.teachers.prompting.verbalised import StatedConfig, StatedMethod
from distill.teachers.prompting.verbalised_chat import StatedChat

if TYPE_CHECKING:
    from distill.teachers.batch.base import BatchApi

_HOST = "api.openai.com"
_PROBES = 3


class OpenAIConfig(StatedConfig):
    """`method` is how answers are had: from log probabilities, or from what the model says, as StatedConfig describes.

    `permutations` is how many orders of the codes take turns.
    `min_covered` is the least mass that must lie on codes: below it the model wanted to say something else, and the
    answer is no label. `exact` asks a server for the codes by their token ids: where it can (`auto`), never, or always.
    `groups` maps names to labels and makes two steps of the question: which group, then which of its labels, for the
    heaviest groups until less than `epsilon` of the mass is in the others.
    """

    kind: Literal["openai"] = "openai"
    base_url: str = Field(default=f"https://{_HOST}/v1", repr=False)
    key_env: str = Field(default="OPENAI_API_KEY", repr=False)
    method: Literal["logprobs"] | StatedMethod = "logprobs"
    top_logprobs: int = Field(default=20, ge=2)
    exact: Exact = "auto"
    groups: Mapping[str, tuple[str, ...]] = {}
    epsilon: float = Field(default=0.01, ge=0, lt=1)

    def key(self) -> str:
        """The key. OpenAI's own, in the variable by default, goes to nobody else unless `key_env` says so."""
        told = self.key_file is not None or "key_env" in self.model_fields_set
        return super().key() if told or urlsplit(self.base_url).hostname == _HOST else ""

    def check(self, labels: Sequence[str]) -> None:
        """Raise TeacherError for terms, a prompt or groups that will not do for these labels."""
        if self.groups:
            if self.method != "logprobs":
                raise TeacherError(f"groups need `method: logprobs`: leave them out, {self.method} need no codes")
            groups.check(self.groups, labels)
        if unknown := sorted({label for _, label in self.prompt.examples} - set(labels)):
            raise TeacherError(f"teacher.prompt.examples name labels {unknown[:5]} that the task does not have")
        super().check([*labels, *self.groups])


class OpenAITeacher:
    """Asks for one token a question, and reads the distribution over labels from its log probabilities."""

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
        self.concurrency = config.under_way
        self.version = fingerprint([config.answering(), self.labels])
        self._config = config
        members, prompt = list(config.groups.values()), config.prompt
        self._members = [np.array([self.labels.index(label) for label in one], dtype=np.intp) for one in members]
        self._within = [groups.within(one, prompt) for one in members]
        self._first = groups.between(config.groups, prompt) if members else groups.Choice(self.labels, prompt)
        for choice in (self._first, *self._within) if config.method == "logprobs" else ():
            codes(len(choice.options))
        key = config.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.api = Api(
            config, account, who=self.name, headers=headers, usage=chat_logprobs.usage_of, transport=transport
        )
        self._dialogue = Dialogue(
            self.api,
            self.version,
            model=config.model,
            start=chat_logprobs.Dialect(limit=chat_logprobs.LIMITS[is_local(config.base_url)], top=config.top_logprobs),
            exact=config.exact,
            min_covered=config.min_covered,
            permutations=config.permutations,
            extra_body=config.extra_body,
        )
        self._stated = None if config.method == "logprobs" else StatedChat(self.api, config, config.method, labels)

    @classmethod
    def from_config(cls, config: OpenAIConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the teacher; nothing is asked yet. Raises TeacherError for labels, terms or a price that will not do."""
        config.check(labels)
        try:
            return cls(config, labels, account or NoAccount())
        except ValueError as error:
            raise TeacherError(str(error)) from error

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text with calls of its own. Raises TeacherError when the server cannot be used like this."""
        if texts:
            await self.prepare()
        if self._stated is not None:
            return list(await asyncio.gather(*(self._stated.ask(text, repeat) for text in texts)))
        return list(await asyncio.gather(*(self._ask(text, repeat) for text in texts)))

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The calls for a text that can be made now and were not paid for: the first, or those its answer leads to."""
        if self._stated is not None:
            return await self._stated.plan(text, repeat)
        request, paid, reading = await self._dialogue.recall(self._first, text, repeat)
        if paid is None:
            return [(self.api, request)]
        then = [await self._dialogue.recall(self._within[one], text, repeat) for one in self._to_expand(reading)]
        return [(self.api, request) for request, paid, _ in then if paid is None]

    async def prepare(self) -> None:
        """Before the first answer counts, see that the server can be used like this. `ask` does so by itself.

        It asks for texts of its own, the names of labels, which are kept and paid for like any other. Who sends many
        planned calls at once does it before. Raises TeacherError, which says what to do.
        """
        if self._stated is not None:
            return await self._stated.prepare()
        probes: list[Probe] = [(self._first, label) for label in self.labels[:_PROBES]]
        if self._within:
            largest = max(self._within, key=lambda choice: len(choice.options))
            probes.append((largest, largest.options[0]))
        await self._dialogue.prepare(probes)

    def batch_apis(self) -> Sequence[BatchApi]:
        """The Batch API of the server, if it has one."""
        from distill.teachers.batch.openai import OpenAIBatches

        read = self._dialogue.usable if self._stated is None else self._stated.read
        return [OpenAIBatches(self.api, self._config.batch, read)]

    @property
    def held(self) -> float:
        """For how many seconds calls are held, because the server asked to be left alone."""
        return self.api.held

    def stop(self) -> None:
        """Make no further call: texts whose calls wait for their turn raise TeacherError."""
        self.api.stop()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.api.aclose()

    async def _ask(self, text: str, repeat: int) -> Answer:
        start = time.perf_counter()
        with about(text):
            reading, paid = await self._dialogue.read(self._first, text, repeat)
            expanded = self._to_expand(reading)
            inner = await asyncio.gather(*(self._dialogue.read(self._within[one], text, repeat) for one in expanded))
        calls = [paid, *(call for _, call in inner)]
        usages = [usage for call in calls if (usage := chat_logprobs.usage_of(call.response)) is not None]
        said, doubtful = rejections.first(call.response for call in calls)
        return replace(
            self._judge(reading, dict(zip(expanded, (within for within, _ in inner), strict=True))),
            said=said,
            doubtful=doubtful,
            tokens=sum(usage.total for usage in usages),
            cost_usd=sum(call.cost_usd for call in calls),
            seconds=time.perf_counter() - start,
        )

    def _to_expand(self, reading: Reading | Outcome | None) -> list[int]:
        """The groups to ask within; none where the first answer is none."""
        if not isinstance(reading, Reading) or reading.covered < self._config.min_covered or not self._within:
            return []
        sizes = [len(members) for members in self._members]
        return groups.to_expand(reading.probabilities, sizes, self._config.epsilon)

    def _judge(self, reading: Reading | Outcome, inner: Mapping[int, Reading | Outcome]) -> Answer:
        """What was read as an answer: a distribution, unless the model refused or meant something else."""
        method: Method = "two_step" if self._within else "logprobs"
        heard = {group: one for group, one in inner.items() if isinstance(one, Reading)}
        if not isinstance(reading, Reading) or len(heard) < len(inner):
            refused = any(one == "refused" for one in (reading, *inner.values()) if isinstance(one, str))
            return Answer(None, method, 0.0, outcome="refused" if refused else "invalid")
        if not self._within:
            method = "logprobs" if reading.seen == len(self.labels) else "logprobs_tail"
            return self._answer(reading.probabilities, method, reading.covered, reading.tail)
        combined = groups.combine(reading, heard, self._members, len(self.labels))
        return self._answer(combined.probabilities, "two_step", combined.covered, combined.bound)

    def _answer(self, probabilities: npt.NDArray[np.float32], method: Method, covered: float, tail: float) -> Answer:
        if covered < self._config.min_covered:
            return Answer(None, method, covered, tail, outcome="invalid")
        return Answer(probabilities, method, covered, tail)
