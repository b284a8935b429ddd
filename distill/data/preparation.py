"""The data of a run: sources are read, cleaned, split and examined, and written where later stages find them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pydantic import BaseModel

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
from distill.data.deduplicate import Deduplication, clean
from distill.data.sources import delimiter_found, read
from distill.data.splits import Examples, S, Test, Train, Validation, hold_out
from distill.errors import DataError
from distill.labelling.audit import gold_rows, shared_with_fit
from distill.progress import bar, status
from distill.sections import FileSource
from distill.stages import write_atomic
from distill.task import Task
from distill.teachers.local import Fit, LocalConfig

REPORT = "data.json"
SCHEMA = "2"
"""Of what is made of the same files; another one makes the data again."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The data of a run as its stage left it, with the labels and the account of how it was made."""

    train: Train
    validation: Validation
    test: Test
    labels: tuple[str, ...]
    report: dict[str, Any]

    @property
    def findings(self) -> list[Finding]:
        """What was found wrong, or thin."""
        return [Finding(**finding) for finding in self.report["findings"]]

    @property
    def everything(self) -> Examples:
        """All the rows, which the teacher labels."""
        splits = (self.train, self.validation, self.test)
        return Examples(
            tuple(name for split in splits for name in split.ids),
            tuple(text for split in splits for text in split.texts),
            tuple(gold for split in splits for gold in split.gold),
        )


def prepare(task: Task, folder: Path) -> None:
    """Write the data of a task into a folder. Raises DataError where the data has a problem."""
    with status("reading the data"):
        pool = read(task.data.train, "train")
        test = read(task.data.test, "test")
        given = None if isinstance(task.data.validation, float) else read(task.data.validation, "validation")
    held = {"test": test} if given is None else {"validation": given, "test": test}
    with bar("comparing texts", len(pool) + sum(map(len, held.values()))) as advance:
        pool, cleaning = clean(pool, held, task.data.near_duplicate, advance)
    with status("examining the data"):
        _split(task, pool, test, given, cleaning, folder)


def _split(
    task: Task, pool: Examples, test: Examples, given: Examples | None, cleaning: Deduplication, folder: Path
) -> None:
    """Divide the clean pool, examine what came of it, and write it into a folder."""
    held = {"test": test} if given is None else {"validation": given, "test": test}
    if not len(pool):
        raise DataError("train: every row duplicates a held-out row; check that train and test are different files")
    gold = _gold_of_the_teacher(task)
    labels = task.labels or _labels_of([pool, *held.values(), *gold.values()])
    if given is None:
        train, validation = hold_out(pool, float(task.data.validation), task.data.seed)  # type: ignore[arg-type]
    else:
        train, validation = _cast(pool, Train), _cast(given, Validation)
    splits: dict[str, Examples] = {"train": train, "validation": validation, "test": _cast(test, Test)}
    if not len(validation):
        raise DataError("validation: no rows; raise data.validation or give it a source of its own")
    if len(set(ids := [name for split in splits.values() for name in split.ids])) < len(ids):
        raise DataError("an id stands in two splits; ids must differ across train, validation and test")
    everywhere = {**splits, **gold}
    findings = examine_labels(everywhere, labels, listed=task.labels is not None) + examine(splits, labels)
    findings += _other_uses(task, splits["test"], given, gold.get("fit"), labels)
    if problems := [finding.message for finding in findings if finding.level == "problem"]:
        raise DataError("; ".join(problems))
    for name, split in splits.items():
        _write_split(folder / f"{name}.parquet", split)
    report = {
        "labels": labels,
        "rows": {name: len(split) for name, split in splits.items()},
        "counts": label_counts(everywhere, labels),
        "delimiters": delimiters_found(task),
        "cleaning": asdict(cleaning),
        "findings": [asdict(finding) for finding in findings],
    }
    write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_splits(folder: Path) -> Splits:
    """What `prepare` wrote."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return Splits(
        _read_split(folder / "train.parquet", Train),
        _read_split(folder / "validation.parquet", Validation),
        _read_split(folder / "test.parquet", Test),
        tuple(report["labels"]),
        report,
    )


def fit_section(teacher: BaseModel) -> Fit | None:
    """How the teacher is to be fitted, where it is."""
    return teacher.fit if isinstance(teacher, LocalConfig) else None


def delimiters_found(section: BaseModel) -> list[str]:
    """A line for each file that a task, or a part of it, reads with a delimiter that was found out."""
    if isinstance(section, FileSource):
        found = delimiter_found(section)
        return [] if found is None else [found]
    lines = [line for part in _parts(section) for line in delimiters_found(part)]
    return list(dict.fromkeys(lines))


def _parts(section: BaseModel) -> Iterator[BaseModel]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, BaseModel))


def _gold_of_the_teacher(task: Task) -> dict[str, Examples]:
    """The rows that fit the teacher and those that calibrate it, where the task has them."""
    sections = {"fit": fit_section(task.teacher), "calibration": task.labelling.calibration}
    return {name: read(section.data, "gold") for name, section in sections.items() if section is not None}


def _labels_of(splits: Iterable[Examples]) -> tuple[str, ...]:
    """The labels that the data names, sorted. Raises DataError when it names fewer than two."""
    named = {label for split in splits for label in split.gold if label is not None}
    if len(named) < 2:
        raise DataError("the data names fewer than two gold labels; list the task's `labels`")
    return tuple(sorted(named))


def _other_uses(
    task: Task, test: Examples, validation: Examples | None, fitted: Examples | None, labels: tuple[str, ...]
) -> list[Finding]:
    """What else uses the test split's texts, and the labels that fitting and calibrating the teacher do not see."""
    findings = [] if validation is None else shared_with_test("validation", validation, test)
    if fitted is not None:
        if why := lacks_gold(fitted) or unknown_labels(fitted.gold, labels):
            findings.append(Finding("problem", f"teacher.fit.data: {why}"))
        findings += shared_with_test("teacher.fit.data", fitted, test) + fit_coverage(fitted, labels)
    if (calibration := task.labelling.calibration) is not None:
        gold = gold_rows(calibration, labels)
        findings += shared_with_test("labelling.calibration.data", gold, test) + calibration_coverage(gold, labels)
        findings += [] if fitted is None else shared_with_fit(gold, fitted)
    return findings


def _cast(split: Examples, kind: type[S]) -> S:
    return kind(split.ids, split.texts, split.gold)


def _write_split(path: Path, split: Examples) -> None:
    table = pyarrow.table(
        {"id": list(split.ids), "text": list(split.texts), "gold": pyarrow.array(split.gold, pyarrow.string())}
    )
    pyarrow.parquet.write_table(table, path)


def _read_split(path: Path, kind: type[S]) -> S:
    columns = pyarrow.parquet.read_table(path).to_pydict()
    return kind(tuple(columns["id"]), tuple(columns["text"]), tuple(columns["gold"]))
