"""Write the folder of a new task: the task file, and those of its rows that were held out or have no file yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import DataError
from distill.sections import FileSource
from distill.stages import write_atomic
from distill.task import load_task
from reflux.new.rows import TaskRows, read_rows, write_csv, write_recording
from reflux.new.task_file import Description, render
from reflux.new.teachers import RECORDED, TeacherSection

TASK = "task.yaml"


def write_folder(
    folder: Path,
    name: str,
    rows: TaskRows,
    labels: Mapping[str, int],
    section: TeacherSection,
    choice: str,
    logits: Path | None,
) -> Path:
    """Write a task of these rows into a free or empty folder, and return the path of the task file.

    `labels` has the number of rows of each label, `section` describes the teacher, which is the `choice` among
    `teachers.HAVE`, and `logits` are its recorded answers, if it has some. Raises DistillError for a recording that
    does not fit the rows, and for a task that cannot be loaded; then everything is as before.
    """
    with _made(folder):
        described = _write_rows(folder, name, rows, labels, section, choice, logits)
        write_atomic(folder / TASK, render(described))
        load_task(folder / TASK)
    return folder / TASK


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, if it is not there, to be filled. On failure it is emptied, and what was made is removed."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # somebody has put a folder there meanwhile
            for path in folder.iterdir():
                if not path.is_dir():
                    path.unlink()
            for path in new:
                path.rmdir()
        raise


def _write_rows(
    folder: Path,
    name: str,
    rows: TaskRows,
    labels: Mapping[str, int],
    section: TeacherSection,
    choice: str,
    logits: Path | None,
) -> Description:
    """Write the rows that have no file of their own, complete the teacher's section, and describe the task."""
    has_gold = not rows.imitated and any(label is not None for label in rows.train.gold)
    gold_to_judge = not rows.imitated and any(label is not None for label in rows.test.gold)
    if rows.kept and rows.test_source is not None:
        train = _source(rows.source, folder, labels=has_gold)
        test = _source(rows.test_source, folder, labels=gold_to_judge)
        test_comment = f"{len(rows.test):,} rows."
    else:
        write_csv(folder / "train.csv", rows.train, labels=has_gold)
        write_csv(folder / "test.csv", rows.test, labels=gold_to_judge)
        train = {"path": "train.csv", "text": "text", **({"label": "label"} if has_gold else {})}
        test = {"path": "test.csv", "text": "text", **({"label": "label"} if gold_to_judge else {})}
        origin = rows.source.path.name if rows.test_source is None else rows.test_source.path.name
        test_comment = f"{len(rows.test):,} rows of {origin}, which are in no other file here."
    gold = train
    if has_gold and not rows.train.has_gold:
        write_csv(folder / "gold.csv", rows.train.with_gold(), labels=True)
        gold = {"path": "gold.csv", "text": "text", "label": "label"}
    if choice == "gold":
        section.settings["fit"] = {"data": gold}
        section.comments["fit"] = "fine-tuned on these rows first"
    elif choice == "answers":
        write_recording(folder / "answers.npz", tuple(labels), {"train": rows.train, "test": rows.test})
        section.settings["name"] = f"{name}-answers"
        section.settings["logits"] = "answers.npz"
        section.comments["logits"] = "the answers of your files, each with the probability 0.99"
        section.settings["recordings"] = [
            {"array": side, "rows": {"path": f"{side}.csv", "text": "text"}} for side in ("train", "test")
        ]
    elif choice == "recorded" and logits is not None:
        section.settings["logits"] = _relative(logits, folder)
        section.settings["recordings"] = _recordings(logits, rows, folder)
    labels_needed = has_gold and gold is train and (choice == "gold" or section.prompted)
    return Description(
        name=name,
        origin=rows.source.path.name,
        train=train,
        train_comment=f"{len(rows.train):,} rows{_on_more(choice, all_labelled=labels_needed)}",
        test=test,
        test_comment=test_comment,
        labels=labels,
        teacher=_relocated(section, folder),
        more_texts=choice not in RECORDED,
        examples=gold if has_gold else None,
    )


def _on_more(choice: str, *, all_labelled: bool) -> str:
    """Say what has to be given for another row of the pool."""
    if choice in RECORDED:
        return ", whose answers are recorded. To add some, run `reflux new` on all rows and their answers."
    if all_labelled:
        return ", all with a label, as the teacher needs them. Texts without one go into `unlabelled`."
    return ". Texts without a label are welcome: add what you have."


def _recordings(logits: Path, rows: TaskRows, folder: Path) -> list[dict[str, Any]]:
    """Match the arrays of a recording with the files by their number of rows."""
    try:
        with np.load(logits, allow_pickle=False) as arrays:
            shapes = {name: arrays[name].shape for name in arrays.files if arrays[name].ndim == 2}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{logits}: not a recording ({error}); expected an .npz of arrays") from error
    found = []
    for source in (rows.source, rows.test_source):
        if source is None:
            continue
        everything, blank = read_rows(source)
        count = len(everything) + blank
        named = [name for name, shape in shapes.items() if shape[0] == count]
        if len(named) != 1:
            listed = ", ".join(f"{name} [{shape[0]:,}]" for name, shape in shapes.items())
            raise DataError(
                f"{logits}: expected one array for the {count:,} rows of {source.path}, in their order; "
                f"there are {listed}"
            )
        found.append({"array": named[0], "rows": _source(source, folder, labels=False)})
    return found


def _source(source: FileSource, folder: Path, *, labels: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"path": _relative(source.path, folder), "text": source.text}
    if labels and source.label is not None:
        described["label"] = source.label
    if source.delimiter is not None:
        described["delimiter"] = source.delimiter
    return described


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path.resolve(), folder.resolve())


def _relocated(section: TeacherSection, folder: Path) -> TeacherSection:
    """Write the folders among the teacher's settings relative to the task, which begins them with a dot."""
    moved = {}
    for key, value in section.settings.items():
        if key in ("model", "path") and Path(value).is_absolute():
            relative = _relative(Path(value), folder)
            moved[key] = relative if relative.startswith(".") else f"./{relative}"
    return replace(section, settings={**section.settings, **moved})
