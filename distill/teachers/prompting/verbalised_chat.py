"""Labels asked for by name through OpenAI's chat API: what to send for a question, and how to read what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.teachers.api.client import Api, Request
from distill.teachers.api.http import ApiError, is_local
from distill.teachers.prompting.chat_logprobs import LIMITS, choice_of, declined
from distill.teachers.prompting.naming import said_in
from distill.teachers.prompting.verbalised import Question, StatedConfig, StatedLabels, StatedMethod
from distill.teachers.prompting.votes import Said


class StatedChat(StatedLabels):
    """Labels that a model behind a chat API says. Temperature is 1, so that draws are of its own distribution."""

    def __init__(self, api: Api, config: StatedConfig, method: StatedMethod, labels: Sequence[str]) -> None:
        super().__init__(api, config, method, labels, request=self._chat_request, said=self._chat_said)
        self._limit = LIMITS[is_local(config.base_url)]

    async def prepare(self) -> None:
        """See that the model names labels, and what the server calls the limit of an answer. Raises TeacherError."""
        try:
            await super().prepare()
        except ApiError as error:
            if error.status not in (400, 422) or self._limit not in error.said:
                raise
            self._limit = LIMITS[1 - LIMITS.index(self._limit)]
            await super().prepare()

    def _chat_request(self, question: Question) -> Request:
        body = {
            "model": self.config.model,
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
            **self.config.extra_body,
        }
        return Request("/chat/completions", body, max_output=question.max_output, sample=question.sample)

    def _chat_said(self, response: Mapping[str, Any]) -> Said:
        """What the model said. Raises UnreadableError for a response that is no chat completion."""
        choice = choice_of(response, self.api.who)
        message = choice.get("message") or {}
        content = message.get("content")
        refused = declined(choice) or (isinstance(content, list) and any(map(_is_refusal, content)))
        return Said(said_in(content), refused=refused, cut=choice.get("finish_reason") == "length")


def _is_refusal(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "refusal"
