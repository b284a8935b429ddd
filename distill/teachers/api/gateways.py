"""Recognises gateways in front of a model, and answers from their caches.

A cache gives the same answer to every draw of a question: eight votes would be one, counted eight times. A header of
the response shows it, or two draws with the same response id. The headers are those that each gateway documents, and
for LiteLLM those that `findings/litellm-cache-key.sh` shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.teachers.errors import TeacherError

_HIT = re.compile(r"(?<![a-z])hit(?![a-z])|^(?:stale|updating|revalidated)$", re.IGNORECASE)
_SAYS_YES = re.compile(r"(?:true|yes|1|hit)\b", re.IGNORECASE)
_FLAGS = ("cache-hit", "cached", "from-cache")
_SECONDS_OR_HITS = frozenset({"age", "x-cache-hits"})  # above 0 in answers from a cache
_ABOVE_ZERO = re.compile(r"[1-9]")
_PROMPT = re.compile(r"prompt|token|kv|prefix", re.IGNORECASE)
_REMEMBERED = 10_000  # draws; those of one text are close together


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway: its `name`, the `prefix` of its headers, and the `remedy` that bypasses its cache."""

    name: str
    prefix: str
    remedy: str


GATEWAYS = (
    Gateway("LiteLLM", "x-litellm-", "`extra_body: {cache: {no-cache: true}}`"),
    Gateway("Portkey", "x-portkey-", '`headers: {x-portkey-cache-force-refresh: "true"}`'),
    Gateway("Helicone", "helicone-", '`headers: {Helicone-Cache-Enabled: "false"}`'),
    Gateway("Cloudflare AI Gateway", "cf-aig-", '`headers: {cf-aig-skip-cache: "true"}`'),
    Gateway("OpenRouter", "x-openrouter-", '`headers: {X-OpenRouter-Cache: "false"}`'),
    Gateway("Kong", "x-kong-", "leaving its cache plugin off for this route"),
    Gateway("Vercel", "x-vercel-", "leaving its cache off for this route"),
)


def gateway_of(headers: Mapping[str, str]) -> Gateway | None:
    """The gateway that the headers of a response show, if any."""
    return next((one for one in GATEWAYS if any(name.lower().startswith(one.prefix) for name in headers)), None)


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


class CacheDetector:
    """Checks that every draw has a response of its own. `gateway` is the one in front of the server, if known."""

    def __init__(self, server: str) -> None:
        self.gateway: Gateway | None = None
        self._server = server
        self._known: dict[str, tuple[str, int]] | None = {}

    def check_fresh(self, headers: Mapping[str, str], response: Mapping[str, Any], fresh: bool) -> None:
        """Raise TeacherError for a response from a cache if it must be `fresh`.

        A response from a `semantic` cache, of similar questions, is never accepted: it may answer another question.
        """
        self.gateway = gateway_of(headers) or self.gateway
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
            known = "; ".join(f"{one.name}: {one.remedy}" for one in GATEWAYS[:2])
            return f"switch off the cache of the gateway in between ({known}). {again}"
        return f"{self.gateway.name} caches answers; bypass its cache by {self.gateway.remedy}. {again}"


def _id(response: Mapping[str, Any]) -> str:
    """The id of a response; empty if it does not identify one, as Ollama's small numbers or a time in seconds."""
    name, created = response.get("id"), response.get("created")
    if not isinstance(name, str) or response.get("system_fingerprint") == "fp_ollama":
        return ""
    return "" if isinstance(created, int) and created and str(created) in name else name
