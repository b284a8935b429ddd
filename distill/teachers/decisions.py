"""The teacher kind `decisions`: APIs that answer a closed question with a probability for every label, in one call.

OpenAI's Decisions API and servers of the System One format. Requests and answers are described in
`distill.teachers.prompting.decision_questions`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

from distill.teachers.api import rejections
from distill.teachers.api.calls import with_calls
from distill.teachers.api.client import Api, ApiRequest, Call
from distill.teachers.api.config import ApiConfig
from distill.teachers.api.errors import ApiError, about
from distill.teachers.api.pricing import Price, Usage, known_price
from distill.teachers.api.teacher import ApiTeacher
from distill.teachers.base import Answer, Method
from distill.teachers.errors import TeacherError
from distill.teachers.prompting import decision_questions, two_step
from distill.teachers.prompting.decision_questions import MAX_OPTIONS, PATHS, Decision, DialectName, Question
from distill.teachers.prompting.label_codes import Reading, order_of
from distill.teachers.prompting.prompt import Prompt, labelled

log = logging.getLogger(__name__)

_PROBES = 3
_NO_ROUTE = (404, 405)
_OVERHEAD = 16  # tokens of an answer besides those for its options; vendors charge nothing for either


class DecisionsConfig(ApiConfig):
    """A decision model. `dialect` is the format that the server speaks, `path` its route if it is not the usual one.

    `groups` maps names to labels, for more than 255 of them: one call then asks for the group and for the label in each
    group. A text is answered even without the answers for some groups, if they have less than `epsilon` of the mass
    together.
    """

    vendor_host: ClassVar[str] = "api.openai.com"

    kind: Literal["decisions"] = "decisions"
    dialect: DialectName = "openai"
    base_url: str = Field(default=f"https://{vendor_host}/v1", repr=False)
    path: str | None = Field(default=None, pattern="^/")
    key_env: str = Field(default="OPENAI_API_KEY", repr=False)
    prompt: Prompt = Prompt()
    groups: Mapping[str, tuple[str, ...]] = {}
    epsilon: float = Field(default=0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_a_server(self) -> DecisionsConfig:
        if self.dialect == "systemone" and "base_url" not in self.model_fields_set:
            raise ValueError("`dialect: systemone` needs the server's `base_url`, such as http://localhost:8000/v1")
        return self

    def answering(self) -> dict[str, Any]:
        """The settings that determine answers, without those for speed, keys and prices."""
        return {**super().answering(), "prompt": self.prompt.answering()}

    def price(self) -> Price:
        """The price of its calls, which vendors set for this API alone. Raises TeacherError for an unknown one."""
        host = urlsplit(self.base_url).hostname or ""
        return self.usd_per_million or known_price(f"{host}/decisions", self.model)

    def check(self, labels: Sequence[str]) -> None:
        """Raise TeacherError for terms of use, a prompt or groups that do not fit, and for too many labels."""
        super().check(labels)
        if self.groups:
            two_step.check(self.groups, labels)
        known = set(labels)
        if unknown := sorted({label for _, label in self.prompt.examples} - known):
            raise TeacherError(f"teacher.prompt.examples name labels {unknown[:5]} that the task does not have")
        if unknown := self.prompt.unknown([*labels, *self.groups]):
            raise TeacherError(f"teacher.prompt names labels {unknown[:5]} that the task does not have; correct them")
        sizes = [len(self.groups or labels), *(len(members) for members in self.groups.values())]
        if max(sizes) > MAX_OPTIONS:
            raise TeacherError(
                f"a question has {max(sizes)} options, and decision APIs take {MAX_OPTIONS}: divide the labels among "
                f"`groups` of {MAX_OPTIONS} at most"
            )


class DecisionsTeacher(ApiTeacher[DecisionsConfig]):
    """Asks one call for each text and reads the distribution in it."""

    config_type: ClassVar[type[BaseModel]] = DecisionsConfig
    kind = "decisions"

    def _build(self) -> None:
        """Make the choices: among labels, or among groups and within each."""
        config = self._config
        self._groups = [
            np.array([self.labels.index(label) for label in members], dtype=np.intp)
            for members in config.groups.values()
        ]
        self._within = {
            group: two_step.within(members, config.prompt)
            for group, members in enumerate(config.groups.values())
            if len(members) > 1
        }
        self._first = (
            two_step.between(config.groups, config.prompt)
            if config.groups
            else two_step.Choice(self.labels, config.prompt)
        )
        self._preparing = asyncio.Lock()
        self._prepared = self._warned = False

    async def prepare(self) -> None:
        """Check that the server speaks the dialect and gives whole distributions. Raises TeacherError."""
        async with self._preparing:
            if self._prepared:
                return
            found = [await self._probe(label) for label in self.labels[:_PROBES]]
            if all(answer.outcome != "ok" for answer in found):
                raise TeacherError(self._complaint(found))
            self.api.control = self._call(self.labels[0])
            self._prepared = True

    async def plan(self, text: str, repeat: int = 0) -> Sequence[tuple[Api, ApiRequest]]:
        """The call for a text, unless it is paid for."""
        request = self._call(text, repeat).request
        paid = await self.api.account.recall(self.api.key(request))
        return [(self.api, request)] if paid is None else []

    @staticmethod
    def usage_of(response: Mapping[str, Any]) -> Usage | None:
        """The tokens that a response reports, if any; `input_tokens` include those of the cache."""
        usage = response.get("usage")
        if not isinstance(usage, Mapping):
            return None
        try:
            read, output = int(usage["input_tokens"]), int(usage.get("output_tokens") or 0)
            details = usage.get("input_tokens_details") or {}
            cached = min(read, int(details.get("cached_tokens") or 0))
            written = min(read - cached, int(details.get("cache_write_tokens") or 0))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return Usage(input=read - cached - written, cached=cached, cache_write=written, output=output)

    async def _ask(self, text: str, repeat: int) -> Answer:
        for earlier in range(repeat):
            await self.api.remember(self._call(text, earlier).request)
        start = time.perf_counter()
        with about(text):
            call = self._call(text, repeat)
            found, paid = await self.api.call(call.request, call.read)
        combined = self._combine(found)
        answer = with_calls(combined, [paid], time.perf_counter() - start, self.usage_of)
        if answer.outcome == "invalid" and not answer.reason:
            self._warn(combined.reason)
        return answer

    async def _probe(self, label: str) -> Answer:
        """Ask about the name of a label. Raises TeacherError, which says what may be wrong with the server."""
        call = self._call(label)
        try:
            found, _ = await self.api.call(call.request, call.read)
        except ApiError as error:
            if error.status not in _NO_ROUTE:
                raise
            other = "systemone" if self._config.dialect == "openai" else "openai"
            raise TeacherError(
                f"{self.name} answered {error.status} ({error.reason}) at {self._config.address.rstrip('/')}"
                f"{call.request.path}: correct `model` or `base_url`, which ends with /v1 for most servers, set `path` "
                f"if the server has another one, or `dialect: {other}` if it speaks that"
            ) from error
        return self._combine(found)

    def _call(self, text: str, repeat: int = 0) -> Call[list[Decision]]:
        """The call for a text, which asks all questions at once."""
        questions = self._questions(text, repeat)
        asked = decision_questions.body(self._config.dialect, text, questions)
        request = ApiRequest(
            self._config.path or PATHS[self._config.dialect],
            {"model": self._config.model, **asked, **self._config.extra_body},
            max_output=sum(_OVERHEAD + len(question.options) for question in questions),
            sample=repeat,
            fresh=repeat > 0 or not self._prepared,
        )

        def read(response: Mapping[str, Any]) -> list[Decision]:
            if (rejected := rejections.rejection(response)) is not None:
                return [Decision(None, rejected.outcome, rejected.reason)] * len(questions)
            return decision_questions.decisions(self._config.dialect, response, questions, self.name)

        return Call(request, read)

    def _questions(self, text: str, repeat: int) -> list[Question]:
        """Which label; or which group, and which label of each group."""
        prompt, orders = self._config.prompt, self._config.permutations
        near = prompt.nearest.examples(text) if prompt.nearest else ()
        questions = []
        for name, choice in (("label", self._first), *((f"group_{group}", one) for group, one in self._within.items())):
            examples = (
                (example, label if choice.option_of is None else choice.option_of.get(label))
                for example, label in (*prompt.examples, *near)
            )
            shown = [labelled(example, option) for example, option in examples if option is not None]
            instructions = "\n\n".join([prompt.instructions, *shown])
            order = order_of(text, len(choice.options), orders, repeat)
            questions.append(Question(name, instructions, choice.options, choice.prompt.descriptions, order))
        return questions

    def _combine(self, found: Sequence[Decision]) -> Answer:
        """The answer by the decision between labels, or between groups and within each."""
        first = found[0]
        method: Method = "two_step" if self._groups else "decisions"
        if first.probabilities is None:
            return Answer(None, method, first.total, outcome=first.outcome, reason=first.reason)
        if not self._groups:
            return Answer(first.probabilities.astype(np.float32), method, first.total)
        within = dict(zip(self._within, found[1:], strict=True))
        sizes = [len(members) for members in self._groups]
        for group in two_step.to_expand(first.probabilities, sizes, self._config.epsilon):
            if within[group].outcome != "ok":
                return Answer(None, method, 0.0, outcome=within[group].outcome, reason=within[group].reason)
        readings = {
            group: _reading(p, one.total) for group, one in within.items() if (p := one.probabilities) is not None
        }
        outer = _reading(first.probabilities, first.total)
        combined = two_step.combine(outer, readings, self._groups, len(self.labels))
        return Answer(combined.probabilities, method, combined.covered, combined.bound)

    def _warn(self, defect: str) -> None:
        """Say once what is wrong with an answer: the outcome alone does not tell."""
        if not self._warned:
            log.warning(
                "%s gave a text no distribution over the labels (%s); such answers are invalid, and this is said once",
                self.name,
                defect,
            )
        self._warned = True

    def _complaint(self, found: Sequence[Answer]) -> str:
        """Explain why no probe has an answer that can be a soft label, and what to do about it."""
        if all(answer.outcome == "refused" for answer in found):
            return (
                f"{self.name} refuses to classify even the names of labels ({found[0].reason}): say in "
                "`prompt.instructions` what it is for"
            )
        return (
            f"{self.name} gives no distribution over the labels ({found[0].reason}), and a soft label must be one: use "
            "a server that states a probability for every label, or another kind of teacher"
        )


def _reading(probabilities: npt.NDArray[np.float64], total: float) -> Reading:
    """A distribution as `two_step` combines them: no part of it is hidden."""
    count = len(probabilities)
    return Reading(probabilities.astype(np.float32), total, 0.0, count, lower=probabilities, upper=probabilities)
