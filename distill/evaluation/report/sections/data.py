"""The section on data: the rows, their cleaning, and what the checks found."""

from __future__ import annotations

from typing import Any

from distill.data.spelling import plain
from distill.evaluation.report.document import Bullets, Paragraph, Section


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
    """List every label with its gold rows, and the rows without a label."""
    lines = []
    for label, counts in data["counts"].items():
        listed = f"{sum(counts.values())} rows ({', '.join(f'{count} {name}' for name, count in counts.items())})"
        if label or any(counts.values()):
            lines.append(f"- label {plain(label)}: {listed}" if label else f"- no label: {listed}")
    return lines
