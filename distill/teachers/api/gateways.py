"""Recognises gateways in front of a model, and responses that are not the model's own.

A cache gives the same answer to every draw of a question: eight votes would be one, counted eight times. A header of
the response shows it, or two draws with the same response id. A fallback is the answer of another model, which a header
shows. The headers are those that each gateway documents, and for LiteLLM those that `make rehearse-gateway` meets. What
a gateway leaves out of a request shows only in the response, so whoever misses it there asks `left_out` for advice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.teachers.errors import TeacherError

log = logging.getLogger(__name__)

_HIT = re.compile(r"(?<![a-z])hit(?![a-z])|^(?:stale|updating|revalidated)$", re.IGNORECASE)
_SAYS_YES = re.compile(r"(?:true|yes|1|hit)\b", re.IGNORECASE)
_FLAGS = ("cache-hit", "cached", "from-cache")
_SECONDS_OR_HITS = frozenset({"age", "x-cache-hits"})  # above 0 in answers from a cache
_FALLBACKS = ("x-litellm-attempted-fallbacks", "cf-aig-step")  # above 0 in answers of another model
_ABOVE_ZERO = re.compile(r"[1-9]")
_REFUSED_BY_LITELLM = re.compile(r"UnsupportedParamsError.*?does not support parameters: [\[{]([^\]}]*)", re.DOTALL)
_MODEL = "x-litellm-model-name"  # of the deployment that answered
_PROMPT = re.compile(r"prompt|token|kv|prefix", re.IGNORECASE)
_REMEMBERED = 10_000  # draws; those of one text are close together


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway: its `name`, the `prefix` of its headers, and what to set against what it may do.

    `fresh` bypasses its cache, `alone` keeps other models from answering, `whole` has it pass on the parameters
    `{names}`, and `messages` has it ask servers without Anthropic's API in the way that most of them support. All but
    `fresh` are empty where no setting is known.
    """

    name: str
    prefix: str
    fresh: str
    alone: str = ""
    whole: str = ""
    messages: str = ""


LITELLM = Gateway(
    "LiteLLM",
    "x-litellm-",
    fresh="`extra_body: {cache: {no-cache: true}}`",
    alone="`extra_body: {disable_fallbacks: true}`, or a `model_name` without `fallbacks` in its config",
    whole="`extra_body: {allowed_openai_params: [{names}]}` has it pass them on, unless `additional_drop_params` in "
    "its config names them",
    messages="it asks models under `openai/` at /v1/responses, which servers may lack, or where they may ignore the "
    "JSON schema; in its config set `litellm_settings: {use_chat_completions_url_for_anthropic_messages: true}`, or "
    "name the model `hosted_vllm/…`",
)
GATEWAYS = (
    LITELLM,
    Gateway("Portkey", "x-portkey-", '`headers: {x-portkey-cache-force-refresh: "true"}`'),
    Gateway("Helicone", "helicone-", '`headers: {Helicone-Cache-Enabled: "false"}`'),
    Gateway(
        "Cloudflare AI Gateway",
        "cf-aig-",
        fresh='`headers: {cf-aig-skip-cache: "true"}`',
        alone="a route without a fallback",
    ),
    Gateway(
        "OpenRouter",
        "x-openrouter-",
        fresh='`headers: {X-OpenRouter-Cache: "false"}`',
        whole="`extra_body: {provider: {require_parameters: true}}` chooses providers that take them",
    ),
    Gateway("Kong", "x-kong-", "leaving its cache plugin off for this route"),
    Gateway("Vercel", "x-vercel-", "leaving its cache off for this route"),
)


def gateway_of(headers: Mapping[str, str]) -> Gateway | None:
    """The gateway that the headers of a response show, if any."""
    return next((one for one in GATEWAYS if any(name.lower().startswith(one.prefix) for name in headers)), None)


def left_out(gateway: Gateway | None, *names: str) -> str:
    """Advice, to be appended to a message, on parameters by these names that a gateway may have left out of a request.

    Empty without a gateway.
    """
    if gateway is None:
        return ""
    listed = ", ".join(names)
    advice = gateway.whole.replace("{names}", listed) or "ask the server by its own address, to see whether that is so"
    return f". {gateway.name} stands between, and may leave out {listed}: {advice}"


def without_messages(gateway: Gateway | None) -> str:
    """Advice, to be appended to a message, on a gateway that may not translate Anthropic's Messages API in full.

    Empty without a gateway of which that is known.
    """
    return f". {gateway.name} stands between: {gateway.messages}" if gateway and gateway.messages else ""


def refused_by_gateway(reason: str) -> str:
    """What to do about parameters that LiteLLM refuses without asking the server; empty if the `reason` is another.

    LiteLLM's own advice, `drop_params: true`, would leave them out.
    """
    if (found := _REFUSED_BY_LITELLM.search(reason)) is None:
        return ""
    names = ", ".join(re.findall(r"'(\w+)'", found[1]))
    whole = LITELLM.whole.replace("{names}", names)
    return (
        f"LiteLLM refuses {names} without asking the server: {whole}. Its own advice, `drop_params: true`, would leave "
        "out what is needed"
    )


def from_fallback(headers: Mapping[str, str]) -> str:
    """The sign that another model answered in place of the one that was asked; empty without one."""
    return next((f"{name}: {headers[name]}" for name in _FALLBACKS if _ABOVE_ZERO.search(headers.get(name, ""))), "")


def from_cache(headers: Mapping[str, str], response: Mapping[str, Any]) -> str:
    """The sign that a response comes from a cache, such as `cf-aig-cache-status: HIT`; empty without one.

    Vendors' caches of prompts do not count.
    """
    for name, value in headers.items():
        lower = name.lower()
        if lower == "x-litellm-cache-key":  # sent with hits only
            return name
        if _is_hit(lower, value):
            return f"{name}: {value[:60]}"
    extra = response.get("extra_fields")  # Bifrost's
    debug = extra.get("cache_debug") if isinstance(extra, Mapping) else None
    return "extra_fields.cache_debug" if isinstance(debug, Mapping) and debug.get("cache_hit") is True else ""


def _is_hit(name: str, value: str) -> bool:
    """Whether a header, by its name in lower case, says that a cache answered."""
    if name in _SECONDS_OR_HITS:
        return _ABOVE_ZERO.search(value) is not None
    if "cache" not in name or _PROMPT.search(name):
        return False
    return bool(_HIT.search(value) or (name.endswith(_FLAGS) and _SAYS_YES.match(value)))


class OriginChecks:
    """Checks that responses are the model's own. `gateway` is the one in front of the server, if known."""

    def __init__(self, server: str) -> None:
        self.gateway: Gateway | None = None
        self._server = server
        self._known: dict[str, tuple[str, int]] | None = {}
        self._models: list[str] = []

    def recognise(self, headers: Mapping[str, str]) -> None:
        """Note the gateway that the headers of any response, also of an error, show.

        Warns once of a gateway that spreads calls over several models; several servers of one model are fine.
        """
        self.gateway = gateway_of(headers) or self.gateway
        model = headers.get(_MODEL, "")
        if model and model not in self._models and not from_fallback(headers):
            self._models.append(model)
            if len(self._models) == 2:
                log.warning(
                    "%s: LiteLLM spreads the calls over %s: unless they are one model, labels come from several "
                    "teachers; give the one that is meant a `model_name` of its own",
                    self._server,
                    " and ".join(self._models),
                )

    def check_model(self, headers: Mapping[str, str]) -> None:
        """Raise TeacherError for a response of another model than the one that was asked."""
        if sign := from_fallback(headers):
            alone = self.gateway.alone if self.gateway else ""
            raise TeacherError(
                f"{self._server} did not answer, but another model did in its place ({sign}), and the answers of two "
                f"teachers do not mix: use {alone or 'a route without fallbacks'}"
            )

    def check_fresh(self, headers: Mapping[str, str], response: Mapping[str, Any], fresh: bool) -> None:
        """Raise TeacherError for a response from a cache if it must be `fresh`.

        A response from a `semantic` cache, of similar questions, is never accepted: it may answer another question.
        """
        if (sign := from_cache(headers, response)) and (fresh or "semantic" in sign.lower()):
            raise TeacherError(
                f"{self._server} answered from a cache ({sign}), but the model itself must answer: {self._advice}"
            )

    def check_draw(self, body: Mapping[str, Any], sample: int, response: Mapping[str, Any]) -> None:
        """Raise TeacherError if a draw, just received or stored, has the response id of another draw.

        Once a server gives one id to two different questions, its ids are ignored.
        """
        name = _id(response)
        if self._known is None or not name:
            return
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        question, drawn = self._known.setdefault(name, (digest, sample))
        if question != digest:
            self._known = None
        elif drawn != sample:
            raise TeacherError(
                f"{self._server} gave one response ({name[:40]}) to two draws of a question, so a cache answers "
                f"instead of the model: {self._advice}"
            )
        elif len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    @property
    def _advice(self) -> str:
        again = "A new --output leaves out answers that were stored before"
        if self.gateway is None:
            known = "; ".join(f"{one.name}: {one.fresh}" for one in GATEWAYS[:2])
            return f"switch off the cache of the gateway in between ({known}). {again}"
        return f"{self.gateway.name} caches answers; bypass its cache by {self.gateway.fresh}. {again}"


def _id(response: Mapping[str, Any]) -> str:
    """The id of a response; empty if it does not identify one, as Ollama's small numbers or a time in seconds."""
    name, created = response.get("id"), response.get("created")
    if not isinstance(name, str) or response.get("system_fingerprint") == "fp_ollama":
        return ""
    return "" if isinstance(created, int) and created and str(created) in name else name
