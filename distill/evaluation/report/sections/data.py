"""The section on data: the rows, their cleaning, and what the checks found."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.document import Bullets, Paragraph, Section

_MOST_LABELS = 200


def section(gap: dict[str, Any]) -> Section:
    """Return the section."""
    account, *findings = data_lines(gap["data"])
    listed = [Bullets([line.removeprefix("- ") for line in findings])] if findings else []
    return Section("Data", [Paragraph(account), *listed])


def data_lines(data: dict[str, Any]) -> list[str]:
    """Describe the data and its cleaning, line by line."""
    rows, cleaning = data["rows"], data["cleaning"]
    leaked = ", ".join(f"{count} that are also in {name}" for name, count in cleaning["leaked"].items())
    summary_line = (
        f"{rows['train']} rows to train, {rows['validation']} to validate, {rows['test']} to test. "
        f"Of {cleaning['rows']} rows in the pool, removed: {cleaning['exact']} exact and {cleaning['near']} near "
        f"duplicates, {leaked}. "
        f"{cleaning['conflicting']} texts had more than one gold label."
    )
    findings = (f"- {finding['level']}: {finding['message']}" for finding in data["findings"])
    return [summary_line, *(f"- {line}" for line in data["delimiters"]), *findings]


def label_lines(data: dict[str, Any]) -> list[str]:
    """List the rows without a label and the labels with their gold rows, the first 200 if there are more.

    Rows that the teacher is fitted or calibrated on are counted apart, for they may be rows of the pool, too.
    """
    listed = {label: _counted(counts, data["rows"]) for label, counts in data["counts"].items()}
    labels = [label for label in listed if label]
    lines = [f"- no label: {listed['']}"] if any(data["counts"].get("", {}).values()) else []
    lines += [f"- label {plain(label)}: {listed[label]}" for label in labels[:_MOST_LABELS]]
    if len(labels) > _MOST_LABELS:
        lines.append(f"- … and {len(labels) - _MOST_LABELS:,} more labels")
    return lines


def _counted(counts: dict[str, int], splits: Collection[str]) -> str:
    """Say how many rows are in the splits, and how many serve the teacher."""
    rows = {name: count for name, count in counts.items() if name in splits}
    teacher = ", ".join(f"{count} {name}" for name, count in counts.items() if name not in splits)
    apart = f"; for the teacher: {teacher}" if teacher else ""
    return f"{sum(rows.values())} rows ({', '.join(f'{count} {name}' for name, count in rows.items())}){apart}"
