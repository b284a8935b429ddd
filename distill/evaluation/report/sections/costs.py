"""The section on costs: what is saved, and from which volume on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill.evaluation.report.document import Paragraph, Section, Table
from distill.evaluation.report.formats import count, dollars


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section, None if the teacher's price is not known."""
    found = {name: student["costs"] for name, student in gap["students"].items()}
    first = found[gap["chosen"]]
    teacher = first["teacher_usd_per_1000"]
    if not teacher:
        return None

    def row(name: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [name, *(cell(own) for own in found.values())]

    rows = [
        row("per 1,000 texts", lambda own: dollars(own["student_usd_per_1000"])),
        row("saved per 1,000 texts", lambda own: dollars(teacher - own["student_usd_per_1000"])),
        row("labels are paid back after", lambda own: _texts(own["payback_texts"])),
        row("one core all month", lambda own: dollars(own["core_usd_per_month"])),
        row("which answers at most", lambda own: f"{_texts(own['most_texts_per_month'])} a month"),
    ]
    text = (
        f"The teacher costs {dollars(teacher)} per 1,000 texts, and its labels for this run cost "
        f"{dollars(first['labels_usd'])}, once. A core is taken at {dollars(first['usd_per_hour'])} an hour "
        "(budget.usd_per_hour), and as busy as it can be, unless it says all month. Not counted: people's time, "
        "training, and the texts that are shown to the teacher to watch the live gap."
    )
    if any(own["break_even_texts_per_month"] is not None for own in found.values()):
        rows.append(row("break-even volume", lambda own: f"{_texts(own['break_even_texts_per_month'])} a month"))
        text += " From the break-even volume on, a core that runs all month costs less than the teacher."
    return Section("Costs", [Paragraph(text), Table(["", *found], rows)])


def _texts(value: float | None) -> str:
    return "never" if value is None else f"{count(value)} texts"
