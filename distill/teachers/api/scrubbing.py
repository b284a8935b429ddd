"""Masks keys and texts that a server repeats in an error message.

Servers echo requests, whole or cut, with or without JSON's escapes. Keys are looked for in the headers, the address and
the user's additions to the body; texts are the turns of the user. Of these, every run of words that is long enough to
reveal something is masked, and every whole line, however short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import httpx

MASK = "***"

_OPEN_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}
)
_INPUT = frozenset({"messages", "prompt", "input", "state", "system"})
_OURS = _INPUT | {"model", "questions", "response_format", "stop", "tools", "tool_choice"}
"""Fields of a body that do not come from `extra_body`."""

_SHORTEST_SECRET = 8
_SHORTEST_RUN = 8
"""In bytes of UTF-8: a Chinese character reveals more than a letter."""

_SHORTEST_LINE = 3
_MAX_CHARACTERS = 1_000
_SHOWN = 300

_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\[nrtbf\"'/\\]")


def scrubbed(message: str, request: httpx.Request) -> str:
    """The first 300 characters of a server's message, with `***` for what it repeats of the request.

    Half a surrogate pair, which UTF-8 cannot encode, becomes U+FFFD.
    """
    message = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", message[:_MAX_CHARACTERS])
    message = message.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for secret in sorted(_secrets(request), key=len, reverse=True):
        message = message.replace(secret, MASK)
    return _masked(message, list(_texts(request)))[:_SHOWN]


def _secrets(request: httpx.Request) -> set[str]:
    """The values in a request's headers, address and user additions to the body, plain and percent-encoded."""
    url = request.url
    values = [url.password, *(value for _, value in url.params.multi_items())]
    values += _strings({key: value for key, value in _body(request).items() if key not in _OURS})
    for name, value in request.headers.items():
        if name not in _OPEN_HEADERS:
            values += value.split()
    return {
        form for value in values if len(value) >= _SHORTEST_SECRET for form in (value, quote(value), unquote(value))
    }


def _texts(request: httpx.Request) -> Iterator[str]:
    """The turns of the user, and other fields that APIs use for the input."""
    body = _body(request)
    turns = body.get("messages")
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role") == "user":
            yield from _strings(turn.get("content"))
    for key in ("prompt", "input", "state"):
        yield from _strings(body.get(key))
    questions = body.get("questions")  # of a decision API: their instructions may hold examples
    for question in questions.values() if isinstance(questions, dict) else questions or ():
        yield from _strings(question.get("instructions") if isinstance(question, dict) else None)


def _body(request: httpx.Request) -> dict[str, Any]:
    """The JSON object that a request sends; empty for anything else."""
    try:
        body = json.loads(request.content)
    except (ValueError, httpx.RequestNotRead):
        return {}
    return body if isinstance(body, dict) else {}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _masked(message: str, texts: list[str]) -> str:
    """Mask every run of words in `message` that also occurs in a text, if it is long enough or a whole line of it."""
    spelled = [_normalised(text) for text in texts]
    lines = {_normalised(line) for text in texts for line in text.splitlines()}
    lines = {line for line in lines if len(line) - 1 >= _SHORTEST_LINE}
    found = list(_WORD.finditer(message))
    words = [word[0].casefold() for word in found]
    kept, end, at = [], 0, 0
    while at < len(found):
        run = at
        while run < len(found) and any(" " + " ".join(words[at : run + 1]) in text for text in spelled):
            run += 1
        whole = max((stop for stop in range(at + 1, run + 1) if " " + " ".join(words[at:stop]) in lines), default=at)
        if run > at and len(message[found[at].start() : found[run - 1].end()].encode()) < _SHORTEST_RUN:
            run = whole
        if run > at:
            kept += [message[end : found[at].start()], MASK]
            end = found[run - 1].end()
        at = max(run, at + 1)
    return "".join([*kept, message[end:]])


def _normalised(text: str) -> str:
    """The words of a text, each after a space, so that a match may cut the last word of a run but not the first."""
    return "".join(f" {word.casefold()}" for word in _WORD.findall(text))
