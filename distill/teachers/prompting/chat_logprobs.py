"""One token's distribution through OpenAI's chat API: what to send, how to read responses, what servers refuse.

Servers support different parameters. A Dialect is what one of them supports; a refusal leads to the next one to try.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill.teachers.api.errors import ApiError, UnreadableError
from distill.teachers.api.gateways import refused_by_gateway
from distill.teachers.api.pricing import Usage
from distill.teachers.api.rejections import rejection
from distill.teachers.base import AnswerOutcome
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.label_codes import Reading, label_codes, read, read_all

LOGPROBS = ("logprobs", "top_logprobs")
"""The parameters that have log probabilities listed."""

NO_LOGPROBS = "no top_logprobs"
"""What a response without log probabilities lacks, as UnreadableError names it."""

MOST_IDS = 128
"""The most token ids that vLLM accepts in one request."""

LIMITS = ("max_completion_tokens", "max_tokens")
_REFUSALS = (400, 403, 404, 422)
_DECLINED = ("content_filter", "content-filter", "refus", "safety", "prohibited", "blocklist", "guardrail", "sensitive")
_FAILED = ("error", "abort", "network_error", "insufficient_system_resource")
_FILTERED = re.compile(r'"filtered": true|"block_?reason": "')
_THOUGHTS = ("<think", "<|channel", "<reason", "[think", "<seed:think", "◁think")
_SWITCH_OFF = (
    "switch that off with `extra_body` (OpenAI: {reasoning_effort: none}; vLLM and SGLang: {chat_template_kwargs: "
    "{enable_thinking: false}}), take another model, or take votes (`method: votes`)"
)


class IgnoredParameterError(UnreadableError):
    """A server accepted a parameter and ignored it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server supports: the name of the limit on an answer's length, how many tokens it lists, and token ids.

    `ids` maps each code to its token ids, the likeliest first, for a server that lists any requested token; it is empty
    for one that lists the likeliest tokens.
    """

    limit: str = LIMITS[0]
    top: int = 20
    ids: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def parameters(self, count: int) -> dict[str, Any]:
        """The request parameters for the distribution of one token over the codes of K labels."""
        parameters = {self.limit: 1, "temperature": 1, "logprobs": True}
        if ids := self.requested(count):
            return {**parameters, "logprob_token_ids": [one for one, _ in ids], "return_tokens_as_token_ids": True}
        return {**parameters, "top_logprobs": self.top}

    def requested(self, count: int) -> list[tuple[int, int]]:
        """The token ids to list for K labels, each with the index of its code; empty if any code has none."""
        names = label_codes(count)
        if count > MOST_IDS or any(not self.ids.get(name) for name in names):
            return []
        return self._all(names)[:MOST_IDS]

    def reading(self, response: Mapping[str, Any], order: Sequence[int], server: str) -> Reading | AnswerOutcome:
        """Read a response, in which code i stands for label `order[i]`: the distribution, or why there is none.

        Raises UnreadableError without log probabilities, and IgnoredParameterError if token ids are not listed.
        """
        if (rejected := rejection(response)) is not None:
            return rejected.outcome
        choice = choice_of(response, server)
        if declined(choice):
            return "refused"
        try:
            content = choice["logprobs"]["content"]
            if content == []:  # the answer is empty
                return read([], order)
            sampled = str(content[0]["token"])
            listed = [(str(entry["token"]), float(entry["logprob"])) for entry in content[0]["top_logprobs"]]
            if any(math.isnan(logprob) for _, logprob in listed):
                raise ValueError("NaN")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _no_logprobs(response, server, type(error).__name__) from error
        ids = self.requested(len(order))
        if not ids:
            if not listed:
                raise _no_logprobs(response, server, "none are listed")
            return read(listed, order, sampled)
        mass = {token: math.exp(min(logprob, 0.0)) for token, logprob in listed}
        by_code = [0.0] * len(order)
        for token, code in ids:
            if (probability := mass.get(f"token_id:{token}")) is None:
                raise IgnoredParameterError(
                    f"{server} does not list the token ids it is asked for; set `exact: never`", "token ids not listed"
                )
            by_code[code] += probability
        complete = len(ids) == len(self._all(label_codes(len(order))))
        return read_all(by_code, order, 0.0 if complete else max(0.0, 1.0 - sum(mass.values())))

    def _all(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Each token id with the index of its code: the likeliest of every code, then the second of each, and so on."""
        ranked = [(rank, code, one) for code, name in enumerate(names) for rank, one in enumerate(self.ids[name])]
        return [(one, code) for _, code, one in sorted(ranked)]


def adapted(dialect: Dialect, error: ApiError, server: str) -> Dialect:
    """The dialect to try after a server refused a request. Raises TeacherError if there is none."""
    reason = error.reason.lower()
    if error.status not in _REFUSALS or not reason:
        raise error
    if "could not finish the message" in reason:
        raise TeacherError(f"{server} reasons before it answers ({error.reason}): {_SWITCH_OFF}") from error
    if dialect.ids:
        return replace(dialect, ids={})
    if "logprobs" in reason:
        if refused_by_gateway(error.reason):
            raise error
        allowed = [number for number in map(int, re.findall(r"\d+", reason)) if 2 <= number < dialect.top]
        if allowed:
            return replace(dialect, top=max(allowed))
        raise TeacherError(
            f"{server} gives no logprobs ({error.reason}). Where that is because it reasons first, {_SWITCH_OFF}"
        ) from error
    if dialect.limit in reason:
        return other_limit(dialect)
    raise error


def other_limit(dialect: Dialect) -> Dialect:
    """The dialect with the other name for the limit on an answer's length."""
    return replace(dialect, limit=LIMITS[1 - LIMITS.index(dialect.limit)])


def is_vllm(response: Mapping[str, Any]) -> bool:
    """Whether a response has fields that only vLLM sends."""
    return "prompt_logprobs" in response or "kv_transfer_params" in response


def complaint(response: Mapping[str, Any], covered: float, tail: float, least: float, count: int, server: str) -> str:
    """Explain that a model puts less than `least` of its mass on the codes of K labels, and what to do about it.

    `covered` is the mass on listed codes, `tail` the mass that may be on codes that are not listed.
    """
    tokens = _likeliest(response)
    listing = ", ".join(f"{token!r} {probability:.2f}" for token, probability in tokens)
    listing = listing or "nothing"
    what = f"{server} puts {covered:.2f} of its mass on codes, less than min_covered {least}; it says {listing}"
    first = tokens[0][0].strip() if tokens else ""
    if _reasons(response) or first.lower().startswith(_THOUGHTS):
        return f"{what}. It reasons before it answers: {_SWITCH_OFF}"
    if count > len(label_codes(26)) and first.isascii() and first.isdigit() and len(first) < len(label_codes(count)[0]):
        return (
            f"{what}. Its tokenizer splits numbers, so codes of three digits are several tokens: put the labels "
            "into `groups` of at most 26, which get letters, or take a model whose tokenizer has numbers up to 999"
        )
    if covered + tail >= least and first:
        return (
            f"{what}, and {tail:.2f} is on tokens that the server does not list: raise `top_logprobs` and the server's "
            "own limit, or put the labels into `groups`"
        )
    return (
        f"{what}. It means to answer something else: give it `prompt.examples` or `prompt.nearest`, or use an "
        "instruction-tuned model"
    )


def usage_of(response: Mapping[str, Any]) -> Usage | None:
    """The tokens that a response reports, if any; OpenAI's `prompt_tokens` include the cached ones."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None
    try:
        prompt, output = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
        cached = min(prompt, int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Usage(input=prompt - cached, cached=cached, output=output)


def choice_of(response: Mapping[str, Any], server: str) -> Mapping[str, Any]:
    """The only choice of a chat completion. Raises UnreadableError for a response without one, or that failed.

    A choice that was filtered out altogether is returned as one that was declined.
    """
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, Mapping) and choice.get("finish_reason") in _FAILED:
        why = f"finish_reason {choice['finish_reason']}"
        raise UnreadableError(f"{server} broke off its answer ({why})", why, transient=True)
    if isinstance(choice, Mapping) and choice.get("error"):
        raise UnreadableError(f"{server} sent an error instead of a message", "an error", transient=True)
    if isinstance(choice, Mapping) and (isinstance(choice.get("message"), Mapping) or declined(choice)):
        return choice
    if not choice and _FILTERED.search(json.dumps(response)):
        return {"finish_reason": "content_filter"}
    why = "no choices" if not choice else "no message"
    raise UnreadableError(
        f"{server} gives no chat completion ({why}); is base_url that of a chat API?",
        why,
        transient="choices" in response,
    )


def declined(choice: Mapping[str, Any]) -> bool:
    """Whether the model or a filter declined to answer."""
    message, reason = choice.get("message"), str(choice.get("finish_reason") or "").lower()
    return reason.startswith(_DECLINED) or (isinstance(message, Mapping) and bool(message.get("refusal")))


def _no_logprobs(response: Mapping[str, Any], server: str, why: str) -> UnreadableError:
    """The error of a response without `top_logprobs`."""
    if _reasons(response):
        return UnreadableError(
            f"{server} reasons before it answers, and gives no top_logprobs ({why}): {_SWITCH_OFF}", NO_LOGPROBS
        )
    return UnreadableError(
        f"{server} gives no top_logprobs ({why}): this model or server does not have them here. Use one that has, or, "
        f"for a model that reasons first, {_SWITCH_OFF}",
        NO_LOGPROBS,
    )


def _reasons(response: Mapping[str, Any]) -> bool:
    """Whether a response shows reasoning tokens."""
    try:
        message = response["choices"][0]["message"]
        spent = (response.get("usage") or {}).get("completion_tokens_details") or {}
        return bool(spent.get("reasoning_tokens") or message.get("reasoning_content") or message.get("reasoning"))
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


def _likeliest(response: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The three likeliest tokens that a response lists, with their probabilities."""
    try:
        first = response["choices"][0]["logprobs"]["content"][0]
        listed = {
            str(one["token"]): math.exp(min(0.0, float(one["logprob"]))) for one in [first, *first["top_logprobs"]]
        }
    except (KeyError, IndexError, TypeError, ValueError):
        return []
    return sorted(listed.items(), key=lambda item: -item[1])[:3]
