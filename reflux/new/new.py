"""Settle what a new task needs, by options, guesses and questions, and have its folder written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.checks import examine_labels
from distill.data.values import label_of
from distill.errors import DataError, DistillError
from distill.sections import FileSource
from export.bundle.target import require_new
from reflux.new import teachers
from reflux.new.columns import Column, guess_label, guess_text, look_at
from reflux.new.folder import write_folder
from reflux.new.questions import Questions
from reflux.new.rows import TaskRows
from reflux.new.teachers import LABELLED, RECORDED, Given

NO_LABEL = ""
"""Given as the column of labels: there is none."""

_NONE = "-"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_OF_A_LOG = ("messages", "request", "response", "choices")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command's options say; None where they say nothing."""

    data: str | None = None
    text: str | None = None
    label: str | None = None
    test: Path | None = None
    delimiter: str | None = None
    labels: str | None = None
    teacher: str | None = None
    logits: Path | None = None
    name: str | None = None
    folder: Path | None = None
    of_teacher: Given = field(default_factory=Given)


@dataclass(frozen=True, slots=True)
class Written:
    """The task file, what was settled without a question, and what is left to do before the teacher can be asked.

    `recorded` says that the teacher's answers are there already, `priceable` that the task has all that a forecast of
    its price needs.
    """

    task: Path
    recorded: bool
    priceable: bool
    settled: tuple[str, ...]
    to_do: tuple[str, ...]


def new(options: Options, questions: Questions) -> Written:
    """Ask what the options leave open, and write the folder. Nothing is overwritten, and nothing is left of a failure.

    Raises DistillError for what is missing or cannot be used.
    """
    if options.name is not None:
        _require_name(options.name)
    path = questions.settle(options.data, "DATA", "the file of texts (CSV, JSONL or Parquet)", _file)
    name = options.name or _slug(path.stem)
    columns = look_at(path, options.delimiter)
    folder = options.folder or Path(name)
    require_new(folder, "name a new folder with --to")
    if options.text is None and any(column.name in _OF_A_LOG and not column.readable for column in columns):
        raise DataError(
            f"{path}: looks like a log of calls to a language model; `reflux estimate {path} --write FOLDER` takes the "
            "texts out of it, and says how to go on"
        )
    text = _text_column(columns, options, questions)
    label = _label_column(columns, text, options, questions)
    others = [column.name for column in columns if column.name != text]
    untaken = None
    if label is None and options.label is None and questions.defaults and others:
        untaken = f"no column was taken for labels; name one with --label (there are {', '.join(others)})"
    choice = _teacher(options.teacher, label, questions, untaken)
    source = FileSource(path=path, text=text, label=label, delimiter=options.delimiter)
    rows = TaskRows.read(source, options.test, imitated=choice == "answers")
    labels = _labels(rows, options.labels, questions, untaken)
    section = teachers.describe(choice, options.of_teacher, questions)
    section.comments["kind"] = f"docs/teachers/{section.settings['kind']}.md"
    logits = _logits(options.logits, questions) if choice == "recorded" else None
    held = "" if label is None else f", {'answers' if choice == 'answers' else 'labels'} from {label!r}"
    rows.notes.insert(0, f"texts from the column {text!r}{held}; the teacher: {teachers.HAVE[choice]}")

    task = write_folder(folder, name, rows, labels, section, choice, logits)
    notes, to_do = tuple(rows.notes), tuple(section.to_do)
    return Written(task, choice in RECORDED, not section.lacks_terms, notes, to_do)


def _text_column(columns: Sequence[Column], options: Options, questions: Questions) -> str:
    known = {column.name: column.described() for column in columns}
    return questions.choose(options.text, "--text", "which column holds the texts?", known, guess_text(columns))


def _label_column(columns: Sequence[Column], text: str, options: Options, questions: Questions) -> str | None:
    known = {column.name: column.described() for column in columns if column.name != text}
    if options.label == NO_LABEL or (options.label is None and not known):
        return None
    guess = guess_label(columns, text) or _NONE
    question = "which column holds labels, given by people or by a model?"
    option = "--label or --no-label"
    chosen = questions.choose(options.label, option, question, {**known, _NONE: "none of them"}, guess)
    return None if chosen == _NONE else chosen


def _teacher(given: str | None, label: str | None, questions: Questions, untaken: str | None) -> str:
    offered = {name: told for name, told in teachers.HAVE.items() if label is not None or name not in LABELLED}
    if given in LABELLED and label is None:
        raise DistillError(f"--teacher {given} needs a column of labels: name it with --label")
    default = "gold" if label is not None else None
    question = "what do you have? (docs/teachers.md compares them)"
    if given is None and untaken is not None:
        if not questions.terminal:
            raise DistillError(f"{untaken}, or give --teacher, one of {', '.join(offered)}")
        question = f"{untaken}; {question}"
    return questions.choose(given, "--teacher", question, offered, default)


def _labels(rows: TaskRows, given: str | None, questions: Questions, untaken: str | None) -> dict[str, int]:
    """The labels with their number of rows. Those in the data are taken unless others are given."""
    counts = rows.counts
    if given is not None or len(counts) < 2:
        question = "the labels, separated by commas, or a text file with one a line"
        if given is None and untaken is not None and not questions.terminal:
            raise DistillError(f"{untaken}, or give --labels ({question})")
        listed = questions.settle(given, "--labels", question, _listed)
        if unknown := sorted(set(counts) - set(listed)):
            raise DistillError(f"--labels: the rows have labels that are not listed, such as {unknown[0]!r}; list them")
        return {label: counts[label] for label in listed}
    labels = sorted(counts)
    for finding in examine_labels({"train": rows.train, "test": rows.test}, labels, listed=False):
        if finding.level == "problem":
            raise DataError(f"{rows.source.path}: {finding.message}")
        rows.notes.append(finding.message)
    return {label: counts[label] for label in labels}


def _listed(answer: str) -> tuple[str, ...]:
    file = Path(answer)
    parts = file.read_text(encoding="utf-8").splitlines() if file.is_file() else answer.split(",")
    labels = tuple(label for part in parts if (label := label_of(part)) is not None)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise DistillError("--labels: expected two or more different labels")
    return labels


def _logits(given: Path | None, questions: Questions) -> Path:
    question = "the .npz file, with an array `labels` and arrays of logits in the order of the rows"
    return questions.settle(None if given is None else str(given), "--logits", question, _file)


def _file(answer: str) -> Path:
    path = Path(answer).expanduser()
    if not path.is_file():
        raise DistillError(f"{path}: no such file")
    return path


def _require_name(given: str) -> None:
    if not _NAME.fullmatch(given):
        raise DistillError(
            "--name: lower-case letters, digits, dots, dashes and underscores, beginning with a letter or a digit, "
            f"such as {_slug(given)!r}; got {given!r}"
        )


def _slug(stem: str) -> str:
    """Make a file's name a task's: lower-case letters without accents, digits, dots, dashes and underscores."""
    bare = "".join(one for one in unicodedata.normalize("NFKD", stem.casefold()) if not unicodedata.combining(one))
    return re.sub(r"[^a-z0-9._-]+", "-", bare).strip("-._") or "task"
