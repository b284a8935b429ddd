"""Read a log of calls to a language model: one JSON object a line, in the forms that applications and gateways write.

A line holds a request and a response of OpenAI's chat API or Anthropic's Messages API (under `request` and `response`
or the like, or flat), a conversation that ends with the answer, or a prompt and an answer as text. Usage, model, time
and latency are read where they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from distill.data.files import JSONL, ending_of
from distill.data.values import is_blank
from distill.errors import DataError
from distill.teachers.anthropic import AnthropicTeacher
from distill.teachers.api.pricing import Usage
from distill.teachers.openai import OpenAITeacher
from distill.teachers.prompting.naming import text_of

_REQUESTS = ("request", "req", "kwargs", "input", "body")
_RESPONSES = ("response", "res", "output", "result", "completion")
_PROMPTS = ("prompt", "input", "question", "query", "text", "request")
_ANSWERS = ("completion", "answer", "output", "response", "label", "prediction", "result")
_TIMES = ("timestamp", "time", "created_at", "created", "ts", "start_time", "startTime")
_SECONDS = ("latency", "latency_s", "latency_seconds", "duration", "duration_s", "seconds", "response_time")
_MILLISECONDS = ("latency_ms", "duration_ms", "response_ms", "response_time_ms", "elapsed_ms")
_LONGEST_CALL = 60.0
"""If the median latency without a unit is larger than this, it is taken for milliseconds."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call: what stood before the last message (`instructions`), that `message`, and the model's `answer`.

    `at` is in seconds since 1970, `seconds` how long it took; None where the log does not say.
    """

    instructions: str
    message: str
    answer: str
    model: str = ""
    usage: Usage | None = None
    at: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The calls of a log, and how many lines were not read, by the reason."""

    calls: tuple[Call, ...]
    skipped: Mapping[str, int]


def read_log(path: Path) -> Log:
    """Read a log. Raises DataError for a file that cannot be read, and if no line of it is a call."""
    if ending_of(path) not in JSONL:
        raise DataError(f"{path}: expected a log with one JSON object a line, called {' or '.join(JSONL)}")
    calls: list[Call] = []
    skipped: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in filter(str.strip, file):
                try:
                    calls.append(_call(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    skipped["not JSON" if isinstance(error, json.JSONDecodeError) else str(error)] += 1
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a log in UTF-8") from error
    if not calls:
        why = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common(3)) or "it is empty"
        raise DataError(f"{path}: no line is a prompt with an answer ({why}); docs/estimate.md says what is read")
    return Log(_in_seconds(calls), dict(skipped))


def _call(record: Any) -> Call:
    """Read a line. Raises ValueError, saying what is missing."""
    if not isinstance(record, Mapping):
        raise ValueError("no object")
    request, response = _part(record, _REQUESTS), _part(record, _RESPONSES)
    messages = _messages(request) or _messages(record)
    answer = _answer(response) or _answer(record)
    if messages and not answer and messages[-1].get("role") == "assistant":
        *messages, last = messages
        answer = text_of(last.get("content")) or _tool_call(last)
    if messages:
        instructions, message = _conversation(request, messages)
    else:
        instructions, message = "", _first_text((request, record), _PROMPTS)
    if is_blank(message):
        raise ValueError("without a prompt")
    answer = answer or _first_text((record, response), _ANSWERS)
    if is_blank(answer):
        raise ValueError("without an answer")
    sources = (response, request, record)
    return Call(
        instructions,
        message,
        answer,
        model=next((str(one["model"]) for one in sources if one.get("model")), ""),
        usage=_usage(response, record),
        at=_time(record) or _time(response),
        seconds=_duration(record),
    )


def _part(record: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The request or the response within a line, without the envelope of HTTP."""
    part: Mapping[str, Any] = next((record[name] for name in names if isinstance(record.get(name), Mapping)), {})
    body = part.get("body")
    return body if isinstance(body, Mapping) else part


def _messages(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for name in ("messages", *_PROMPTS):
        found = part.get(name)
        if isinstance(found, list) and found and all(isinstance(one, Mapping) and "role" in one for one in found):
            return found
    return []


def _conversation(request: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What stands before the last message of a user, and that message."""
    at = max((index for index, one in enumerate(messages) if one["role"] == "user"), default=-1)
    before = [one for index, one in enumerate(messages) if index != at]
    system = text_of(request.get("system"))  # where Anthropic's API has it
    parts = [system, *(f"{one['role']}: {text_of(one.get('content'))}" for one in before)]
    return "\n".join(filter(None, parts)), text_of(messages[at].get("content")) if at >= 0 else ""


def _answer(part: Mapping[str, Any]) -> str:
    """The text of a chat completion, of a message of Anthropic's, or of a call of a tool."""
    choices = part.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        if isinstance(message, Mapping):
            return text_of(message.get("content")) or _tool_call(message)
        return _text(choices[0].get("text"))
    content = part.get("content")
    if part.get("role") == "assistant" or isinstance(content, list):
        return text_of(content) or _tool_use(content)
    return ""


def _tool_call(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls")
    try:
        return str(calls[0]["function"]["arguments"]) if calls else ""
    except (KeyError, IndexError, TypeError):
        return ""


def _tool_use(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    used = [part.get("input") for part in parts if isinstance(part, Mapping) and part.get("type") == "tool_use"]
    return json.dumps(used[0], ensure_ascii=False) if used else ""


def _first_text(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    return next((text for part in parts for name in names if (text := _text(part.get(name)))), "")


def _text(value: Any) -> str:
    """A text, or what is not one as JSON; empty for a part that was read as a request or a response."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return json.dumps(value)
    known = isinstance(value, Mapping) and not {"choices", "content", "body", "messages"} & set(value)
    return json.dumps(value, ensure_ascii=False) if known and value else ""


def _usage(response: Mapping[str, Any], record: Mapping[str, Any]) -> Usage | None:
    for part in (response, record, {"usage": record}):
        usage = OpenAITeacher.usage_of(part) or AnthropicTeacher.usage_of(part)
        if usage is not None and usage.total:
            return usage
    return None


def _time(part: Mapping[str, Any]) -> float | None:
    for name in _TIMES:
        value = part.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value / 1000 if value > 1e11 else float(value)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
    return None


def _duration(record: Mapping[str, Any]) -> float | None:
    for names, unit in ((_MILLISECONDS, 1000.0), (_SECONDS, 1.0)):
        for name in names:
            value = record.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return value / unit
    return None


def _in_seconds(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Take latencies without a unit for milliseconds if they are too large for seconds."""
    took = [call.seconds for call in calls if call.seconds is not None]
    if not took or median(took) <= _LONGEST_CALL:
        return tuple(calls)
    return tuple(call if call.seconds is None else replace(call, seconds=call.seconds / 1000) for call in calls)
