"""The text of a new task file, with a comment for every choice in it. It asks nothing and reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from distill.presets import PRESETS, PresetName
from reflux.new.rows import VALIDATION
from reflux.new.teachers import MODEL, TeacherSection

_PRESET: PresetName = "local-teacher"


@dataclass(frozen=True, slots=True)
class Description:
    """What a task file says: each source with a comment, the labels with their number of rows, and the teacher.

    `examples` is the source of rows with gold labels that may be shown to a language model, if there is one.
    `more_texts` says that the teacher can be asked about texts that are not there yet.
    """

    name: str
    origin: str
    train: Mapping[str, Any]
    train_comment: str
    test: Mapping[str, Any]
    test_comment: str
    labels: Mapping[str, int]
    teacher: TeacherSection
    more_texts: bool
    examples: Mapping[str, Any] | None = None


def render(task: Description) -> str:
    """Return the file's text."""
    return "\n".join(_lines(task)) + "\n"


def _lines(task: Description) -> Iterator[str]:
    yield f"# Written by `reflux new` for {task.origin}. Paths are relative to this file. docs/task.md has every key."
    yield f"name: {_flow(task.name)}"
    yield ""
    yield "data:"
    yield f"  # The pool to distil on: {task.train_comment}"
    yield f"  train: {_flow(task.train)}"
    yield f"  # Used only to judge the students: {task.test_comment}"
    yield f"  test: {_flow(task.test)}"
    if task.more_texts:
        yield "  # Further texts, without labels, to train on; the teacher is asked about them too:"
        yield f"  # unlabelled: {_flow({'path': 'more.csv', 'text': 'text'})}"
    yield f"  validation: {VALIDATION}  # share of the pool that chooses when to stop, and which student is served"
    yield ""
    yield "# Every answer is one of these."
    yield "labels:"
    for label, rows in task.labels.items():
        yield f"  - {_flow(label)}" + (f"  # {rows:,} rows" if rows else "")
    yield ""
    yield from _teacher(task)
    yield ""
    if task.teacher.settings["kind"] in PRESETS[_PRESET].teachers:
        yield "# The teacher labels three altered views of each text too: better students for four times the training."
        yield f"# preset: {_PRESET}"
        yield ""
    yield from _students()


def _teacher(task: Description) -> Iterator[str]:
    section = task.teacher
    yield "teacher:"
    for key, value in section.settings.items():
        comment = f"  # {section.comments[key]}" if key in section.comments else ""
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            yield f"  {key}:{comment}"
            yield from (f"    {inner}: {_flow(part)}" for inner, part in value.items())
        elif isinstance(value, list):
            yield f"  {key}:{comment}"
            yield from (f"    - {_flow(part)}" for part in value)
        else:
            yield f"  {key}: {_flow(value)}{comment}"
    if not section.prompted:
        return
    if section.lacks_terms:
        yield "  # Required for a server of others, once you have read its terms (docs/teachers/terms.md):"
        yield '  # terms: {acknowledged: true, reference: "where they stand, read on which day"}'
    yield "  prompt:"
    yield "    instructions: Classify the text into exactly one of the categories below.  # say what your texts are"
    yield "    # descriptions:  # for labels whose names do not say it all"
    for label in list(task.labels)[:2]:
        yield f"    #   {_flow(label)}: {_flow('what belongs there, and what does not')}"
    if task.examples is not None:
        yield "    # The labelled texts nearest to each text, as examples; usually better, and calls then cost more:"
        yield f"    # nearest: {_flow({'data': task.examples, 'k': 8})}"


def _students() -> Sequence[str]:
    return (
        "# Both are trained, and the report compares them; docs/students.md helps to choose. The model is an encoder",
        "# for English: for other languages name a multilingual one, as a folder or the id of a model on a hub.",
        "students:",
        "  encoder:",
        "    family: encoder",
        f"    model: {MODEL}",
        "    layers: 3",
        "  static:  # without attention: much faster, and usually some points worse",
        "    family: static",
        f"    model: {MODEL}",
        "",
        "budget:",
        "  latency_ms: 5  # of the students within it, the one that agrees best with the teacher is served",
        "  usd_per_hour: 0.05  # of a core, for the report",
    )


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=2**31)
    return text.removesuffix("\n").removesuffix("\n...")
