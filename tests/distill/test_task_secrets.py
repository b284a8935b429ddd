"""A key that was put into a task, wherever in its teacher, is not told when the task is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from distill import teachers
from distill.errors import TaskError
from distill.task import load_task

KEY = "sk-canary0123456789"
OTHER_KINDS = (KEY, [KEY], {"a": KEY}, [[KEY]], {"a": {"b": KEY}}, {"a": [KEY]}, [{"a": KEY}], [1, KEY])
"""Values with the key in them, of which hardly any fits anywhere."""

LOCAL = {"kind": "local", "model": "m"}
WHOLE: dict[str, dict[str, Any]] = {
    "openai": {"model": "m"},
    "anthropic": {"model": "m"},
    "decisions": {"model": "m"},
    "local": {"model": "m"},
    "causal": {"model": "m"},
    "bundle": {"path": "x"},
    "recorded": {"logits": "x", "texts": "y"},
    "ensemble": {"members": [{"teacher": LOCAL}, {"teacher": LOCAL}]},
}


@pytest.fixture
def told(tmp_path):
    """`told(teacher)`: what a task with this teacher is refused with; nothing where it is not."""

    def tell(teacher):
        task = {
            "name": "t",
            "data": {"train": {"tickets": 5}, "test": {"tickets": 5, "seed": 1}},
            "students": {"s": {"family": "static", "model": "m"}},
            "teacher": teacher,
        }
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        try:
            load_task(tmp_path / "task.yaml")
        except TaskError as error:
            return str(error)
        return ""

    return tell


def test_every_kind_is_looked_at():
    assert set(WHOLE) == set(teachers.kinds())


@pytest.mark.parametrize("kind", WHOLE)
def test_a_key_in_any_place_of_a_teacher_is_not_told(told, kind):
    names = [*teachers.teacher_class(kind).config_type.model_fields, "api_key"]
    refused = [told({"kind": kind, **WHOLE[kind], name: value}) for name in names for value in OTHER_KINDS]
    assert sum(map(bool, refused)) > len(refused) / 2
    assert not [message for message in refused if KEY in message]


@pytest.mark.parametrize("kind", ["openai", "causal"])
def test_nor_is_one_in_a_member_of_an_ensemble(told, kind):
    for name in ("key_env", "headers", "extra_body", "api_key", "prompt", "kind", "model"):
        for value in OTHER_KINDS:
            member = {"kind": kind, "model": "m", name: value}
            message = told({"kind": "ensemble", "members": [{"teacher": member}, {"teacher": LOCAL}]})
            assert KEY not in message


@pytest.mark.parametrize("value", OTHER_KINDS)
def test_nor_is_one_in_the_place_of_the_teacher(told, value):
    message = told(value)
    assert "teacher" in message
    assert KEY not in message


@pytest.mark.parametrize("kind", ["openai", "ensemble"])
def test_nor_is_one_that_is_the_name_of_a_value(told, kind):
    values: list[dict[str, Any]] = [{KEY: 1}, {"headers": {KEY: [1]}}, {"extra_body": {KEY: {1: 2}}}]
    for value in values:
        message = told({"kind": kind, **WHOLE[kind], **value})
        assert KEY not in message
    assert "teacher.***: unknown key" in told({"kind": kind, **WHOLE[kind], KEY: 1})


def test_nor_is_one_that_is_an_alias_of_itself(tmp_path):
    (tmp_path / "task.yaml").write_text(f"teacher: &{KEY}\n  headers: *{KEY}\n")
    with pytest.raises(TaskError, match="refers to a value that contains it") as refused:
        load_task(tmp_path / "task.yaml")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"teacher: {{api_key: {KEY}\nname: [",
        f"teacher:\n  api_key: '{KEY}\n",
        f"teacher:\n  api_key: {KEY}: {KEY}",
        f"teacher:\n  api_key: !{KEY} x",
        f"teacher:\n  api_key: *{KEY}",
        f"teacher:\n  api_key: @{KEY}",
        f"teacher:\n  api_key: %{KEY}",
        f'teacher:\n  api_key: "\\x{KEY}"',
        f"teacher:\n  {KEY}: 1\n  {KEY}: 2",
    ],
)
def test_nor_is_one_where_the_file_is_not_yaml(tmp_path, text):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(TaskError, match="not YAML") as refused:
        load_task(tmp_path / "task.yaml")
    assert KEY not in str(refused.value)
