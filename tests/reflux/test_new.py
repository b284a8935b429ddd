"""`reflux new` writes a task that passes `check`, asks only what its options leave open, and overwrites nothing."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from distill import teachers
from distill.data.prepared import read_splits
from distill.data.sources import read
from distill.data.splits import Examples, normalise
from distill.data.support_desk import tickets
from distill.errors import DistillError
from distill.preparation import prepare
from distill.sections import FileSource
from distill.task import load_task
from distill.teachers import TeacherError
from reflux import cli as command
from reflux.new.columns import guess_label, guess_text, look_at
from reflux.new.new import NO_LABEL, Options, new
from reflux.new.questions import Questions
from reflux.new.rows import divide
from reflux.new.teachers import HAVE, RECORDED, Given
from tests.support.chat_logs import chat, write_log

DESK = [
    {"ticket": f"{number}", "body": one.text, "queue": one.label} for number, one in enumerate(tickets.generate(400, 1))
]
ALONE = Questions(terminal=False, defaults=True)
NO_ANSWERS = Questions(terminal=False, defaults=False)
ALL = Options(data="tickets.csv", text="body", label="queue", teacher="gold", of_teacher=Given(model="some/model"))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder, the working one, with `tickets.csv`: the columns ticket, body and queue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write(tmp_path / "tickets.csv", DESK)
    return tmp_path


def write(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def reflux(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["reflux", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return ended.value.code or 0, capsys.readouterr().out


def test_from_a_file_to_a_price(desk, monkeypatch, capsys):
    terms = ("--terms", "read in a test")
    status, out = reflux(monkeypatch, capsys, "new", "tickets.csv", "--yes", "--teacher", "openai", *terms)
    assert status == 0
    commands = [line.split("#")[0].split() for line in out.splitlines() if line.startswith("  reflux")]
    assert [one[1] for one in commands] == ["check", "label", "run"]
    status, out = reflux(monkeypatch, capsys, *commands[0][1:])
    assert status in (0, 3)
    assert "verdict: " in out
    status, out = reflux(monkeypatch, capsys, *commands[1][1:])
    assert status == 0
    assert "cost         $" in out
    assert "of 399 texts to ask" in out or "of 400 texts to ask" in out  # a near duplicate may be left out


@pytest.mark.parametrize(
    ("ending", "delimiter"), [(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".jsonl", ""), (".parquet", "")]
)
def test_the_columns_are_guessed_in_every_kind_of_file(tmp_path, ending, delimiter):
    path = tmp_path / f"tickets{ending}"
    if delimiter:
        write(path, DESK, delimiter)
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps({**row, "history": ["a list"]}) + "\n" for row in DESK))
    else:
        rows = [{**row, "at": datetime(2026, 1, 1)} for row in DESK]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    columns = look_at(path)
    assert guess_text(columns) == "body"
    assert guess_label(columns, "body") == "queue"


def test_a_column_named_like_one_of_labels_is_taken_before_others(tmp_path):
    rows = [{**row, "intent": row["queue"], "country": "UK" if number % 2 else "FR"} for number, row in enumerate(DESK)]
    write(tmp_path / "some.csv", rows)
    columns = look_at(tmp_path / "some.csv")
    assert guess_label(columns, "body") == "intent"
    assert guess_label([one for one in columns if one.name != "intent"], "body") is None  # queue or country


@pytest.mark.parametrize("labels", [["a", "b", "c"], [f"label {number}" for number in range(5000)], ["0", "1"] * 9])
def test_a_column_called_label_is_taken_whatever_its_number_of_values(tmp_path, labels):
    rows = enumerate(labels)
    write(tmp_path / "some.csv", [{"body": f"text {row}", "label": one, "tag_id": "xy"[row % 2]} for row, one in rows])
    assert guess_label(look_at(tmp_path / "some.csv"), "body") == "label"


@pytest.mark.parametrize(("teacher", "option"), [(None, "--teacher, one of local"), ("local", "--labels")])
def test_without_a_guess_it_says_that_no_column_was_taken_for_labels(desk, teacher, option):
    write(desk / "tickets.csv", [{"body": row["body"], "spam": number % 2} for number, row in enumerate(DESK)])
    options = Options(data="tickets.csv", teacher=teacher, of_teacher=Given(model="some/model"))
    message = rf"^no column was taken for labels; name one with --label \(there are spam\), or give {option}"
    with pytest.raises(DistillError, match=message):
        new(options, ALONE)
    with pytest.raises(DistillError, match=r"give --(teacher|labels) "):
        new(replace(options, label=NO_LABEL), ALONE)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (replace(ALL, data=None), "DATA"),
        (replace(ALL, text=None), "--text"),
        (replace(ALL, label=None), "--label or --no-label"),
        (replace(ALL, teacher=None), "--teacher"),
        (replace(ALL, of_teacher=Given()), "--model"),
        (replace(ALL, label=NO_LABEL, teacher="causal"), "--labels"),
        (
            replace(ALL, teacher="openai", of_teacher=Given(base_url="https://api.openai.com/v1", model="new")),
            "--method",
        ),
    ],
)
def test_without_a_terminal_it_says_which_option_is_missing(desk, options, missing):
    with pytest.raises(DistillError, match=f"there is no terminal to ask on: give {missing} "):
        new(options, NO_ANSWERS)
    assert [path.name for path in desk.iterdir()] == ["tickets.csv"]


def test_what_there_is_to_choose_from_is_told_without_a_terminal(desk):
    with pytest.raises(DistillError, match="One of gold, answers, local, decisions"):
        new(replace(ALL, teacher=None), NO_ANSWERS)


def test_with_all_options_it_asks_nothing(desk):
    new(ALL, NO_ANSWERS)
    assert load_task(desk / "tickets" / "task.yaml").finetuning is not None


def test_on_a_terminal_it_asks_again_until_the_answer_will_do(desk, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    said = ["nowhere.csv", "tickets.csv", "body", "queue", "openai", "", "", "votes", "the terms, read today"]
    monkeypatch.setattr(sys, "stdin", Terminal("\n".join(said) + "\n"))
    status, out = reflux(monkeypatch, capsys, "new")
    assert status == 0
    assert "nowhere.csv: no such file" in out
    assert "2  body: 400 cells" in out
    teacher = load_task(desk / "tickets" / "task.yaml").teacher.model_dump()
    assert (teacher["kind"], teacher["model"], teacher["method"]) == ("openai", "gpt-4.1-mini", "votes")
    assert teacher["terms"]["reference"] == "the terms, read today"


def test_nothing_is_overwritten(desk):
    (desk / "tickets").mkdir()
    (desk / "tickets" / "mine.txt").write_text("mine")
    with pytest.raises(DistillError, match="nothing is overwritten"):
        new(ALL, ALONE)
    assert [path.name for path in (desk / "tickets").iterdir()] == ["mine.txt"]


def test_a_file_in_the_place_of_the_folder_is_called_one(desk):
    (desk / "odd.csv").write_text("mine")
    with pytest.raises(DistillError, match=r"^odd\.csv: is a file, and nothing is overwritten; name .* with --to$"):
        new(replace(ALL, folder=Path("odd.csv")), ALONE)
    assert (desk / "odd.csv").read_text() == "mine"


def test_a_packed_file_beside_its_own_unpacked_is_to_be_unpacked(desk):
    (desk / "tickets.csv.gz").write_bytes(b"packed")
    with pytest.raises(DistillError, match="unpack it first"):
        new(replace(ALL, data="tickets.csv.gz"), ALONE)


def test_the_name_of_a_file_becomes_the_task_s_without_its_accents(desk):
    (desk / "tickets.csv").rename(desk / "Ünï cödé (1).csv")
    assert new(replace(ALL, data="Ünï cödé (1).csv"), ALONE).task == Path("uni-code-1/task.yaml")


def test_an_unsuitable_name_is_refused_by_its_option(desk):
    with pytest.raises(DistillError, match=r"^--name: lower-case letters, digits, .* such as 'bad-name'; got 'Bad"):
        new(replace(ALL, data="nowhere.csv", name="Bad Name"), ALONE)


def test_a_price_that_cannot_be_forecast_yet_is_no_next_step(desk, monkeypatch, capsys):
    status, out = reflux(monkeypatch, capsys, "new", "tickets.csv", "--yes", "--teacher", "openai")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  reflux")] == ["check", "run"]
    assert "terms of use" in out
    assert "# terms: " in (desk / "tickets" / "task.yaml").read_text()


@pytest.mark.parametrize("choice", [name for name in HAVE if name != "bundle"])
async def test_every_choice_gives_a_task(desk, choice):
    given = Given(model="some/model") if choice in ("local", "causal") else Given()
    logits: dict[str, Any] = {
        "labels": np.array(tickets.CATEGORIES),
        "all": np.zeros((len(DESK), len(tickets.CATEGORIES))),
    }
    np.savez(desk / "logits.npz", **logits)
    written = new(
        Options(data="tickets.csv", teacher=choice, of_teacher=given, logits=desk / "logits.npz", folder=Path("new")),
        ALONE,
    )
    task = load_task(written.task)
    kind = {"gold": "local", "answers": "recorded"}.get(choice, choice)
    assert task.teacher.model_dump()["kind"] == kind
    assert task.labels == tuple(sorted({row["queue"] for row in DESK}))
    assert (task.data.train.model_dump()["label"] is None) == (choice == "answers")  # answers are no gold labels
    if choice == "recorded":
        teacher = teachers.create(task.teacher, task.labels)
        assert all(await teacher.ask(read(task.data.test, "test").texts))


async def test_a_models_answers_become_the_teachers(desk):
    rows = [*DESK, {"ticket": "x", "body": "never answered", "queue": ""}]
    write(desk / "tickets.csv", rows)
    task = load_task(new(Options(data="tickets.csv", teacher="answers"), ALONE).task)
    pool = [*read(task.data.train, "train").texts, *read(task.data.test, "test").texts]
    assert sorted(set(pool)) == sorted({row["body"] for row in DESK})
    said = {row["body"]: row["queue"] for row in DESK}
    given = await teachers.create(task.teacher, task.labels).ask(pool)
    assert [task.labels[int(one.probabilities.argmax())] for one in given] == [said[text] for text in pool]
    assert float(given[0].probabilities.max()) == pytest.approx(0.99)


def test_a_bundle_becomes_the_teacher(desk, tiny_teacher):
    task = load_task(new(replace(ALL, teacher="bundle", of_teacher=Given(model=str(tiny_teacher.path))), ALONE).task)
    assert task.teacher.model_dump()["path"] == tiny_teacher.path.resolve()


@pytest.mark.parametrize("choice", ["gold", "local", "causal", "openai", "answers"])
def test_the_preset_is_named_for_teachers_that_it_is_for(desk, choice):
    given = Given(model="some/model") if choice in ("local", "causal") else Given()
    path = new(Options(data="tickets.csv", teacher=choice, of_teacher=given), ALONE).task
    assert load_task(path).preset is None
    suggested = path.read_text()
    assert ("# preset: " in suggested) == (choice in ("gold", "local", "causal"))
    path.write_text(suggested.replace("# preset: ", "preset: "))
    assert (load_task(path).labelling.views is not None) == ("# preset: " in suggested)


def test_a_file_of_ones_own_judges(desk):
    write(desk / "test.csv", DESK[:50])
    task = load_task(new(replace(ALL, test=desk / "test.csv"), ALONE).task)
    paths = [source.model_dump()["path"] for source in (task.data.train, task.data.test)]
    assert paths == [desk / "tickets.csv", desk / "test.csv"]
    assert [path.name for path in (desk / "tickets").iterdir()] == ["task.yaml"]


def test_labels_without_a_column_are_listed(desk):
    options = Options(data="tickets.csv", label=NO_LABEL, labels="on, no, 12:30, it's", teacher="anthropic")
    written = new(options, ALONE)
    assert load_task(written.task).labels == ("on", "no", "12:30", "it's")
    assert any("terms of use" in line for line in written.to_do)


def one_more_text(task: Path, choice: str) -> None:
    """Add a text without a label where the comment on the pool says that it goes."""
    written = task.read_text()
    if "Texts without one go into `unlabelled`" in written:
        task.write_text(written.replace("  # unlabelled:", "  unlabelled:"))
        (task.parent / "more.csv").write_text("text\nwhere is my parcel\n")
    elif "Texts without a label are welcome" in written:
        with (task.parent / "train.csv").open("a") as file:
            file.write("where is my parcel,\n")
    else:
        assert choice in RECORDED
        assert "unlabelled" not in written


@pytest.mark.parametrize("some_lack_a_label", [False, True])
@pytest.mark.parametrize("choice", ["gold", "answers", "local", "openai"])
def test_a_text_without_a_label_goes_where_the_task_says(desk, choice, some_lack_a_label):
    unlabelled = {"ticket": "x", "body": "never labelled", "queue": ""}
    write(desk / "tickets.csv", [*DESK[:150], *[unlabelled] * some_lack_a_label])
    given = Given(model="some/model") if choice == "local" else Given()
    written = new(Options(data="tickets.csv", teacher=choice, of_teacher=given), ALONE).task
    one_more_text(written, choice)
    nearest = "    # nearest:"  # optional, and its rows have to keep their labels
    written.write_text(written.read_text().replace(nearest, nearest.replace("# ", "")))
    task = load_task(written)
    (desk / "data").mkdir()
    prepare(task, desk / "data")
    rows = read_splits(desk / "data").train
    assert ("where is my parcel" in rows.texts) == (choice != "answers")
    prompt = task.teacher.model_dump().get("prompt")
    if prompt is not None and prompt.get("nearest") is not None:
        assert read(FileSource.model_validate(prompt["nearest"]["data"]), "row").has_gold


@pytest.mark.parametrize("choice", ["gold", "answers"])
@pytest.mark.parametrize("near_duplicates", [False, True])
def test_rows_too_few_to_hold_validation_out_are_refused(desk, choice, near_duplicates):
    if near_duplicates:
        texts = [f"{number} times I have asked now where the parcel with my new shoes is" for number in range(60)]
    else:
        texts = list(dict.fromkeys(row["body"] for row in DESK))[:12]
    write(desk / "tickets.csv", [{"body": text, "queue": "ab"[number % 2]} for number, text in enumerate(texts)])
    with pytest.raises(DistillError, match=r"tickets\.csv: .* validation; add rows, 20 or more of each label"):
        new(Options(data="tickets.csv", teacher=choice), ALONE)
    assert not (desk / "tickets").exists()


def test_the_number_of_rows_that_it_asks_for_is_enough(desk):
    first: dict[str, list[dict[str, str]]] = {}
    for row in DESK:
        first.setdefault(row["queue"], []).append(row)
    write(desk / "tickets.csv", [row for rows in first.values() for row in rows[:20]])
    (desk / "data").mkdir()
    prepare(load_task(new(Options(data="tickets.csv"), ALONE).task), desk / "data")


def test_a_label_that_reads_like_a_missing_one_is_refused(desk):
    write(desk / "tickets.csv", [*DESK, {"ticket": "x", "body": "what is this about", "queue": "nan"}])
    with pytest.raises(DistillError, match="reads like a missing one"):
        new(Options(data="tickets.csv"), ALONE)


def test_a_vendor_that_forbids_training_is_refused(desk):
    given = Given(
        base_url="https://api.typesafe.ai/v1", model="jev", dialect="systemone", terms="read", usd_per_million=(1, 1)
    )
    with pytest.raises(TeacherError, match="forbid training"):
        new(Options(data="tickets.csv", teacher="decisions", of_teacher=given), ALONE)
    assert not (desk / "tickets").exists()


def test_a_recording_of_other_rows_is_refused_and_leaves_nothing(desk):
    np.savez(desk / "logits.npz", labels=np.array(tickets.CATEGORIES), all=np.zeros((7, len(tickets.CATEGORIES))))
    with pytest.raises(DistillError, match="expected one array for the 400 rows"):
        new(Options(data="tickets.csv", teacher="recorded", logits=desk / "logits.npz"), ALONE)
    assert not (desk / "tickets").exists()


@pytest.mark.parametrize("was_there", ["a", "a/b", "a/b/tickets"])
def test_a_failure_leaves_the_folders_that_were_there_and_no_others(desk, was_there):
    (desk / was_there).mkdir(parents=True)
    before = sorted(desk.rglob("*"))
    np.savez(desk.parent / "logits.npz", labels=np.array(tickets.CATEGORIES), all=np.zeros((7, 2)))
    recorded = Options(data="tickets.csv", teacher="recorded", logits=desk.parent / "logits.npz")
    with pytest.raises(DistillError, match="expected one array"):
        new(replace(recorded, folder=Path("a/b/tickets")), ALONE)
    assert sorted(desk.rglob("*")) == before


def test_a_failure_is_told_though_a_folder_was_made_there_meanwhile(desk, monkeypatch):
    def fail(path):
        (path.parent / "mine").mkdir()
        raise DistillError("the task is wrong")

    monkeypatch.setattr("reflux.new.folder.load_task", fail)
    with pytest.raises(DistillError, match="the task is wrong"):
        new(Options(data="tickets.csv", teacher="gold", folder=Path("here")), ALONE)
    assert [path.name for path in (desk / "here").iterdir()] == ["mine"]


def test_a_log_of_calls_is_sent_to_estimate(desk):
    write_log(desk / "calls.jsonl", [chat("my text", "refund")] * 3)
    with pytest.raises(DistillError, match=r"reflux estimate calls\.jsonl --write FOLDER"):
        new(Options(data="calls.jsonl"), ALONE)


def test_a_text_is_on_one_side_only():
    texts = [f"text {number % 350}" if number < 350 else f"TEXT  {number % 350}" for number in range(700)]
    rows = Examples(tuple(map(str, range(700))), tuple(texts), tuple("ab"[number % 2] for number in range(700)))
    learn, judge = divide(rows)
    assert not {normalise(text) for text in learn.texts} & {normalise(text) for text in judge.texts}
    assert len(learn) + len(judge) == 700
    assert len(judge) / 2 == pytest.approx(350 / 3, abs=2)  # as far towards 300 as a third allows


def test_rows_without_a_label_do_not_judge_where_others_have_one():
    gold = tuple("ab"[number % 2] if number < 400 else None for number in range(2000))
    rows = Examples(tuple(map(str, range(2000))), tuple(f"text {number}" for number in range(2000)), gold)
    learn, judge = divide(rows)
    assert judge.has_gold
    assert len(judge) == pytest.approx(400 / 3, abs=2)
    assert len(learn.unlabelled) == 1600
