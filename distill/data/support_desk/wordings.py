"""The words of the built-in support desk, read from `wordings.json`. No customer's own words.

A template is plain text with two kinds of braces: `{product}` is a slot filled from SLOTS, `{three|a few}` a
choice made on the spot. The templates of a signal are listed from frequent to rare. They begin with a word
that may lose its capital, or with a choice of such words: a sentence can come after "Hi," or "Also,".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

Wordings = dict[str, tuple[str, ...]]

_DATA: dict[str, Any] = json.loads((files(__package__) / "wordings.json").read_text(encoding="utf-8"))


def _wordings(listed: Mapping[str, list[str]]) -> Wordings:
    return {name: tuple(templates) for name, templates in listed.items()}


EXCLUSIVE: dict[str, Wordings] = {category: _wordings(signals) for category, signals in _DATA["exclusive"].items()}
"""Signals that only one category sends, the frequent ones first."""

SHARED_RATES: dict[str, dict[str, float]] = _DATA["shared_rates"]
"""Signals that neighbouring categories send: the share of each category's signals that this one is."""

SHARED = _wordings(_DATA["shared"])
SLOTS = _wordings(_DATA["slots"])
"""In a slot's value `^` is a digit from 1 to 9 and `@` one from 0 to 9."""

OPENINGS = _wordings(_DATA["openings"])
ASIDES = _wordings(_DATA["asides"])
CLOSINGS = _wordings(_DATA["closings"])
CONNECTORS: tuple[str, ...] = tuple(_DATA["connectors"])
