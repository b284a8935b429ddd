"""A teacher is the same as long as its answers are: whatever it costs, however fast, and whoever's key is used."""

import pytest

from distill import teachers
from distill.stages import fingerprint
from distill.students.pretrained import weights_version
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


@pytest.mark.parametrize(
    ("teacher", "aside"),
    [
        ({"kind": "local", "model": "org/model"}, {"usd_per_hour": 2.0, "batch_size": 8}),
        ({"kind": "bundle", "path": "bundle"}, {"usd_per_hour": 2.0, "threads": 4}),
        (
            {"kind": "recorded", "logits": "a.npz", "recordings": [{"array": "a", "rows": {"path": "a.csv"}}]},
            {"usd_per_1000": 2.0},
        ),
    ],
)
def test_price_and_speed_of_a_machine_change_no_digest_and_without_them_it_is_that_of_earlier_releases(teacher, aside):
    config = teachers.parse(teacher)
    weights = [weights_version("org/model")] if teacher["kind"] == "local" else []
    digest = fingerprint([config.model_dump(), [], weights, []])
    assert teacher_digest(config) == teacher_digest(teachers.parse({**teacher, **aside})) == digest


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
