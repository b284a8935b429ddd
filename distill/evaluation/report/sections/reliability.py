"""The section on calibration: whether teacher and students are right as often as they are sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.evaluation.report.document import Figure, Figures, Paragraph, Section, Table
from distill.evaluation.report.figures import INK, QUIET, series
from distill.evaluation.report.formats import number, optional


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a figure: bins of rows, mean confidence and share right."""

    name: str
    bins: Sequence[tuple[int, float, float]]
    colour: str
    style: str = "-"


def section(gap: dict[str, Any]) -> Section:
    """Return the section."""
    text = (
        "Of the texts of which a calibrated classifier is 80 % sure, it is right on 80 %: the diagonal of the figures. "
        "The area of a point grows with its texts. The calibration error is the mean distance from the diagonal, by "
        "confidence in 15 bins; chance alone keeps it above zero. Students are calibrated to the teacher, by one "
        "temperature."
    )
    students, chosen = gap["students"], gap["chosen"]
    colours = {name: series(at) for at, name in enumerate(students)}
    agreement = {name: student["calibration"]["agreement"] for name, student in students.items()}
    lines = [
        Line(f"{chosen}, not calibrated", agreement[chosen]["before"]["bins"], QUIET, "--"),
        *(Line(name, own["after"]["bins"], colours[name]) for name, own in agreement.items()),
    ]
    figures = [_figure("reliability", "agreement with the teacher", lines)]
    if (gold := students[chosen]["calibration"]["gold"]) is not None:
        teacher = Line("teacher", gap["teacher"]["reliability"]["after"]["bins"], INK)
        right = [teacher, Line(chosen, gold["after"]["bins"], colours[chosen])]
        figures.append(_figure("reliability-gold", "share with the gold label", right))
    return Section("Calibration", [Paragraph(text), _table(gap), Figures(figures)])


def _table(gap: dict[str, Any]) -> Table:
    students = gap["students"]
    header = ["calibration error", "temperature", "against the teacher, before", "after"]
    rows = [
        [name, optional(own["temperature"], ".3f"), *_errors(own["agreement"])]
        for name, own in ((name, student["calibration"]) for name, student in students.items())
    ]
    teacher = gap["teacher"]["reliability"]
    if teacher is not None:
        header += ["against gold, before", "after"]
        for row, student in zip(rows, students.values(), strict=True):
            row += _errors(student["calibration"]["gold"])
        rows.insert(0, ["teacher", "", "", "", *_errors(teacher)])
    return Table(header, rows)


def _errors(reliability: dict[str, Any]) -> list[str]:
    return [number(reliability[when]["error"]) for when in ("before", "after")]


def _figure(name: str, what: str, lines: Sequence[Line]) -> Figure:
    most = max(rows for line in lines for rows, _, _ in line.bins)

    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        for line in lines:
            rows, means, shares = zip(*line.bins, strict=True)
            axes.plot(means, shares, line.style, color=line.colour, linewidth=1, label=line.name)
            areas = [6 + 90 * count / most for count in rows]
            axes.scatter(means, shares, areas, color=line.colour, alpha=0.75, linewidths=0)
        axes.set(xlabel="confidence", ylabel=what, xlim=(0, 1.02), ylim=(-0.02, 1.02))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return Figure(name, f"{what} by confidence: {', '.join(line.name for line in lines)}", plot)
