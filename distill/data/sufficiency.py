"""Whether the data will do: enough rows, every label there, splits large enough to say anything.

Findings, not decisions: a `problem` stops a run, a `warning` is printed and kept in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.data.splits import Examples

ENOUGH_ROWS = 10_000
ENOUGH_PER_LABEL = 20
ENOUGH_TO_JUDGE = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the data: how bad it is, and what it is with its remedy."""

    level: Literal["problem", "warning"]
    message: str


def examine(splits: Mapping[str, Examples], labels: Sequence[str]) -> list[Finding]:
    """What is wrong, or thin, in the splits of a task (`train`, `validation`, `test`)."""
    findings = []
    for name, split in splits.items():
        unknown = sorted({label for label in split.gold if label is not None} - set(labels))
        if unknown:
            findings.append(
                Finding("problem", f"{name}: gold labels {unknown[:5]} are not among the task's {len(labels)} labels")
            )
        if name != "train" and len(split) < ENOUGH_TO_JUDGE:
            findings.append(
                Finding(
                    "warning", f"{name}: {len(split)} rows give wide intervals; {ENOUGH_TO_JUDGE} or more are better"
                )
            )
    train = splits["train"]
    if len(train) < ENOUGH_ROWS:
        findings.append(
            Finding(
                "warning",
                f"train: {len(train)} rows; distillation profits from {ENOUGH_ROWS} to 50,000, add unlabelled text",
            )
        )
    if train.has_gold:
        counts = Counter(train.gold)
        thin = sorted((counts[label], label) for label in labels if counts[label] < ENOUGH_PER_LABEL)
        if thin:
            listed = ", ".join(f"{label} ({count})" for count, label in thin[:5])
            findings.append(
                Finding("warning", f"train: {len(thin)} labels have fewer than {ENOUGH_PER_LABEL} rows: {listed}")
            )
    return findings
