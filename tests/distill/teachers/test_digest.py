"""A teacher is the same as long as its answers are: whatever it costs, however fast, and whoever's key is used."""

import pytest

from distill import teachers
from distill.teachers.digest import teacher_digest

OPENAI = {"kind": "openai", "model": "m", "usd_per_million": {"input": 1, "output": 2}}


def digest(**settings):
    return teacher_digest(teachers.parse({**OPENAI, **settings}))


@pytest.mark.parametrize(
    "settings",
    [
        {"usd_per_million": {"input": 3, "output": 4}},
        {"concurrency": 64},
        {"timeout_seconds": 5},
        {"requests_per_minute": 10},
        {"terms": {"acknowledged": True, "reference": "read"}},
    ],
)
def test_what_changes_no_answer_changes_no_digest(settings):
    assert digest(**settings) == digest()


@pytest.mark.parametrize("settings", [{"model": "n"}, {"prompt": {"instructions": "Sort."}}, {"permutations": 3}])
def test_what_changes_answers_changes_the_digest(settings):
    assert digest(**settings) != digest()


def test_a_key_in_a_file_may_be_replaced(tmp_path):
    key = tmp_path / "key"
    key.write_text("old")
    before = digest(key_file=str(key))
    key.write_text("new")
    assert digest(key_file=str(key)) == before == digest()


def test_members_of_an_ensemble_count_by_their_answers():
    def ensemble(**settings):
        members = [{"weight": 1, "teacher": {**OPENAI, **settings}}, {"weight": 2, "teacher": OPENAI}]
        return teacher_digest(teachers.parse({"kind": "ensemble", "members": members}))

    assert ensemble(concurrency=64) == ensemble()
    assert ensemble(model="n") != ensemble()


def test_examples_in_a_file_count_by_what_the_file_holds(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nwhere is it,shipping\n")
    prompt = {"nearest": {"data": {"path": str(rows), "label": "label"}, "k": 1}}
    before = digest(prompt=prompt)
    rows.write_text("text,label\nwhere is it,billing\n")
    assert digest(prompt=prompt) != before
