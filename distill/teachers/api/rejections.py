"""Decides whether a server's error concerns the text that was asked about, or every text.

Servers have no common format for this, so this file lists their codes and phrases. If neither is found, the verdict is
`unclear`, and it depends on whether other texts are answered. A rejection is stored in place of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

Verdict = Literal["refused", "invalid", "unclear"]
"""The text is `refused` for its content or `invalid` (such as too long), or the server does not say (`unclear`)."""

_KEY = "rejected"
_OF_EVERY_TEXT = frozenset({401, 402, 404, 405, 409})
_TOO_LARGE = 413
_TOO_MANY = 429
_MAX_DEPTH = 12  # levels of a body that are read
_ECHOED = frozenset(
    {"input", "inputs", "body", "messages", "prompt", "state", "flagged_input", "failed_generation", "url"}
)
"""Fields in which servers repeat the request: they hold our words, not theirs."""

_EVERY_TEXT = re.compile(
    r"insufficient[ _](quota|balance|credit|fund)|credit balance|(out of|no|more|insufficient) credits|usage limits"
    r"|current quota|billing[ _](hard|not|details)|api[ _]key|unauthori[sz]ed|permission[ _](denied|error)"
    r"|(no|not|lacks?|missing|insufficient|without)( \S+){0,3} permissions?|permissions? to (access|use|call|perform)"
    r"|\b(your|this) (account|organi[sz]ation|project|workspace|subscription|access)\b"
    r"|model[ _]not[ _]found|unsupported[ _]?(param|value)|unknown[ _]parameter"
)
_NO_MONEY = re.compile(
    r"insufficient[ _](quota|balance|credit|fund)|credit balance|(out of|no|more|insufficient) credits|current quota"
    r"|billing[ _](hard|not)"
)
_REFUSED = re.compile(
    r"content[ _-]?filter|responsibleaipolicy|content[ _]?(policy|management|moderation|safety|violation|blocked)"
    r"|moderation|flagged|invalid_prompt|safety (system|polic|filter|setting|reason)|prohibited[ _]content"
    r"|data_?inspection|inappropriate|harmful|(usage|cyber|acceptable use)[ _]polic|polic(y|ies)[ _]violation"
    r"|violat\w* .{0,60}(polic|guideline|terms)|safety_check|guardrail|sensitive (content|information|words?)|敏感"
)
_TOO_LONG = re.compile(
    r"context[ _](length|window|size|limit)|exceed_context|contextwindow|(exceeds?|exceeding) .{0,40}context"
    r"|(input|prompt|request|message|text|content|sequence|string)s?( \S+){0,4} too (long|large)|too_(long|large)"
    r"|above_max_length|token_limit_exceeded|max_tokens_exceeded|input token count|too many (input |prompt )?tokens"
    r"|exceeds? (the )?(max|limit|model)|maximum (allowed )?(prompt|input|sequence|token|request)|payload too large"
    r"|entity too large|range of input length|tokens.{0,40} must be (<|less|at most)|longer than the"
    r"|reduce the (length|size)"
)
_NO_ROOM_EVER = re.compile(r"request too large")  # Groq and OpenAI, if one call exceeds a minute's tokens

_STATUS_OF = (  # for an error in a response of 200, by its type or code
    (429, re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted")),
    (401, re.compile(r"authentication|unauthori[sz]ed|unauthenticated|invalid_api_key")),
    (402, re.compile(r"insufficient|payment|billing")),
    (403, re.compile(r"permission|forbidden")),
    (404, re.compile(r"not.?found")),
    (400, re.compile(r"invalid|bad.?request|validation|exceed|content|context|too.?(long|large)|polic|moderation")),
)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A server's refusal to answer a text, with the `reason` in its own words.

    The rejection is `doubtful` if the server did not blame this text, and other answers had to show it.
    """

    outcome: Literal["refused", "invalid"]
    reason: str
    doubtful: bool = False

    def response(self, body: object) -> dict[str, Any]:
        """The rejection in the shape of a response, with the usage in the error's `body`, if any."""
        usage = body.get("usage") if isinstance(body, Mapping) else None
        stored = {"outcome": self.outcome, "said": self.reason, "doubtful": self.doubtful}
        return {_KEY: stored, **({"usage": usage} if usage else {})}


def rejection(response: Mapping[str, Any]) -> Rejection | None:
    """The rejection that is stored in place of a response, if any."""
    stored = response.get(_KEY)
    return (
        Rejection(stored["outcome"], stored["said"], stored.get("doubtful", False))
        if isinstance(stored, Mapping)
        else None
    )


def reason_among(responses: Iterable[Mapping[str, Any]]) -> tuple[str, bool]:
    """The reason of the first rejection among responses, empty without one, and whether any is doubtful."""
    found = [one for response in responses if (one := rejection(response)) is not None]
    return found[0].reason if found else "", any(one.doubtful for one in found)


def verdict(status: int, body: object) -> Verdict | None:
    """Classify the text by a response of another status than 200; None if the error is not about the text.

    A server's own failure, such as a 500, is `unclear`: some servers fail on certain texts each time.
    """
    message = "\n".join(_strings(body)).lower()
    if status in _OF_EVERY_TEXT or _EVERY_TEXT.search(message):
        return None
    if status == _TOO_MANY:
        return "invalid" if _NO_ROOM_EVER.search(message) else None
    if _REFUSED.search(message):
        return "refused"
    if status == _TOO_LARGE or _TOO_LONG.search(message):
        return "invalid"
    return "unclear"


def no_money(status: int, body: object) -> bool:
    """Whether a response says that the account is empty."""
    return status == 402 or bool(_NO_MONEY.search("\n".join(_strings(body)).lower()))


def error_within(response: Mapping[str, Any]) -> tuple[int, object] | None:
    """The error in a response of 200, as the status it stands for and a body; None without an error.

    Gateways send such errors if the model failed after it had begun, for the whole response or its only choice.
    """
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    error = response.get("error") or (first.get("error") if isinstance(first, Mapping) else None)
    if not error:
        return None
    body = {"error": error, "usage": response.get("usage")}
    if not isinstance(error, Mapping):
        return 500, body
    for name in ("code", "status", "status_code"):
        number = str(error.get(name) or "")
        if number.isdigit() and 400 <= int(number) < 600:
            return int(number), body
    kind = " ".join(str(error.get(name) or "") for name in ("type", "code", "status")).lower()
    return next((status for status, pattern in _STATUS_OF if pattern.search(kind)), 500), body


def message_of(body: object, depth: int = _MAX_DEPTH) -> str:
    """The message in the body of an error; empty if no known field holds one."""
    if isinstance(body, list) and depth:  # of details, as in FastAPI, or of one error, as in Gemini's
        return "; ".join(found for item in body[:3] if (found := message_of(item, depth - 1)))
    if not isinstance(body, Mapping) or not depth:
        return body if isinstance(body, str) else ""
    if isinstance(body.get("msg"), str):
        where = ".".join(str(part) for part in body.get("loc") or () if part != "body")
        return f"{where}: {body['msg']}" if where else body["msg"]
    for name in ("error", "errors", "message", "detail", "details", "error_message"):
        if found := message_of(body.get(name), depth - 1):
            return found
    return ""


def _strings(value: object, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """Every string of a body, except in fields that repeat the request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and depth:
        for name, part in cast("Mapping[str, object]", value).items():
            if name not in _ECHOED:
                yield from _strings(part, depth - 1)
    elif isinstance(value, list) and depth:
        for part in value:
            yield from _strings(part, depth - 1)
