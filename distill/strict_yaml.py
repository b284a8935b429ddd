"""Read YAML that people write: within bounds checked before construction, strict about keys, with one-line errors."""

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
"""Values in a file; an alias counts as many as the values it stands for."""

_NAMED = re.compile(r"(\b(?:tag|alias)) '[^']{8,}'")
"""PyYAML's messages quote a value that begins with `!` or `*`, which may be an unquoted secret."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_LIKE_A_SECRET = re.compile(r"(?=.*\d)[\w.~+/=-]{16,}")


def masked(name: object) -> str:
    """Return a key's name for a message, or `***` if it looks like a secret that was put in its place."""
    return "***" if _LIKE_A_SECRET.fullmatch(str(name)) else str(name)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's `data`, and its `root` node, which knows how each value is spelled."""

    data: Any
    root: yaml.Node | None

    def spelling(self, location: Sequence[int | str]) -> str | None:
        """Return how the scalar at a location is written in the file, or None if there is none.

        `location` holds keys and indices; other parts, such as pydantic's names of branches, are ignored.
        """
        node = self._at(location)
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def key_spelling(self, location: Sequence[int | str], key: object) -> str | None:
        """Return how a `key`, given as YAML reads it, is written in the mapping at a location, or None."""
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
    """Read one YAML document. Raises TaskError, in one line with the place, if it is invalid or out of bounds."""
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
    """Return the remedy if text was expected and YAML 1.1 reads an unquoted scalar as something else, else None."""
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
    """Count depth and values during parsing, which neither recurses nor expands aliases."""
    bounds = _Bounds()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if problem := bounds.problem(event):
            raise TaskError(problem)


class _Bounds:
    """Running counts over the events of a document; an alias counts as many as the values it stands for."""

    def __init__(self) -> None:
        self._open: list[tuple[str | None, int]] = []  # the anchor of each open collection, and the count before it
        self._sizes: dict[str | None, int] = {}
        self._count = 0

    def problem(self, event: events.Event) -> str | None:
        """Count an event, and return an error message if a bound is exceeded."""
        place = _place(event.start_mark)
        if isinstance(event, events.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in self._open):
                return f"the alias *{masked(event.anchor)} refers to a value that contains it{place}; write it out"
            self._count += self._sizes.get(event.anchor, 1)
        elif isinstance(event, events.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._sizes[anchor] = self._count - before
        elif isinstance(event, events.NodeEvent):
            if isinstance(event, events.CollectionStartEvent):
                self._open.append((event.anchor, self._count))
            else:
                self._sizes[event.anchor] = 1
                if isinstance(event, events.ScalarEvent) and _SURROGATE.search(event.value):
                    return f"half a character (a lone surrogate){place}; correct the escape"
            self._count += 1
        if len(self._open) > MAX_DEPTH:
            return f"nested more than {MAX_DEPTH} deep{place}; a task needs less than ten"
        if self._count > MAX_VALUES:
            return f"more than {MAX_VALUES:,} values, aliases counted{place}; write it shorter"
        return None


def _place(mark: Any) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


_MOST_SHOWN = 40  # characters of a value
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = ("tag:yaml.org,2002:value", _MERGE)
_KINDS = {
    "tag:yaml.org,2002:timestamp": "a date",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:bool": "true or false",
}


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys, of which PyYAML would silently keep the last.

    `=`, and `<<` except as a key, are text, as in YAML 1.2.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT:
            return node.value
        try:
            return super().construct_object(node, deep)
        except (
            ValueError,
            LookupError,
            AttributeError,
        ) as error:  # a scalar does not fit its tag
            if not isinstance(node, yaml.ScalarNode):
                raise
            kind = _KINDS.get(node.tag, node.tag)
            spelled = node.value if len(node.value) <= _MOST_SHOWN else f"{node.value[:_MOST_SHOWN]}…"
            raise yaml.constructor.ConstructorError(
                None, None, f"{spelled!r} is read as {kind} and is not one; quote it to make it text", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                continue  # YAML's own rules refuse or merge keys that are not plain
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {masked(key)!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
