"""Read a log of calls to a language model: one JSON object a line, in the forms that applications and gateways write.

A line holds a request and a response of OpenAI's chat API or Responses API or Anthropic's Messages API (under `request`
and `response` or the like, or flat), a conversation that ends with the answer, or a prompt and an answer as text.
Usage, model, time and latency are read where they are. A call that failed has no answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from distill.data.files import CSV, JSONL
from distill.data.values import is_blank
from distill.errors import DataError
from distill.teachers.anthropic import AnthropicTeacher
from distill.teachers.api.pricing import Usage
from distill.teachers.decisions import DecisionsTeacher
from distill.teachers.openai import OpenAITeacher
from distill.teachers.prompting.naming import text_of

_REQUESTS = ("request", "req", "kwargs", "input", "body")
_RESPONSES = ("response", "res", "output", "result", "completion")
_PROMPTS = ("prompt", "input", "question", "query", "text", "request")
_ANSWERS = ("completion", "answer", "output", "response", "label", "prediction", "result")
_TIMES = ("timestamp", "time", "created_at", "created", "ts", "start_time", "startTime")
_SECONDS = ("latency", "latency_s", "latency_seconds", "duration", "duration_s", "seconds", "response_time")
_MILLISECONDS = ("latency_ms", "duration_ms", "response_ms", "response_time_ms", "elapsed_ms")
_STATUSES = ("status", "status_code", "statusCode", "http_status")
_PARTS = frozenset({"choices", "content", "body", "messages", "output", "format", "verbosity"})
"""Fields of an object that is part of an API's request or response, and neither a text nor an answer as JSON."""
_ERRORS = frozenset({"error", "errors", "message", "detail", "fault", "exception"})
"""Fields of an object that says why there is no answer."""
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
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
    if path.exists() and path.suffix.lower() not in JSONL:
        raise DataError(f"{path}: expected a log called {' or '.join(JSONL)}; {_remedy(path)}")
    calls: list[Call] = []
    skipped: Counter[str] = Counter()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in filter(str.strip, file):
                try:
                    calls.append(_call(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    skipped["not JSON" if isinstance(error, json.JSONDecodeError) else str(error)] += 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give the path of a log") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); convert the log to UTF-8") from error
    if not calls:
        why = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common(3)) or "it is empty"
        raise DataError(f"{path}: no line is a prompt with an answer ({why}); docs/estimate.md says what is read")
    return Log(_in_seconds(calls), dict(skipped))


def _remedy(path: Path) -> str:
    """What to do about a path that is not called a log."""
    endings = [suffix.lower() for suffix in path.suffixes]
    if path.is_dir():
        return "this is a folder: give one of its files"
    if any(ending in _PACKED for ending in endings):
        return "unpack it first"
    if endings and endings[-1] in CSV:
        return f"a table of texts and answers needs no estimate to become a task: `reflux new {path}`"
    return "write one JSON object a line, and call it .jsonl"


def _call(record: Any) -> Call:
    """Read a line. Raises ValueError, saying what is missing."""
    if not isinstance(record, Mapping):
        raise ValueError("no object")
    request, response = _part(record, _REQUESTS), _part(record, _RESPONSES)
    requested = _messages(request)
    messages = requested or _messages(record)
    failed = _failed(record, response)
    answer = "" if failed else _answer(response) or _answer(record)
    ends_with_answer = not failed and not (requested and response)  # else its end is the beginning of an answer
    if messages and not answer and ends_with_answer and messages[-1].get("role") == "assistant":
        *messages, last = messages
        answer = text_of(last.get("content")) or _tool_call(last)
    before, message = _conversation(messages) if messages else ("", _first_text((request, record), _PROMPTS, _PARTS))
    instructions = "\n".join(filter(None, (_instructions(request) or _instructions(record), before)))
    if is_blank(message):
        raise ValueError("without a prompt")
    answer = answer or _first_text((record, response), _ANSWERS, _PARTS | _ERRORS)
    if failed or is_blank(answer):
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
    part = _envelope(record, names)
    body = part.get("body")
    return body if isinstance(body, Mapping) else part


def _envelope(record: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    return next((record[name] for name in names if isinstance(record.get(name), Mapping)), {})


def _failed(record: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Whether a line has an HTTP status of 400 or more, or an error beside its response, in it or in its choice."""
    choices = response.get("choices") or record.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    parts = (record, _envelope(record, _RESPONSES), response)
    if any(isinstance(part.get("error"), str | Mapping) and part["error"] for part in (*parts, choice)):
        return True
    statuses = [str(part.get(name)) for part in parts for name in _STATUSES]
    return any(status.isdecimal() and int(status) >= 400 for status in statuses)


def _messages(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for name in ("messages", *_PROMPTS):
        found = part.get(name)
        if isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
            # Items of the Responses API that are no messages, such as its own reasoning, are left out.
            if messages := [one for one in found if "role" in one]:
                return messages
    return []


def _instructions(part: Mapping[str, Any]) -> str:
    """What stands beside the messages: `system` in Anthropic's API, `instructions` in OpenAI's Responses API."""
    return _prompt_text(part.get("system")) or _prompt_text(part.get("instructions"))


def _conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What stands before the last message of a user, and that message."""
    at = max((index for index, one in enumerate(messages) if one["role"] == "user"), default=-1)
    before = [one for index, one in enumerate(messages) if index != at]
    told = "\n".join(f"{one['role']}: {_prompt_text(one.get('content'))}" for one in before)
    return told, _prompt_text(messages[at].get("content")) if at >= 0 else ""


def _prompt_text(content: Any) -> str:
    """The text of a message, also where its parts are called `input_text`, as in the Responses API."""
    if not isinstance(content, list):
        return text_of(content)
    told = [isinstance(part, Mapping) and part.get("type") == "input_text" for part in content]
    return text_of([{**part, "type": "text"} if is_text else part for part, is_text in zip(content, told, strict=True)])


def _answer(part: Mapping[str, Any]) -> str:
    """The text of a chat completion, a response of the Responses API, a message of Anthropic's, or a tool's call."""
    choices = part.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        message = choices[0].get("message")
        if isinstance(message, Mapping):
            return text_of(message.get("content")) or _tool_call(message)
        return _text(choices[0].get("text"), _PARTS | _ERRORS)
    output = part.get("output")
    if isinstance(output, list):
        items = [item for item in output if isinstance(item, Mapping)]
        said = "".join(text_of(item.get("content")) for item in items if item.get("type", "message") == "message")
        called = (item.get("arguments") for item in items if item.get("type") == "function_call")
        return said or next((one for one in called if isinstance(one, str)), "")
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


def _first_text(parts: Sequence[Mapping[str, Any]], names: Sequence[str], other: Set[str]) -> str:
    return next((text for part in parts for name in names if (text := _text(part.get(name), other))), "")


def _text(value: Any, other: Set[str]) -> str:
    """A text, or what is not one as JSON; empty for an object with a field of `other`, which is something else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return json.dumps(value)
    known = isinstance(value, Mapping) and not other & {name for name, part in value.items() if part is not None}
    return json.dumps(value, ensure_ascii=False) if known and value else ""


def _usage(response: Mapping[str, Any], record: Mapping[str, Any]) -> Usage | None:
    for part in (response, record, {"usage": record}):
        tokens = part.get("usage")
        # The Responses API counts cached tokens among those of the input, Anthropic's does not.
        of_responses = isinstance(tokens, Mapping) and "input_tokens_details" in tokens
        of_others = DecisionsTeacher.usage_of if of_responses else AnthropicTeacher.usage_of
        usage = OpenAITeacher.usage_of(part) or of_others(part)
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
