"""The section with the disagreements that surprise most."""

from __future__ import annotations

from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.document import Paragraph, Quotes, Section
from distill.evaluation.report.formats import share


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section about the chosen student, None if it follows its teacher everywhere."""
    name = gap["chosen"]
    found = gap["students"][name]["disagreements"]
    if not found:
        return None
    text = (
        f"Test texts with different labels: the {len(found)} on which the teacher is surer of its label than {name} is "
        "of that same label, by most. Is the teacher right? Are the labels ambiguous? Is such text rare in the pool?"
    )
    return Section(
        "Most surprising disagreements", [Paragraph(text), Quotes([(one["text"], _sides(one, name)) for one in found])]
    )


def _sides(one: dict[str, Any], name: str) -> str:
    """Say which label each side chose, and how sure it was."""
    said = [
        f"teacher: {plain(one['teacher'])} ({share(one['teacher_confidence'], 0)})",
        f"{name}: {plain(one['student'])} ({share(one['student_confidence'], 0)}; "
        f"{share(one['student_of_teachers'], 0)} for the teacher's)",
    ]
    if one["gold"] is not None:
        said.append(f"gold: {plain(one['gold'])}")
    return " · ".join(said)
