"""YAML that people write: bounded before anything is built of it, strict about keys, with errors of one line.

It knows nothing of tasks; what the values mean is checked by who reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import yaml
from yaml import events

from distill.errors import TaskError

MAX_CHARACTERS = 4 * 2**20
MAX_DEPTH = 100
MAX_VALUES = 200_000
"""Values of a file, each alias counted as the values that it stands for."""

_NAMED = re.compile(r"(\b(?:tag|alias)) '[^']{8,}'")
"""What the library repeats of a value that begins with `!` or `*`, which may be a secret that was not quoted."""


_LIKE_A_SECRET = re.compile(r"(?=.*\d)[\w.~+/=-]{16,}")


def shown(name: object) -> str:
    """Return the name of a key for a message, or `***` where a secret may have been put in its place."""
    return "***" if _LIKE_A_SECRET.fullmatch(str(name)) else str(name)


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: its `data`, and the node it was read from, which knows how each value is spelled."""

    data: Any
    root: yaml.Node | None

    def spelling(self, location: Sequence[int | str]) -> str | None:
        """Return how the scalar at a location is written in the file, or None where none is found there.

        `location` holds keys and indices; parts that name neither, as pydantic's do for branches, are passed over.
        """
        node = self._at(location)
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def key_spelling(self, location: Sequence[int | str], key: object) -> str | None:
        """Return how a `key`, given as YAML read it, is written in the mapping at a location, or None."""
        node = self._at(location)
        if isinstance(node, yaml.MappingNode):
            for spelled, _ in node.value:
                if isinstance(spelled, yaml.ScalarNode) and yaml.safe_load(spelled.value) == key:
                    return str(spelled.value)
        return None

    def _at(self, location: Sequence[int | str]) -> yaml.Node | None:
        node = self.root
        for part in location:
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            elif isinstance(node, yaml.MappingNode):
                node = next((value for key, value in node.value if key.value == part), node)
        return node


def read_yaml(text: str) -> Document:
    """Read one YAML document. Raises TaskError, in one line with its place, for what is none or is out of bounds."""
    if len(text) > MAX_CHARACTERS:
        raise TaskError(f"more than {MAX_CHARACTERS:,} characters; long lists belong into data files")
    try:
        _check_bounds(text)
        loader = _StrictLoader(text)
        try:
            root = loader.get_single_node()
            data = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problem = _NAMED.sub(r"\1", " ".join(filter(None, (error.context, error.problem))))
        raise TaskError(f"not YAML: {problem}{_place(error.problem_mark or error.context_mark)}") from error
    except yaml.YAMLError as error:
        raise TaskError(f"not YAML: {' '.join(str(error).split())}") from error
    return Document(data, root)


def quoting_hint(given: object, spelling: str | None) -> str | None:
    """Return what to do where text was expected and YAML 1.1 read an unquoted scalar as something else."""
    if given is None:
        return None if spelling == "" else _hint(spelling or "null", "nothing")
    if isinstance(given, bool):
        return _hint(spelling or str(given).lower(), str(given).lower())
    if isinstance(given, int | float):
        return _hint(spelling or str(given), f"the number {given}")
    if isinstance(given, date):
        return _hint(spelling or str(given), f"the date {given}")
    return None


def _hint(spelling: str, meaning: str) -> str:
    return f'expected text, and YAML reads {spelling} as {meaning}; quote it: "{spelling}"'


def _check_bounds(text: str) -> None:
    """Count depth and values while parsing, which neither recurses nor expands an alias."""
    bounds = _Bounds()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if problem := bounds.problem(event):
            raise TaskError(problem)


class _Bounds:
    """What the events of a document add up to, each alias counted as the values that it stands for."""

    def __init__(self) -> None:
        self._open: list[tuple[str | None, int]] = []  # of each open collection, its anchor and the values before it
        self._sizes: dict[str | None, int] = {}
        self._count = 0

    def problem(self, event: events.Event) -> str | None:
        """Count an event, and return what is out of bounds with it."""
        place = _place(event.start_mark)
        if isinstance(event, events.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in self._open):
                return f"the alias *{shown(event.anchor)} stands within what it names{place}; write it out"
            self._count += self._sizes.get(event.anchor, 1)
        elif isinstance(event, events.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._sizes[anchor] = self._count - before
        elif isinstance(event, events.NodeEvent):
            if isinstance(event, events.CollectionStartEvent):
                self._open.append((event.anchor, self._count))
            else:
                self._sizes[event.anchor] = 1
                if isinstance(event, events.ScalarEvent) and _has_half_a_character(event.value):
                    return f"half a character (a lone surrogate){place}; correct the escape"
            self._count += 1
        if len(self._open) > MAX_DEPTH:
            return f"nested more than {MAX_DEPTH} deep{place}; a task needs less than ten"
        if self._count > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values, aliases counted{place}; write it shorter"
        return None


def _has_half_a_character(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _place(mark: Any) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


_SHOWN = 40  # characters of a value, at most
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = ("tag:yaml.org,2002:value", _MERGE)
_KINDS = {
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
}


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where YAML would silently keep the last.

    `=`, and `<<` where it is no key, are text, as in YAML 1.2.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT:
            return node.value
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # of PyYAML, where a scalar does not fit its tag
            if not isinstance(node, yaml.ScalarNode):
                raise
            kind = _KINDS.get(node.tag, node.tag)
            spelled = node.value if len(node.value) <= _SHOWN else f"{node.value[:_SHOWN]}…"
            raise yaml.constructor.ConstructorError(
                None, None, f"{spelled!r} is read as {kind}, and is none; quote it to make it text", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue  # what is no plain key is refused, or merged, by YAML's own rules
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
