"""The teacher kind `anthropic`: Anthropic's Messages API, which shows no probabilities, asked for labels by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from distill.teachers.api.client import Api, ApiRequest, Reader
from distill.teachers.api.errors import ApiError, UnreadableError
from distill.teachers.api.gateways import without_messages
from distill.teachers.api.pricing import Usage
from distill.teachers.api.teacher import ApiTeacher
from distill.teachers.base import Answer
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.naming import text_of
from distill.teachers.prompting.paraphrases import Paraphraser
from distill.teachers.prompting.verbalised import Question, VerbalisedConfig, VerbalisedLabels, VerbalisedMethod
from distill.teachers.prompting.votes import Completion

if TYPE_CHECKING:
    from distill.teachers.batch.base import BatchApi

VERSION = "2023-06-01"
_CUT = ("max_tokens", "model_context_window_exceeded")


class AnthropicConfig(VerbalisedConfig):
    """A model behind the Messages API. Newer models only allow their default temperature, 1, so none is set."""

    vendor_host: ClassVar[str] = "api.anthropic.com"

    kind: Literal["anthropic"] = "anthropic"
    base_url: str = Field(default=f"https://{vendor_host}", repr=False)
    key_env: str = Field(default="ANTHROPIC_API_KEY", repr=False)
    method: VerbalisedMethod = "votes"


class AnthropicTeacher(ApiTeacher[AnthropicConfig]):
    """Asks for several votes, or once for a ranking with confidences."""

    config_type: ClassVar[type[BaseModel]] = AnthropicConfig
    kind = "anthropic"

    def _build(self) -> None:
        """Make what asks for labels by name."""
        self._verbalised = VerbalisedLabels(
            self.api,
            self._config,
            self._config.method,
            self.labels,
            request=self._request,
            read=self._completion,
            advise=without_messages,
        )

    async def prepare(self) -> None:
        """Check that the model names labels, before the first answer. Raises TeacherError."""
        try:
            await self._verbalised.prepare()
        except ApiError as error:
            if error.status == 404 and (advice := without_messages(self.api.gateway)):
                raise TeacherError(f"{error}{advice}") from error
            raise

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """The calls for a text that are not paid for."""
        return await self._verbalised.plan(text, repeat)

    def batch_apis(self) -> Sequence[BatchApi]:
        """The Message Batches API."""
        from distill.teachers.batch.anthropic import AnthropicBatches

        return [AnthropicBatches(self.api, self._config.batch, self._verbalised.read)]

    def paraphraser(self, count: int) -> Paraphraser:
        """Make what writes `count` paraphrases of a text."""
        api = self._make_api(f"{self.name} (paraphrases)", self.api.account)

        def batches(read: Reader[object]) -> BatchApi:
            from distill.teachers.batch.anthropic import AnthropicBatches

            return AnthropicBatches(api, self._config.batch, read)

        return Paraphraser(api, self._config, count, request=self._request, read=self._completion, batches=batches)

    async def _ask(self, text: str, repeat: int) -> Answer:
        return await self._verbalised.ask(text, repeat)

    @staticmethod
    def headers_for(key: str) -> dict[str, str]:
        """The headers of every call: the version of the API, and the key."""
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    @staticmethod
    def usage_of(response: Mapping[str, Any]) -> Usage | None:
        """The tokens that a response reports, if any; Anthropic's `input_tokens` exclude the cached ones."""
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

    def _request(self, question: Question) -> ApiRequest:
        """The call for a question. The vendor caches the part before the text, if it is long enough."""
        extra = self._config.extra_body
        body = {
            "model": self._config.model,
            "max_tokens": question.max_output,
            "system": [{"type": "text", "text": question.system, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": question.user}],
            **extra,
            "output_config": {
                "format": {"type": "json_schema", "schema": question.schema},
                **extra.get("output_config", {}),  # such as the effort of a model that reasons first
            },
        }
        return ApiRequest("/v1/messages", body, max_output=question.max_output, sample=question.sample)

    def _completion(self, response: Mapping[str, Any]) -> Completion:
        """Read a message. Raises UnreadableError for a response that is not a message."""
        reason, content = response.get("stop_reason"), response.get("content")
        if reason is None or not isinstance(content, list | str):
            why = "no stop_reason" if reason is None else "no content"
            raise UnreadableError(f"{self.name} gives no message ({why}); is base_url that of Anthropic's API?", why)
        return Completion(text_of(content), refused=reason == "refusal", cut=reason in _CUT)
