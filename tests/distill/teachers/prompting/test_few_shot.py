"""The labelled texts nearest to a text stand before it, and are part of what the teacher is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.teachers import create
from distill.teachers.errors import TeacherError
from distill.teachers.prompting.few_shot import FewShot
from distill.teachers.prompting.prompt import Prompt

ROWS = [
    ("my invoice is wrong", "billing"),
    ("please refund my order", "refund"),
    ("where is my parcel", "shipping"),
    ("the parcel never came, where is it", "shipping"),
    ("the invoice has the wrong address", "billing"),
]
LABELS = ("billing", "refund", "shipping")

Write = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Write:
    """`data(rows)`: a source with these rows."""

    def write(rows: list[tuple[str, str | None]], name: str = "rows") -> dict[str, Any]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        return {"path": str(path), "label": "label"}

    return write


def nearest(source: dict[str, Any], k: int = 2) -> FewShot:
    return FewShot.model_validate({"data": source, "k": k})


def test_the_nearest_stand_last_in_the_order_of_likeness(data: Write) -> None:
    found = nearest(data(ROWS)).examples("where's my parcle?")  # mistyped
    assert found == [ROWS[3], ROWS[2]]


@pytest.mark.parametrize("same", ["where is my parcel", "Where is  my PARCEL\n"])
def test_the_text_itself_is_never_an_example(data: Write, same: str) -> None:
    rows = [*ROWS, ("Where is my parcel", "refund")]
    assert [text for text, _ in nearest(data(rows), k=8).examples(same) if "is my parcel" in text.lower()] == []


def test_of_equals_the_earlier_counts_and_what_has_nothing_in_common_is_left_out(data: Write) -> None:
    rows = [("parcel one", "shipping"), ("parcel two", "refund"), ("parcel six", "billing"), ("invoice", "billing")]
    assert nearest(data(rows), k=2).examples("my parcel") == [rows[1], rows[0]]
    assert nearest(data(rows), k=8).examples("my parcel") == [rows[2], rows[1], rows[0]]


@pytest.mark.parametrize("text", ["", "!!!", "日本語のテキスト", "xyzzy"])
def test_a_text_like_no_other_gets_no_examples(data: Write, text: str) -> None:
    assert nearest(data(ROWS)).examples(text) == []


def test_a_language_without_spaces_has_nearest_texts_too(data: Write) -> None:
    rows = [("荷物がまだ届きません", "shipping"), ("請求書の金額が間違っています", "billing")]
    assert nearest(data(rows), k=1).examples("荷物が届きません") == [rows[0]]


def test_the_prompt_puts_them_after_the_examples_and_before_the_text(data: Write) -> None:
    prompt = Prompt(examples=(("give it back", "refund"),), nearest=nearest(data(ROWS), k=1))
    said = [message["content"] for message in prompt.messages("which parcel", LABELS, (0, 1, 2))[1:]]
    assert [text.splitlines()[1] for text in said[::2]] == ["give it back", "where is my parcel", "which parcel"]
    assert said[1::2] == ["B", "C"]


CONFIG = {
    "kind": "openai",
    "base_url": "http://localhost:1/v1",
    "model": "m",
    "usd_per_million": {"input": 0, "output": 0},
}


def test_the_rows_are_part_of_the_version_and_where_they_lie_is_not(data: Write) -> None:
    def version(source: dict[str, Any], k: int = 2) -> str:
        return create({**CONFIG, "prompt": {"nearest": {"data": source, "k": k}}}, LABELS).version

    first = version(data(ROWS))
    assert version(data(ROWS, "elsewhere")) == first
    assert version(data(ROWS[1:], "fewer")) != first
    assert version(data([*ROWS[1:], ("my invoice is wrong", "refund")], "otherwise")) != first
    assert version(data(ROWS, "elsewhere"), k=3) != first


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, ("no label", None)], "1 rows of .* have no label"),
        ([*ROWS, ("odd", "unheard")], "unheard"),
        ([], "no rows"),
    ],
)
def test_data_that_will_not_do_is_refused(data: Write, rows: list[tuple[str, str | None]], said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        create({**CONFIG, "prompt": {"nearest": {"data": data(rows)}}}, LABELS)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"prompt\.nearest: .*cannot be read"):
        nearest({"path": str(tmp_path / "none.csv"), "label": "label"}).labels()


def test_retrieval_loads_what_serving_has_and_a_teacher_without_it_does_not_load_that(data: Write) -> None:
    script = f"""
import sys
sys.modules["scipy"] = None  # is not there where one serves
from distill.teachers import create
create({CONFIG!r}, {LABELS!r})
assert "bm25s" not in sys.modules
made = create({{**{CONFIG!r}, "prompt": {{"nearest": {{"data": {data(ROWS)!r}}}}}}}, {LABELS!r})
assert made._config.prompt.nearest.examples("where is my parcel now")
heavy = {{"torch", "transformers", "pyarrow", "pandas", "numba", "jax"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)
