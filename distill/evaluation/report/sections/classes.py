"""The section on labels: which of the teacher's labels the student follows least."""

from __future__ import annotations

from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.document import Paragraph, Section, Table
from distill.evaluation.report.formats import Interval, percent

_WORST = 20


def section(gap: dict[str, Any]) -> Section | None:
    """Return the section about the chosen student's labels by the lower bound of their gap."""
    name = gap["chosen"]
    classes = gap["students"][name]["gap"]["classes"]
    seen = [row for row in classes if row["recall"] is not None]
    # The gap's lower bound is one minus the recall's upper one: what is certainly lost, not what chance may have lost.
    worst = sorted(seen, key=lambda row: (float(row["recall"]["upper"]), float(row["recall"]["value"])))[:_WORST]
    header = ("label", "teacher chose", f"{name} chose", "gap", "recall", "precision")
    rows = [
        [
            plain(row["label"]),
            str(row["teacher"]),
            str(row["student"]),
            percent(_complement(row["recall"])),
            percent(row["recall"]),
            percent(row["precision"]),
        ]
        for row in worst
    ]
    text = (
        f"The gap of a label is the share of the teacher's texts of it that {name} gives another one. Of "
        f"{len(classes)} labels, these {len(worst)} have the largest gap for certain: the order is by its lower bound. "
        "gap.json has all labels and students."
    )
    return Section("Labels", [Paragraph(text), Table(header, rows)])


def _complement(interval: Interval) -> Interval:
    return {"value": 1 - interval["value"], "lower": 1 - interval["upper"], "upper": 1 - interval["lower"]}
