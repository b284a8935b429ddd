"""Write the report of a run from its `gap.json`. It computes nothing that is not there.

To add a section, write a module in `sections` with a function that takes the content of `gap.json` and returns a
`Section`, or None where the data for it is missing, and put the function into `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.evaluation.report import figures, html, markdown
from distill.evaluation.report.document import Figures, Section
from distill.evaluation.report.sections import (
    cascade,
    classes,
    comparisons,
    confusion,
    costs,
    data,
    disagreements,
    graphs,
    overview,
    preset,
    reliability,
    students,
    teacher,
)
from distill.stages import write_atomic

SECTIONS: tuple[Callable[[dict[str, Any]], Section | None], ...] = (
    overview.section,
    students.section,
    preset.section,
    cascade.section,
    comparisons.section,
    costs.section,
    graphs.section,
    classes.section,
    confusion.section,
    disagreements.section,
    reliability.section,
    teacher.section,
    data.section,
)
"""The sections of a report in their order."""

PAGE, TEXT = "report.html", "report.md"


def write_report(gap: dict[str, Any], folder: Path) -> None:
    """Write the report as a page and as Markdown, with the figures of the latter."""
    made = sections(gap)
    write_atomic(folder / PAGE, html.render(title(gap), made))
    write_atomic(folder / TEXT, markdown.render(title(gap), made))
    for section in made:
        for block in section.blocks:
            if isinstance(block, Figures):
                for figure in block.items:
                    write_atomic(folder / f"{figure.name}.png", figures.png(figure))


def title(gap: dict[str, Any]) -> str:
    """Return the title of a report."""
    return f"Distillation gap: {gap['task']}"


def sections(gap: dict[str, Any]) -> list[Section]:
    """Return the sections for which there is data."""
    made = (section(gap) for section in SECTIONS)
    return [section for section in made if section is not None]
