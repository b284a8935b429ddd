"""The names of a teacher, and whether two teachers are one.

A teacher and the bundle that was exported from it answer alike, under two names. Whatever asks whether a student
learned from a teacher, or two students from the same, compares all names here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Name = tuple[str, str]
"""Name and version of a teacher, empty where a manifest has none."""


def names_of(facts: Mapping[str, Any]) -> tuple[Name, ...]:
    """Return the names of a teacher as a manifest describes it: its own first, then its `origin`'s if it has one."""
    origin = facts.get("origin")
    given = [facts, *([origin] if isinstance(origin, Mapping) else [])]
    return tuple((str(one.get("name") or ""), str(one.get("version") or "")) for one in given)


def same_teacher(one: Collection[Name], other: Collection[Name]) -> bool:
    """Whether two teachers have a name in common."""
    return not set(one).isdisjoint(other)


def may_be(learned: Collection[Name], asked: Collection[Name]) -> bool:
    """Whether a student that `learned` from a teacher may have learned from `asked`; an empty part fits any."""
    return any(
        all(part in ("", given) for part, given in zip(name, known, strict=True)) for name in learned for known in asked
    )


def text_of(name: Name) -> str:
    """Return `name@version` as far as it is known."""
    return "@".join(part for part in name if part) or "no known teacher"
