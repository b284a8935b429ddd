"""Whether the data will do: enough rows, every label there, splits large enough to say anything.

Findings, not decisions: a `problem` stops a run, a `warning` is printed and kept in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.data.splits import Examples, normalise

ENOUGH_ROWS = 10_000
ENOUGH_PER_LABEL = 20
ENOUGH_TO_JUDGE = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the data: how bad it is, and what it is with its remedy."""

    level: Literal["problem", "warning"]
    message: str


def shared_with_test(name: str, split: Examples, test: Examples) -> list[Finding]:
    """A warning when texts that fit or choose also judge, which flatters whatever they were used for."""
    judged = {normalise(text) for text in test.texts}
    count = sum(normalise(text) in judged for text in split.texts)
    if not count:
        return []
    return [Finding("warning", f"{name}: {count} of {len(split)} texts also stand in test and flatter it; remove them")]


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
