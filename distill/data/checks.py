"""Check the data: enough rows, no label missing, splits large enough for narrow intervals.

Checks return findings: a `problem` stops the run, a `warning` is printed and kept in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distill.data.spelling import plain, reads_as_missing, same_spelling, shown, spelling_variants
from distill.data.splits import Examples, normalise

ENOUGH_ROWS = 10_000
ENOUGH_PER_LABEL = 20
ENOUGH_TO_JUDGE = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """A `problem` or a `warning` about the data; the message says what and where, and the remedy."""

    level: Literal["problem", "warning"]
    message: str


def shared_with_test(name: str, split: Examples, test: Examples) -> list[Finding]:
    """Warn if texts of a split are also in the test split, which makes the results on it look better than they are."""
    judged = {normalise(text) for text in test.texts}
    count = sum(normalise(text) in judged for text in split.texts)
    if not count:
        return []
    return [Finding("warning", f"{name}: {count} of {len(split)} texts are also in test and flatter it; remove them")]


def lacks_gold(gold: Examples) -> str | None:
    """Return what is wrong if rows that need a gold label lack one, else None."""
    if gold.has_gold:
        return None
    bare = gold.unlabelled
    if len(bare) == len(gold):
        return "every row needs a gold label; name the column with `label`"
    return (
        f"every row needs a gold label; {len(bare)} of {len(gold)} have none, such as {bare[0]}: label or remove them"
    )


def unknown_labels(gold: Iterable[str | None], labels: Sequence[str]) -> str | None:
    """Return what is wrong if gold labels are not among the task's, naming similar spellings, else None."""
    unknown = sorted({label for label in gold if label is not None} - set(labels))
    if not unknown:
        return None
    message = f"gold labels {unknown[:5]} are not among the task's {len(labels)} labels"
    meant = [(label, near) for label in unknown if (near := same_spelling(label, labels)) is not None]
    spellings = ", ".join(f"{shown(label)} looks like {shown(near)}" for label, near in meant[:5])
    return f"{message}; {spellings}: spell them alike" if meant else message


def label_counts(splits: Mapping[str, Examples], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the rows of each label by split; the empty name counts those without a label."""
    counts = {name: Counter(label or "" for label in split.gold) for name, split in splits.items()}
    return {label: {name: counts[name][label] for name in splits} for label in ("", *labels)}


def examine_labels(splits: Mapping[str, Examples], labels: Sequence[str], *, listed: bool) -> list[Finding]:
    """Find labels that differ in spelling only, and labels such as `nan` that a program wrote for a missing one.

    Two spellings of one number or boolean, and `nan`, are problems, unless the task has `listed` its labels.
    """
    rows = {label: sum(counts.values()) for label, counts in label_counts(splits, labels).items()}
    findings = []
    for group in spelling_variants(labels):
        named = ", ".join(f"{shown(label)} ({rows[label]} rows)" for label in group.labels)
        if group.is_value and not listed:
            remedy = "spell them alike, or list both in the task's `labels`"
            findings.append(Finding("problem", f"labels {named} are one value in several spellings; {remedy}"))
        else:
            findings.append(Finding("warning", f"labels {named} differ only in spelling; spell them alike"))
    for label in filter(reads_as_missing, labels):
        if not listed:
            remedy = "empty such cells, or list it in the task's `labels`"
            findings.append(
                Finding("problem", f"label {shown(label)} ({rows[label]} rows) reads like a missing one; {remedy}")
            )
    return findings


def examine(splits: Mapping[str, Examples], labels: Sequence[str]) -> list[Finding]:
    """Find what is wrong in the splits of a task (`train`, `validation`, `test`), and where rows are too few."""
    findings = []
    for name, split in splits.items():
        if unknown := unknown_labels(split.gold, labels):
            findings.append(Finding("problem", f"{name}: {unknown}"))
        if missing := sum(map(reads_as_missing, split.texts)):
            findings.append(
                Finding("warning", f"{name}: {missing} texts read like missing ones, such as `nan`; remove such rows")
            )
        if name != "train" and len(split) < ENOUGH_TO_JUDGE:
            findings.append(
                Finding(
                    "warning", f"{name}: {len(split)} rows give wide intervals; {ENOUGH_TO_JUDGE} or more are better"
                )
            )
    train, test = splits["train"], splits["test"]
    if 0 < len(test.unlabelled) < len(test):
        message = (
            f"test: {len(test.unlabelled)} of {len(test)} rows have no gold label, such as {test.unlabelled[0]}; the "
            "report will have no accuracies; label or remove them"
        )
        findings.append(Finding("warning", message))
    if len(train) < ENOUGH_ROWS:
        findings.append(
            Finding(
                "warning",
                f"train: {len(train)} rows; distillation profits from {ENOUGH_ROWS:,} to 50,000; add texts to "
                "`data.unlabelled`, which need no gold label",
            )
        )
    if train.has_gold:
        findings += _thin("train", Counter(train.gold), labels)
    return findings


def fit_coverage(gold: Examples, labels: Sequence[str]) -> list[Finding]:
    """Find labels with no or few gold rows in `teacher.fit`: a fine-tuned teacher cannot learn them."""
    counts = Counter(label for label in gold.gold if label is not None)
    name = "teacher.fit.data"
    if len(counts) == 1:
        message = (
            f"{name}: all rows have the label {next(iter(counts))!r}; add rows of the other {len(labels) - 1} labels"
        )
        return [Finding("problem", message)]
    absent = [label for label in labels if not counts[label]]
    findings = []
    if absent:
        message = (
            f"{name}: no row has the label {_listed(absent)} ({len(absent)} of {len(labels)} labels); the fitted "
            "teacher will not choose what it never saw; add rows, or take such labels out of the task's `labels`"
        )
        findings.append(Finding("warning", message))
    return findings + _thin(name, counts, [label for label in labels if counts[label]])


def calibration_coverage(gold: Examples, labels: Sequence[str]) -> list[Finding]:
    """Find labels without a gold row in `labelling.calibration`: their probabilities are not calibrated."""
    absent = sorted(set(labels) - set(gold.gold))
    if not absent:
        return []
    message = (
        f"labelling.calibration.data: no row has the label {_listed(absent)} ({len(absent)} of {len(labels)} labels); "
        "calibration does not see them; add rows"
    )
    return [Finding("warning", message)]


def _thin(name: str, counts: Counter[str | None] | Counter[str], labels: Sequence[str]) -> list[Finding]:
    """Warn about labels with few gold rows."""
    thin = sorted((counts[label], label) for label in labels if counts[label] < ENOUGH_PER_LABEL)
    if not thin:
        return []
    listed = ", ".join(f"{plain(label)} ({count})" for count, label in thin[:5])
    have = "label has" if len(thin) == 1 else "labels have"
    return [Finding("warning", f"{name}: {len(thin)} {have} fewer than {ENOUGH_PER_LABEL} rows: {listed}")]


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", …" if len(labels) > 5 else "")
