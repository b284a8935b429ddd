"""A preset sets what a task does not write, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import TaskError
from distill.presets import PRESETS, preset_keys, with_preset
from distill.task import Task, load_task

MANUAL = (Path(__file__).parents[2] / "docs" / "task.md").read_text(encoding="utf-8")


def write(folder: Path, preset: str | None, kind: str = "local", **keys: Any) -> Path:
    task = {
        "name": "desk",
        "data": {"train": {"tickets": 100}, "test": {"tickets": 50, "seed": 1}},
        "teacher": {"kind": kind, "model": "package:none"},
        "students": {"one": {"family": "static", "model": "package:none"}},
        **keys,
        **({} if preset is None else {"preset": preset}),
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder / "task.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_the_keys_that_a_task_does_not_write(name, tmp_path):
    task, plain = load_task(write(tmp_path, name)), load_task(write(tmp_path, None))
    assert preset_keys(plain) == []
    for key in preset_keys(task):
        section, name_of_key = key.key.split(".")
        assert getattr(getattr(plain, section), name_of_key) is None
        assert key.value == key.preset
    assert len(preset_keys(task)) == len(PRESETS[name].values)


@pytest.mark.parametrize("name", PRESETS)
def test_a_task_that_writes_the_values_of_a_preset_is_the_same(name, tmp_path):
    written: dict[str, Any] = {}
    for (section, key), value in PRESETS[name].values.items():
        written.setdefault(section, {})[key] = value
    by_hand = load_task(write(tmp_path, None, **written))
    assert load_task(write(tmp_path, name)).model_copy(update={"preset": None}) == by_hand


def test_keys_that_a_task_writes_win(tmp_path):
    task = load_task(write(tmp_path, "local-teacher", labelling={"self_agreement": 9, "views": {"per_text": 2}}))
    assert task.labelling.views is not None
    assert (task.labelling.views.per_text, task.labelling.self_agreement) == (2, 9)
    assert [*map(str, preset_keys(task))] == [
        "labelling.views: {per_text: 2}, as the task says; the preset has {per_text: 3}"
    ]
    without = load_task(write(tmp_path, "local-teacher", labelling={"views": None}))
    assert without.labelling.views is None
    assert [*map(str, preset_keys(without))] == [
        "labelling.views: none, as the task says; the preset has {per_text: 3}"
    ]


def test_a_preset_that_is_read_again_from_a_task_changes_nothing(tmp_path):
    task = load_task(write(tmp_path, "local-teacher"))
    assert Task.model_validate(task.model_dump(mode="json", exclude_none=True, exclude_unset=True)) == task


def test_an_unknown_preset_is_refused_with_the_list(tmp_path):
    with pytest.raises(TaskError, match="preset: Input should be ") as refused:
        load_task(write(tmp_path, "best"))
    assert all(repr(name) in str(refused.value) for name in PRESETS)


def test_a_preset_for_teachers_of_other_kinds_is_refused(tmp_path):
    file = write(tmp_path, "local-teacher")
    recorded = yaml.safe_load(file.read_text())
    recorded["teacher"] = {"kind": "recorded", "logits": "logits.npz", "recordings": []}
    recorded["teacher"]["recordings"] = [{"array": "train", "rows": {"path": "train.csv"}}]
    file.write_text(yaml.safe_dump(recorded))
    with pytest.raises(
        TaskError, match="preset: local-teacher is for teachers of kind local, bundle, causal"
    ) as refused:
        load_task(file)
    assert str(refused.value).endswith("this one is recorded; remove it, or use another teacher")


def test_a_preset_is_written_by_hand_only_for_a_teacher_that_answers_new_texts(tmp_path):
    recording = {"array": "train", "rows": {"path": "train.csv"}}
    recorded = {"kind": "recorded", "logits": "logits.npz", "recordings": [recording]}
    api, local = {"kind": "openai", "model": "m"}, {"kind": "local", "model": "package:none"}
    for other, remedy in ((recorded, "or use another teacher"), (local, "and write labelling.views if you want that")):
        members = [{"teacher": api}, {"teacher": other}]
        file = write(tmp_path, "local-teacher", teacher={"kind": "ensemble", "members": members})
        with pytest.raises(TaskError, match=f"this one is ensemble; remove it, {remedy}$"):
            load_task(file)


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_in_the_manual(name):
    (row,) = [line for line in MANUAL.splitlines() if line.startswith(f"| `{name}` |")]
    for (section, key), value in PRESETS[name].values.items():
        shown = ", ".join(f"{part}: {one}" for part, one in value.items())
        assert f"`{section}.{key}: {{{shown}}}`" in row
    assert all(f"`{kind}`" in row for kind in PRESETS[name].teachers)


def test_what_is_no_mapping_is_left_to_validation():
    assert with_preset({"preset": "local-teacher", "labelling": 3})["labelling"] == 3
