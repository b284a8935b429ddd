"""Questions with JSON answers through OpenAI's chat API: the requests to send, and how to read the responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.config import is_local
from distill.teachers.api.errors import ApiError
from distill.teachers.api.gateways import left_out
from distill.teachers.prompting.chat_logprobs import LIMITS, choice_of, declined
from distill.teachers.prompting.naming import text_of
from distill.teachers.prompting.verbalised import Question, VerbalisedConfig, VerbalisedLabels, VerbalisedMethod
from distill.teachers.prompting.votes import Completion


class ChatFormat:
    """The chat API of one server, at temperature 1, so that draws follow the model's own distribution.

    Servers differ in the name of the token limit; `adapt` changes it.
    """

    def __init__(self, config: VerbalisedConfig, server: str) -> None:
        self._config = config
        self._server = server
        self._limit = LIMITS[is_local(config.base_url)]

    def request(self, question: Question) -> ApiRequest:
        """Return the call for a question."""
        body = {
            "model": self._config.model,
            "messages": [
                {"role": "system", "content": question.system},
                {"role": "user", "content": question.user},
            ],
            self._limit: question.max_output,
            "temperature": 1,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": question.schema},
            },
            **self._config.extra_body,
        }
        return ApiRequest("/chat/completions", body, max_output=question.max_output, sample=question.sample)

    def completion(self, response: Mapping[str, Any]) -> Completion:
        """Read a completion. Raises UnreadableError for a response that is not a chat completion."""
        choice = choice_of(response, self._server)
        message = choice.get("message") or {}
        content = message.get("content")
        refused = declined(choice) or (isinstance(content, list) and any(map(_is_refusal, content)))
        return Completion(text_of(content), refused=refused, cut=choice.get("finish_reason") == "length")

    def adapt(self, error: ApiError) -> None:
        """Take the other name of the token limit if the server refused this one. Raises `error` if it did not."""
        if error.status not in (400, 422) or self._limit not in error.reason:
            raise error
        self._limit = LIMITS[1 - LIMITS.index(self._limit)]


class VerbalisedChat(VerbalisedLabels):
    """Labels named by a model behind a chat API."""

    def __init__(self, api: Api, config: VerbalisedConfig, method: VerbalisedMethod, labels: Sequence[str]) -> None:
        self._format = ChatFormat(config, api.name)
        super().__init__(
            api,
            config,
            method,
            labels,
            request=self._format.request,
            read=self._format.completion,
            advise=lambda gateway: left_out(gateway, "response_format"),
        )

    async def prepare(self) -> None:
        """Check that the model names labels, and find out how the server names the token limit. Raises TeacherError."""
        try:
            await super().prepare()
        except ApiError as error:
            self._format.adapt(error)
            await super().prepare()


def _is_refusal(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "refusal"
