"""The section on the preset of the task: the keys that it is about, as the students were trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distill.evaluation.report.document import Bullets, Paragraph, Section
from distill.presets import PresetKey


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section; None without a preset."""
    preset = gap.get("preset")
    if preset is None:
        return None
    text, *keys = preset_lines(preset["name"], (PresetKey(**one) for one in preset["keys"]))
    return Section("Preset", [Paragraph(text), Bullets(keys)])


def preset_lines(name: str, keys: Iterable[PresetKey]) -> list[str]:
    """Say which preset a task has, and then of each key what it leads to."""
    return [f"The task has the preset {name}; keys that the task writes come first.", *map(str, keys)]
