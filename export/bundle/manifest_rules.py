"""The rules for the keys of `manifest.json`. `format` reads the file and refuses one that breaks a rule.

Python's JSON parser accepts more than JSON has (`NaN`, integers of any length, half a surrogate pair), and `True` is an
`int`, so each rule inspects the value itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

MOST_TOKENS = 131_072
"""The largest `max_tokens`. No student reads more; a larger number means a damaged manifest and an endless warm-up."""

CASCADE = "cascade"
"""The family of a bundle that holds several, its stages."""

STAGES = "stages"
"""The folder of a cascade that holds the bundles of its stages, each in a folder of its own."""

_STAGE_KEYS = {"folder", "version", "cut_off"}
_LONGEST_NAME = 200
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 60


class Rule(NamedTuple):
    """What a key must hold: in words, and as a predicate. A key may be left out unless it is `needed`."""

    expected: str
    holds: Callable[[Any], bool]
    needed: bool = True


def read_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object with finite numbers only. Raises ValueError that says what is wrong."""
    try:
        data = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {kind_of(data)}")
    return data


def kind_of(value: object) -> str:
    """Describe a JSON value: the value itself if that is short, else its kind."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a number of many digits"
    shown = json.dumps(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def is_text(value: object) -> bool:
    """Whether a value is text that is not blank and can be written as UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and encodable(value)


def encodable(text: str) -> bool:
    """Whether text can be written as UTF-8: half a surrogate pair, which JSON may hold, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a number between `low` and `high`: no boolean, and in the range of a 64-bit float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return low < value < high and abs(value) < 1e300


def is_file_name(name: str) -> bool:
    """Whether a file of a bundle may have this name: a plain one, or in a cascade `stages/STAGE/NAME`."""
    folder, slash, file = name.rpartition("/")
    return _FILE.fullmatch(file) is not None and (not slash or is_within(folder, STAGES))


def is_within(path: str, folder: str) -> bool:
    """Whether a path of a bundle is that of a plain name directly within `folder`."""
    parent, _, name = path.rpartition("/")
    return parent == folder and _FILE.fullmatch(name) is not None


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:_SHOWN]} is not a number of JSON, or too large for one")
    return value


def _name(value: object) -> bool:
    return is_text(value) and isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME


def _labels(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_text, value)) and len(set(value)) == len(value)


def _leaves_no_choice(data: dict[str, Any]) -> bool:
    """Whether there is one label only, which every text would have. A multi-label bundle may have one."""
    return len(data["labels"]) == 1 and data.get("multi_label") is not True


def _names_no_file(data: dict[str, Any]) -> bool:
    """Whether the portable graph is not one of the files."""
    files = data.get("files")
    return data["portable"] is not None and isinstance(files, dict) and data["portable"] not in files


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_TOKENS


def _files(value: object) -> bool:
    return isinstance(value, dict) and all(
        is_file_name(name) and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None
        for name, digest in value.items()
    )


def _graph_or_none(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.endswith(".onnx"))


def _stages(value: object) -> bool:
    """Whether a value is a list of stages, of which only the last may have no cut-off; one alone must have one."""
    if not isinstance(value, list) or not all(map(_stage, value)):
        return False
    cut_offs = [row["cut_off"] for row in value]
    without = sum(cut_off is None for cut_off in cut_offs[-1:])
    return (
        len({row["folder"] for row in value}) == len(value)
        and all(map(_share, cut_offs[: len(cut_offs) - without]))
        and not (without and len(value) == 1)
    )


def _stage(row: object) -> bool:
    if not isinstance(row, dict) or set(row) != _STAGE_KEYS:
        return False
    return isinstance(row["folder"], str) and is_within(row["folder"], STAGES) and _name(row["version"])


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _unlike_family(data: dict[str, Any]) -> bool:
    """Whether a cascade has no stages, or another bundle has some."""
    return bool(data["stages"]) != (data.get("family") == CASCADE)


def _strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


_NAME = Rule(f"text on one line, of 1 to {_LONGEST_NAME} characters", _name)
_OBJECT = Rule("an object", lambda value: isinstance(value, dict), needed=False)

RULES = {
    "name": _NAME,
    "family": _NAME,
    "labels": Rule("a list of two labels or more, one if multi_label, all of them different and none blank", _labels),
    "max_tokens": Rule(f"a whole number from 1 to {MOST_TOKENS}", _whole),
    "variant": _NAME,
    "temperature": Rule("a number above 0", lambda value: is_number(value, low=0.0)),
    "files": Rule("an object of plain file names, in no folder but those of stages, each with its SHA-256", _files),
    "version": _NAME,
    "role": _NAME._replace(needed=False),
    "teacher": _OBJECT,
    "gates": _OBJECT,
    "measured": _OBJECT,
    "cpu": _OBJECT,
    "libraries": Rule("an object of texts", _strings, needed=False),
    "created": Rule("text", lambda value: isinstance(value, str), needed=False),
    "multi_label": Rule("true or false", lambda value: isinstance(value, bool), needed=False),
    "truncation_side": Rule("left or right", lambda value: value in ("left", "right"), needed=False),
    "portable": Rule("the name of a graph that 'files' lists, or null", _graph_or_none, needed=False),
    "stages": Rule(
        f"objects of folder, version and cut_off, in [0, 1]; the last of several may have null; only in a bundle of "
        f"the family {CASCADE}",
        _stages,
        needed=False,
    ),
    "threshold": Rule("a number between 0 and 1", lambda value: is_number(value, 0.0, 1.0), needed=False),
}
"""The rules by key. `schema`, which says whether these rules apply, is checked before them."""

_TOGETHER = {"labels": _leaves_no_choice, "portable": _names_no_file, "stages": _unlike_family}
"""Predicates over the whole manifest that a key violates where they hold."""


def violations(data: dict[str, Any]) -> list[str]:
    """Return a sentence for each key of a manifest that breaks its rule: what it must hold, and what it holds."""
    if not all(map(encodable, data)):
        return ["a key that is not UTF-8"]
    wrong = [f"{key!r} is no key of a manifest" for key in data if key not in RULES and key != "schema"]
    for key, rule in RULES.items():
        if key not in data:
            wrong += [f"{key!r} is missing: expected {rule.expected}"] if rule.needed else []
        elif not rule.holds(data[key]) or (key in _TOGETHER and _TOGETHER[key](data)):
            wrong.append(f"{key!r} must be {rule.expected}, not {kind_of(data[key])}")
        elif not _encodable_within(data[key]):
            wrong.append(f"{key!r} holds text that is not UTF-8")
    return wrong


def _encodable_within(value: object) -> bool:
    """Whether all text in a JSON value can be written as UTF-8."""
    return encodable(json.dumps(value, ensure_ascii=False))
