"""The data stage: read, deduplicate, split and check a task's data, and write it for the later stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from distill.data.checks import (
    Finding,
    calibration_coverage,
    examine,
    examine_labels,
    fit_coverage,
    label_counts,
    lacks_gold,
    shared_with_test,
    unknown_labels,
)
from distill.data.deduplicate import Deduplication, deduplicate
from distill.data.prepared import write_splits
from distill.data.sources import delimiter_found, read
from distill.data.splits import Examples, Test, Train, Validation, cast, hold_out, join
from distill.errors import DataError
from distill.labelling.audit import gold_rows, shared_with_fit
from distill.progress import bar, status
from distill.sections import FileSource, walk
from distill.task import Task


def prepare(task: Task, folder: Path) -> None:
    """Write the data of a task into a folder. Raises DataError if the data has a problem."""
    with status("reading the data"):
        pool, unlabelled = read(task.data.train, "train"), _unlabelled(task)
        held_out = {"test": read(task.data.test, "test")}
        if not isinstance(task.data.validation, float):
            held_out = {"validation": read(task.data.validation, "validation"), **held_out}
    everything = join(pool, unlabelled)
    with bar("comparing texts", len(everything) + sum(map(len, held_out.values()))) as advance:
        everything, removed = deduplicate(everything, held_out, task.data.near_duplicate, advance)
    more = set(unlabelled.ids)
    pool = everything.take([row for row, name in enumerate(everything.ids) if name not in more])
    unlabelled = everything.take([row for row, name in enumerate(everything.ids) if name in more])
    with status("examining the data"):
        _split(task, pool, unlabelled, held_out, removed, folder)


def _unlabelled(task: Task) -> Examples:
    """Read the texts that join the pool without a label."""
    if task.data.unlabelled is None:
        return Examples((), (), ())
    found = read(task.data.unlabelled, "unlabelled")
    return Examples(found.ids, found.texts, (None,) * len(found))


def _split(
    task: Task,
    pool: Examples,
    unlabelled: Examples,
    held_out: Mapping[str, Examples],
    removed: Deduplication,
    folder: Path,
) -> None:
    """Hold validation rows out of the deduplicated pool, unless there are some, check the splits, and write them.

    Rows of `unlabelled` only train: they may come from elsewhere than those that are judged.
    """
    if not len(pool):
        raise DataError("train: every row duplicates a held-out row; check that train and test are different files")
    gold = _gold_of_the_teacher(task)
    labels = task.labels or _labels_of([pool, *held_out.values(), *gold.values()])
    if isinstance(task.data.validation, float):
        train, validation = hold_out(pool, task.data.validation, task.data.seed)
    else:
        train, validation = cast(pool, Train), cast(held_out["validation"], Validation)
    train = cast(join(train, unlabelled), Train)
    splits: dict[str, Examples] = {"train": train, "validation": validation, "test": cast(held_out["test"], Test)}
    if not len(validation):
        raise DataError("validation: no rows; raise data.validation or give it a source of its own")
    if len(set(ids := [name for split in splits.values() for name in split.ids])) < len(ids):
        raise DataError("an id is in two splits; ids must differ across train, validation and test")
    everywhere = {**splits, **gold}
    findings = examine_labels(everywhere, labels, listed=task.labels is not None) + examine(splits, labels)
    findings += _other_uses(task, held_out, gold.get("fit"), labels)
    if problems := [finding.message for finding in findings if finding.level == "problem"]:
        raise DataError("; ".join(problems))
    report = {
        "labels": labels,
        "rows": {name: len(split) for name, split in splits.items()},
        "counts": label_counts(everywhere, labels),
        "delimiters": _delimiters_found(task),
        "cleaning": asdict(removed),
        "findings": [asdict(finding) for finding in findings],
    }
    write_splits(folder, splits, report)


def _delimiters_found(task: Task) -> list[str]:
    """One line for each file of the task whose delimiter was detected."""
    found = (delimiter_found(value) for _, value in walk(task) if isinstance(value, FileSource))
    return list(dict.fromkeys(line for line in found if line is not None))


def _gold_of_the_teacher(task: Task) -> dict[str, Examples]:
    """The rows to fine-tune the teacher on and those to calibrate it on, if the task has them."""
    sections = {"fit": task.finetuning and task.finetuning[1], "calibration": task.labelling.calibration}
    return {name: read(section.data, "gold") for name, section in sections.items() if section is not None}


def _labels_of(splits: Iterable[Examples]) -> tuple[str, ...]:
    """The gold labels in the data, sorted. Raises DataError if there are fewer than two."""
    named = {label for split in splits for label in split.gold if label is not None}
    if len(named) < 2:
        raise DataError("the data names fewer than two gold labels; list the task's `labels`")
    return tuple(sorted(named))


def _other_uses(
    task: Task, held_out: Mapping[str, Examples], fitted: Examples | None, labels: tuple[str, ...]
) -> list[Finding]:
    """Find test texts that are used elsewhere too, and labels that the teacher's gold rows lack."""
    test = held_out["test"]
    findings = shared_with_test("validation", held_out["validation"], test) if "validation" in held_out else []
    if fitted is not None:
        if why := lacks_gold(fitted) or unknown_labels(fitted.gold, labels):
            findings.append(Finding("problem", f"teacher.fit.data: {why}"))
        findings += shared_with_test("teacher.fit.data", fitted, test) + fit_coverage(fitted, labels)
    if (calibration := task.labelling.calibration) is not None:
        gold = gold_rows(calibration, labels)
        findings += shared_with_test("labelling.calibration.data", gold, test) + calibration_coverage(gold, labels)
        findings += [] if fitted is None else shared_with_fit(gold, fitted)
    return findings
