"""What must hold between Reflux, LiteLLM's proxy and llama.cpp: each check is a function that raises AssertionError.

Messages are those that people read, so the checks look for the gateway's setting in them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.teachers import TeacherError, create
from distill.teachers.base import Answer
from distill.teachers.prompting.label_codes import order_of
from tests.rehearsals.gateway.servers import BUSY_SECONDS, WRONG_KEY
from tests.support.accounts import MemoryAccount

LABELS = ("billing", "refund", "shipping", "login", "other")
TEXTS = tuple(f"ticket {number}: {word}" for number, word in enumerate(("parcel", "invoice", "password") * 4))
SAME = 1e-3
"""How far two answers of one model may differ: the order of its sums depends on what it has in its cache."""

PRICE = {"input": 1, "output": 1}


@dataclass(frozen=True)
class Addresses:
    """Root addresses of llama.cpp's server, of LiteLLM's proxy, and of a second proxy with other global settings.

    `keys` are the names of the variables with the proxies' keys.
    """

    llama: str
    proxy: str
    other: str
    keys: tuple[str, str]


Check = Callable[[Addresses], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Add a check under the name that the table shows."""

    def add(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return add


@check("label codes: openai/ and hosted_vllm/ give the probabilities, tokens and fingerprint of llama.cpp itself")
async def _label_codes(at: Addresses) -> None:
    assert len({order_of(text, len(LABELS), 2) for text in TEXTS}) == 2, "the texts do not use both orders of codes"
    expected = await answers(direct(at))
    for model in ("tiny", "tiny-vllm"):
        same(await answers(through(at, model)), expected)


@check("votes: every draw through /v1/chat/completions names a label")
async def _votes(at: Addresses) -> None:
    named(await answers(through(at, "tiny", method="votes"), TEXTS[:3]))


@check("a text that is too long is invalid, and the others are answered")
async def _too_long(at: Addresses) -> None:
    long = "parcel " * 1000
    given = await answers(through(at, "tiny"), (TEXTS[0], long, TEXTS[1]))
    assert [answer.outcome for answer in given] == ["ok", "invalid", "ok"], given
    assert "context" in given[1].reason, given[1].reason


@check("a parameter that LiteLLM refuses: the message says how it is passed on, and that works")
async def _refused(at: Addresses) -> None:
    await _helps(at, "refuses", "`extra_body: {allowed_openai_params: [logprobs, top_logprobs]}`")


@check("drop_params: the message says how log probabilities are passed on, and that works")
async def _dropped(at: Addresses) -> None:
    await _helps(at, "drops", "`extra_body: {allowed_openai_params: [logprobs, top_logprobs]}`")


async def _helps(at: Addresses, model: str, advice: str) -> None:
    message = await refusal(through(at, model))
    _says(message, advice)
    passed = {"allowed_openai_params": ["logprobs", "top_logprobs"]}
    same(await answers(through(at, model, extra_body=passed)), await answers(direct(at)))


@check("additional_drop_params: the message names that setting")
async def _dropped_always(at: Addresses) -> None:
    message = await refusal(through(at, "drops-always"))
    _says(message, "additional_drop_params")


@check("fallbacks: the answer of another model ends the run, and disable_fallbacks shows the server's own failure")
async def _fallback(at: Addresses) -> None:
    message = await refusal(through(at, "broken"))
    _says(message, "another model", "disable_fallbacks")
    message = await refusal(through(at, "broken", extra_body={"disable_fallbacks": True}))
    _says(message, "answered 5")
    assert "another model" not in message, message


@check("several deployments of one name that are several models: a warning names both")
async def _deployments(at: Addresses) -> None:
    with _logged() as lines:
        await answers(through(at, "several"))
    assert any("openai/tiny" in line and "hosted_vllm/tiny" in line for line in lines), lines


@check("a cache: votes end the run with the setting that bypasses it, and that works")
async def _cache(at: Addresses) -> None:
    message = await refusal(through(at, "tiny", other=True, method="votes"))
    _says(message, "no-cache")
    bypassed = {"cache": {"no-cache": True}}
    named(await answers(through(at, "tiny", other=True, method="votes", extra_body=bypassed), TEXTS[:2]))


@check("a limit: Retry-After of the server behind LiteLLM is waited for")
async def _retry_after(at: Addresses) -> None:
    start = time.monotonic()
    (answer,) = await answers(through(at, "busy"), TEXTS[:1])
    assert answer.outcome == "ok", answer
    assert time.monotonic() - start >= BUSY_SECONDS, "it did not wait"


@check("a wrong name of a model, and a wrong key, are named")
async def _wrong(at: Addresses) -> None:
    message = await refusal(through(at, "nosuch"))
    _says(message, "nosuch", "/v1/models")
    message = await refusal(through(at, "tiny", key_env=WRONG_KEY))
    _says(message, "refuses the key", "key_env")


@check("anthropic: /v1/messages through hosted_vllm/, and through openai/ with the setting, names labels in every draw")
async def _messages(at: Addresses) -> None:
    named(await answers(through(at, "tiny-vllm", kind="anthropic"), TEXTS[:3]))
    bypassed = {"cache": {"no-cache": True}}
    named(await answers(through(at, "tiny", kind="anthropic", other=True, extra_body=bypassed), TEXTS[:3]))


@check("anthropic: where the server has no /v1/responses, or ignores the schema, the message names the setting")
async def _messages_untranslated(at: Addresses) -> None:
    for model in ("tiny", "claude", "without-responses"):
        message = await refusal(through(at, model, kind="anthropic"))
        _says(message, "use_chat_completions_url_for_anthropic_messages: true")


def direct(at: Addresses, **settings: Any) -> aclosing[Any]:
    """Return a teacher that asks llama.cpp itself."""
    return _teacher({"kind": "openai", "base_url": f"{at.llama}/v1", "model": "tiny", **settings})


def through(at: Addresses, model: str, *, kind: str = "openai", other: bool = False, **settings: Any) -> aclosing[Any]:
    """Return a teacher that asks a model of a proxy."""
    root = at.other if other else at.proxy
    base_url = f"{root}/v1" if kind == "openai" else root
    return _teacher({"kind": kind, "base_url": base_url, "model": model, "key_env": at.keys[other], **settings})


def _teacher(config: dict[str, Any]) -> aclosing[Any]:
    exact = {"exact": "never"} if config["kind"] == "openai" else {}
    room = {"max_output_tokens": 100} if "logprobs" not in config.get("method", "logprobs") else {}
    defaults = {"usd_per_million": PRICE, "attempts": 2, "concurrency": 2, "timeout_seconds": 120, **exact, **room}
    return aclosing(create({**defaults, **config}, LABELS, MemoryAccount()))


async def answers(teacher: aclosing[Any], texts: tuple[str, ...] = TEXTS) -> list[Answer]:
    """Ask a teacher about texts, one after the other."""
    async with teacher as asked:
        return [answer for text in texts for answer in await asked.ask([text])]


async def refusal(teacher: aclosing[Any]) -> str:
    """Return the message with which a teacher ends that cannot be used."""
    try:
        given = await answers(teacher, TEXTS[:1])
    except TeacherError as error:
        return str(error)
    raise AssertionError(f"it was answered: {given}")


def _says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


def same(given: list[Answer], expected: list[Answer]) -> None:
    """Raise AssertionError unless answers are the same."""
    for one, other in zip(given, expected, strict=True):
        assert one.probabilities is not None, one
        assert other.probabilities is not None, other
        assert np.abs(one.probabilities - other.probabilities).max() < SAME, (one, other)
        assert abs(one.covered - other.covered) < SAME, (one, other)
        assert (one.tokens, one.fingerprint) == (other.tokens, other.fingerprint), (one, other)


def named(given: list[Answer]) -> None:
    """Raise AssertionError unless every draw of every answer names a label, and is counted."""
    for answer in given:
        assert (answer.outcome, answer.covered) == ("ok", 1.0), answer
        assert answer.tokens > 0, answer


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Yield the lines that Reflux logs in the block."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("distill").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("distill").removeHandler(handler)
