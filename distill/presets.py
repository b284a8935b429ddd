"""Presets: values for keys of a task by the kind of its teacher, each of which has won in `benchmarks/recipes.py`.

A preset sets keys that the task does not write, and nothing else: a task that writes them all is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

PresetName = Literal["local-teacher"]


@dataclass(frozen=True, slots=True)
class Preset:
    """The `values` of some keys, by section and name, for tasks whose teacher is of one of the kinds `teachers`."""

    values: Mapping[tuple[str, str], Mapping[str, Any]]
    teachers: tuple[str, ...]


PRESETS: Mapping[PresetName, Preset] = {
    "local-teacher": Preset({("labelling", "views"): {"per_text": 3}}, ("local", "bundle", "causal")),
}


@dataclass(frozen=True, slots=True)
class PresetKey:
    """A key of a task that its preset is about: the `value` in the task, and that of the `preset`."""

    key: str
    value: Mapping[str, Any] | None
    preset: Mapping[str, Any]

    def __str__(self) -> str:
        said = "" if self.value == self.preset else f", as the task says; the preset has {_shown(self.preset)}"
        return f"{self.key}: {_shown(self.value)}{said}"


def with_preset(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a task with the values of its preset, if it is a known one, where it writes none."""
    filled = dict(document)
    preset = _preset(document.get("preset"))
    for (section, key), value in {} if preset is None else preset.values.items():
        given = filled.get(section, {})
        if isinstance(given, Mapping):  # what is no mapping is left to validation
            filled[section] = {key: dict(value), **given}
    return filled


def require_teacher(name: PresetName | None, kind: object, *, by_hand: bool) -> None:
    """Raise ValueError when a preset is for other kinds of teachers; `by_hand`: a task may write its keys itself."""
    preset = _preset(name)
    if preset is not None and kind not in preset.teachers:
        keys = ", ".join(".".join(key) for key in preset.values)
        instead = f"and write {keys} if you want that" if by_hand else "or use another teacher"
        raise ValueError(
            f"preset: {name} is for teachers of kind {', '.join(preset.teachers)}, and this one is {kind}; remove it, "
            f"{instead}"
        )


def preset_keys(task: BaseModel) -> list[PresetKey]:
    """Return the keys that the preset of a task is about, with their values; none without a preset."""
    preset = _preset(getattr(task, "preset", None))
    found = []
    for (section, key), value in {} if preset is None else preset.values.items():
        chosen = getattr(getattr(task, section), key)
        found.append(PresetKey(f"{section}.{key}", chosen and chosen.model_dump(exclude_unset=True), value))
    return found


def _preset(name: object) -> Preset | None:
    return next((preset for each, preset in PRESETS.items() if each == name), None)


def _shown(value: Mapping[str, Any] | None) -> str:
    return "none" if value is None else f"{{{', '.join(f'{key}: {one}' for key, one in value.items())}}}"
