"""Finds the label that a model names, or its confidences, also in answers that are not the requested JSON.

Unambiguous answers count: in a code fence or quotes, with an extra full stop or comma, in per cent. Ambiguous answers
and negations name no label.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

_MARK = re.compile(r"<(/?)(think|thinking|thought|reasoning)>|<\|message\|>", re.IGNORECASE | re.ASCII)
_FENCE = re.compile(r"```[\w-]*+\s*+(.*?)```", re.DOTALL)
_EXTRA_COMMA = re.compile(r",(\s*[}\]])")
_CURLY = str.maketrans("“”„‟«»‘’", '""""""\'\'')
_AROUND = " \t\r\n\"'`“”„‟«»‘’*_#<>[](){}.,;:!…。"
_LABEL_KEYS = ("label", "category", "class", "classification", "intent", "answer", "name")
_NUMBER_KEYS = ("confidence", "probability", "score", "likelihood")
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?|[.,]\d+)\s*(%|per ?cent|pct)?\.?", re.IGNORECASE)
_STATED = re.compile(
    r"^\W*(?:the\s+|my\s+)?(?:final\s+|best\s+|correct\s+)?(?:label|category|class|classification|answer|intent)"
    r"[\s*_`\"']*(?:\bis\b|[:=–—-])(.+)$",
    re.IGNORECASE | re.MULTILINE,
)
_LISTED = re.compile(  # a name and a number in a line, such as "1. billing: 90%"
    r"^\W*(?:\d+[.)]\s*)?([^\n]+?)\s*[:=(–—-]+\s*(\d+(?:[.,]\d+)?\s*%?)\)?[.,;]?\s*$", re.MULTILINE
)
_DENIED = re.compile(
    r"\b(not|no|never|neither|nor|none|without|cannot|unable|unsure|uncertain|unclear|whether|except|unlike|rather than"
    r"|instead of|nicht|kein\w*|weder|pas|aucune?|nunca|não|niet|geen)\b|n['’]t\b|\?",
    re.IGNORECASE,
)
_BEFORE = re.compile(r"(?:[\"'`*“‘«\[(]|[:=]\s*|\b(?:is|as|be)\s+)$", re.IGNORECASE)
_AFTER = re.compile(r"\s*(?:$|[.,;!\"'`*”’»\])])")
_COMMON = frozenset(
    "other others general none yes text message category label class answer question topic intent customer user "
    "request issue problem this that all any one".split()
)
"""Labels that are common words; in a sentence they count only if marked, as by quotes."""


def text_of(content: object) -> str:
    """The text of an answer, given as text or as a list of parts, without the model's reasoning."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(
        part if isinstance(part, str) else str(part.get("text") or "")
        for part in parts
        if isinstance(part, str) or (isinstance(part, Mapping) and part.get("type", "text") in ("text", "output_text"))
    )


def label_of(name: object, labels: Sequence[str]) -> int | None:
    """The label of this name, by index: spelled exactly like it, else the only one in any case and spacing."""
    if not isinstance(name, str):
        return None
    if name in labels:
        return labels.index(name)
    for alike in (_folded, _joined):
        wanted = alike(name)
        if found := [index for index, label in enumerate(labels) if alike(label) == wanted]:
            return found[0] if len(found) == 1 else None
    return None


def named_label(text: str, labels: Sequence[str]) -> int | None:
    """The label that an answer names, by index: in JSON, by itself, or in a sentence. None for none or several."""
    text = without_reasoning(text)
    if (label := label_of(text.strip(), labels)) is not None:
        return label
    if values := list(json_values(text)):
        found = {_label_in(value, labels) for value in values}
        return found.pop() if len(found) == 1 else None
    if text.rfind("{") > text.rfind("}"):  # the answer was cut
        return None
    if (label := _bare(text, labels)) is not None:
        return label
    if stated := [match[1] for match in _STATED.finditer(text)]:
        found = {_named(rest, labels) for rest in stated}
        return found.pop() if len(found) == 1 else None
    lines = {label for line in text.splitlines() if (label := _bare(line, labels)) is not None}
    if lines:  # the label on a line of its own, next to an explanation
        return lines.pop() if len(lines) == 1 else None
    return _mentioned(text, labels)


def stated_name(text: str) -> str:
    """The name that an answer states, where the labels are not known: at most one line, and empty if there is none.

    It is read in JSON (under a usual key, else the first text, number or boolean), after `Label:`, or from the first
    line.
    """
    text = without_reasoning(text)
    for value in json_values(text):
        if isinstance(value, Mapping):
            keys = {str(key).lower(): part for key, part in value.items()}
            parts = [_first(keys, _LABEL_KEYS), *keys.values()]
            value = next((part for part in parts if isinstance(part, str | int)), None)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int):
            return _first_line(str(value))
    stated = _STATED.search(text)
    return _first_line(text if stated is None else stated[1])


def confidences_in(text: str, labels: Sequence[str]) -> dict[int, float] | None:
    """The confidence that an answer states for each label it names, by index, in [0, 1]; None if it states none.

    If a label is named twice, the first confidence counts. Numbers without a per cent sign are per cent if any is 2 or
    more; one between 1 and 2, or above 100, makes the answer invalid.
    """
    text = without_reasoning(text)
    values = list(json_values(text)) or [[list(pair) for pair in _LISTED.findall(text)]]
    found = [one for value in values if (one := _confidences(value, labels)) is not None]
    return found[0] if found and all(one == found[0] for one in found) else None


def _confidences(value: object, labels: Sequence[str]) -> dict[int, float] | None:
    pairs = _pairs(value)
    if not pairs:
        return None
    numbers = [_number(confidence) for _, confidence in pairs]
    known = [one for one in numbers if one is not None]
    if len(known) < len(pairs):
        return None
    largest = max((number for number, percent in known if not percent), default=0.0)
    if 1 < largest < 2 or largest > 100 or any(percent and number > 100 for number, percent in known):
        return None
    confidences: dict[int, float] = {}
    for (name, _), (number, percent) in zip(pairs, known, strict=True):
        if (label := _bare(name, labels)) is not None:
            confidences.setdefault(label, number / 100 if percent or largest > 1 else number)
    return confidences


def _pairs(value: object) -> list[tuple[object, object]] | None:
    """Names with their confidences, from a list of entries, a mapping, or an object that holds one of these."""
    if isinstance(value, Mapping):
        keys = {str(key).lower(): part for key, part in value.items()}
        if "ranking" in keys or (len(keys) == 1 and isinstance(next(iter(keys.values())), list | dict)):
            return _pairs(keys.get("ranking", next(iter(keys.values()))))
        if any(key in keys for key in _NUMBER_KEYS):
            return [(_first(keys, _LABEL_KEYS), _first(keys, _NUMBER_KEYS))]
        return list(value.items())
    if not isinstance(value, list):
        return None
    pairs: list[tuple[object, object]] = []
    for entry in value:
        if isinstance(entry, list) and len(entry) == 2:
            pairs.append((entry[0], entry[1]))
        elif isinstance(entry, Mapping) and (one := _pairs(entry)) and len(one) == 1:
            pairs += one
        else:
            return None
    return pairs


def _number(value: object) -> tuple[float, bool] | None:
    """A confidence of 0 or more and whether it is marked as per cent; None for anything else."""
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value.strip())):
        return float(match[1].replace(",", ".")), match[2] is not None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value), False


def _label_in(value: object, labels: Sequence[str]) -> int | None:
    """The label that a JSON value names."""
    if isinstance(value, Mapping):
        keys = {str(key).lower(): part for key, part in value.items()}
        return _label_in(_first(keys, _LABEL_KEYS), labels)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return _named(value, labels) if isinstance(value, str) else None


def _named(text: str, labels: Sequence[str]) -> int | None:
    """The label of a text that should be a bare name."""
    label = _bare(text, labels)
    return _mentioned(text, labels) if label is None else label


def _first(keys: Mapping[str, object], names: Sequence[str]) -> object:
    return next((keys[name] for name in names if name in keys), None)


def _bare(name: object, labels: Sequence[str]) -> int | None:
    """The label of a name that may be in quotes or emphasis, or followed by a full stop."""
    label = label_of(name, labels)
    return label_of(name.strip(_AROUND), labels) if label is None and isinstance(name, str) else label


def _mentioned(text: str, labels: Sequence[str]) -> int | None:
    """The only label that a sentence names in whole words, unless it has a negation, a doubt or a question.

    A label within a longer one does not count.
    """
    text = unicodedata.normalize("NFKC", text)
    spans = [match.span(1) for match in _pattern(tuple(labels)).finditer(text)]
    spans = [(a, b) for a, b in spans if not any(c <= a and b <= d and (a, b) != (c, d) for c, d in spans)]
    found = {label_of(text[a:b], labels) for a, b in spans}
    rest = text
    for a, b in reversed(spans):
        rest = rest[:a] + " " * (b - a) + rest[b:]
    if len(found) != 1 or _DENIED.search(rest):
        return None
    label = found.pop()
    if label is not None and (len(labels[label]) < 3 or _folded(labels[label]) in _COMMON):
        marked = any(_BEFORE.search(text[:a]) and _AFTER.match(text[b:]) for a, b in spans)
        return label if marked else None
    return label


@lru_cache(maxsize=16)
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    """Matches the position and the longest label that begins there, in any case and spacing."""
    written = sorted({_joined(label) for label in labels}, key=len, reverse=True)
    either = "|".join(r"[\s_-]+".join(map(re.escape, label.split())) for label in written if label)
    return re.compile(rf"(?<!\w)(?<!\w-)(?=({either or '(?!)'})(?!\w)(?!-\w))", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """The answer without the reasoning before it.

    Takes time linear in the length, which nothing but the room for the answer limits.
    """
    closing: dict[str, re.Match[str]] = {}  # the next mark that ends a thought of each kind
    thoughts: list[tuple[int, int]] = []
    for mark in reversed(list(_MARK.finditer(text))):
        kind = (mark[2] or "").lower()
        if mark[1] == "/":
            closing[kind] = mark
        elif kind in closing:
            thoughts.append((mark.start(), closing[kind].end()))
    kept, at = [], 0
    for start, end in reversed(thoughts):
        if start >= at:  # else it is within the one before
            kept.append(text[at:start])
            at = end
    text = "".join(kept) + text[at:]
    begun = len(text)
    for mark in reversed(list(_MARK.finditer(text))):
        if mark[1] != "":  # it ends a thought whose beginning was not sent
            return text[mark.end() : begun]
        begun = mark.start()
    return text[:begun]


def json_values(text: str) -> Iterator[Any]:
    """The JSON values of an answer: the whole text, else the code fences, else every object in it."""
    if (whole := _parsed(text)) is not None:
        yield whole
        return
    fenced = [value for block in _FENCE.findall(text) if (value := _parsed(block)) is not None]
    if fenced:
        yield from fenced
        return
    decoder, at, any_found = json.JSONDecoder(object_pairs_hook=_consistent), text.find("{"), False
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            any_found = True
            yield value
        at = text.find("{", end)
    if not any_found and (spanned := _parsed(text[text.find("{") : text.rfind("}") + 1])) is not None:
        yield spanned


def _parsed(text: str) -> Any:
    """The value of JSON, tolerating extra commas, curly quotes, and Python's single quotes."""
    text = text.strip()
    straight = text.translate(_CURLY)
    for form in dict.fromkeys((text, straight, _EXTRA_COMMA.sub(r"\1", straight))):
        try:
            return json.loads(form, object_pairs_hook=_consistent)
        except (ValueError, RecursionError):
            continue
    if not straight.startswith(("{", "[")):
        return None
    try:
        return ast.literal_eval(straight)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _consistent(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that occurs twice with different values gets None."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        values[name] = value if values.get(name, value) == value else None
    return values


def _first_line(text: str) -> str:
    lines = (line.strip(_AROUND) for line in text.splitlines())
    return next((line for line in lines if line), "")


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _joined(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", _folded(name)))
