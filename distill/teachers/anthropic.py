"""The teacher kind `anthropic`: Anthropic's Messages API, which shows no probabilities, asked for labels by name.

The key comes from the environment, never from a task file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field

from distill.stages import fingerprint
from distill.teachers.account import Account, NoAccount
from distill.teachers.api.client import Api, Request
from distill.teachers.api.http import UnreadableError
from distill.teachers.api.pricing import Usage
from distill.teachers.base import Answer
from distill.teachers.prompting.naming import said_in
from distill.teachers.prompting.verbalised import Question, StatedConfig, StatedLabels, StatedMethod
from distill.teachers.prompting.votes import Said

if TYPE_CHECKING:
    from distill.teachers.batch.base import BatchApi

_HOST = "api.anthropic.com"
VERSION = "2023-06-01"
_CUT = ("max_tokens", "model_context_window_exceeded")


class AnthropicConfig(StatedConfig):
    """A model behind the Messages API. Temperature is the model's own, 1, which newer models do not let one change."""

    kind: Literal["anthropic"] = "anthropic"
    base_url: str = Field(default=f"https://{_HOST}", repr=False)
    key_env: str = Field(default="ANTHROPIC_API_KEY", repr=False)
    method: StatedMethod = "votes"

    def key(self) -> str:
        """The key. Anthropic's own, in the variable by default, goes to nobody else unless `key_env` says so."""
        told = self.key_file is not None or "key_env" in self.model_fields_set
        return super().key() if told or urlsplit(self.base_url).hostname == _HOST else ""


class AnthropicTeacher:
    """Asks for a label several times over, or once for a ranking with its confidences."""

    config_type: ClassVar[type[BaseModel]] = AnthropicConfig
    batch_size = 1

    def __init__(
        self,
        config: AnthropicConfig,
        labels: Sequence[str],
        account: Account,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"anthropic:{config.model}"
        self.labels = tuple(labels)
        self.concurrency = config.under_way
        self.version = fingerprint([config.answering(), self.labels])
        self._config = config
        key = config.key()
        headers = {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}
        self.api = Api(config, account, who=self.name, headers=headers, usage=usage_of, transport=transport)
        self._stated = StatedLabels(
            self.api, config, config.method, self.labels, request=self._request, said=self._said
        )

    @classmethod
    def from_config(cls, config: AnthropicConfig, labels: Sequence[str], account: Account | None = None) -> Self:
        """Make the teacher; nothing is asked yet. Raises TeacherError for labels, terms or a price that will not do."""
        config.check(labels)
        return cls(config, labels, account or NoAccount())

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        """Answer each text. Raises TeacherError when the server cannot be used like this."""
        if texts:
            await self.prepare()
        return list(await asyncio.gather(*(self._stated.ask(text, repeat) for text in texts)))

    async def prepare(self) -> None:
        """Before the first answer counts, see that the model names labels. Raises TeacherError."""
        await self._stated.prepare()

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, Request]]:
        """The calls that answer a text and were not paid for."""
        return await self._stated.plan(text, repeat)

    def batch_apis(self) -> Sequence[BatchApi]:
        """The Message Batches API."""
        from distill.teachers.batch.anthropic import AnthropicBatches

        return [AnthropicBatches(self.api, self._config.batch, self._stated.read)]

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

    def _request(self, question: Question) -> Request:
        """A call. The vendor caches what stands before the text, where it is long enough."""
        extra = self._config.extra_body
        body = {
            "model": self._config.model,
            "max_tokens": question.max_output,
            "system": [{"type": "text", "text": question.system, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": question.user}],
            **extra,
            "output_config": {
                "format": {"type": "json_schema", "schema": question.schema},
                **extra.get("output_config", {}),  # the effort of a model that reasons first stands there too
            },
        }
        return Request("/v1/messages", body, max_output=question.max_output, sample=question.sample)

    def _said(self, response: Mapping[str, Any]) -> Said:
        """What the model said. Raises UnreadableError for a response that is no message."""
        reason, content = response.get("stop_reason"), response.get("content")
        if reason is None or not isinstance(content, list | str):
            why = "no stop_reason" if reason is None else "no content"
            raise UnreadableError(f"{self.name} gives no message ({why}); is base_url that of Anthropic's API?", why)
        return Said(said_in(content), refused=reason == "refusal", cut=reason in _CUT)


def usage_of(response: Mapping[str, Any]) -> Usage | None:
    """The tokens of a response, if it says; Anthropic's `input_tokens` has the cached ones not in it."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None
    try:
        return Usage(
            input=int(usage["input_tokens"]),
            cached=int(usage.get("cache_read_input_tokens") or 0),
            cache_write=int(usage.get("cache_creation_input_tokens") or 0),
            output=int(usage["output_tokens"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
