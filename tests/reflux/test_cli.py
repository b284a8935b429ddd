"""The command line: every verb does its stage, says what to do first, and tells an error in one line."""

from __future__ import annotations

import copy
import csv
import errno
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml

from distill.errors import StoppedError
from distill.run import Run
from export import served_graph
from export.bundle.classifier import Classifier
from export.bundle.format import MODEL, Bundle
from export.run import ExportRun
from export.torch_to_onnx import export_onnx
from export.witness import Witness
from reflux import cli as command
from reflux.exit_codes import CHECK_EXIT_CODES
from service import serve
from service.auth.keyfile import KeyOptions, digest_of, read_keys
from tests.support.tiny_bundle import build_cascade, rewritten

ROOT = Path(__file__).parents[2]
VERBS = (
    "estimate",
    "new",
    "check",
    "label",
    "train",
    "export",
    "witness",
    "evaluate",
    "run",
    "sweep",
    "serve",
    "status",
    "keys",
    "classify",
    "demo",
)


@dataclass
class Done:
    """How a command ended, and what it wrote where."""

    status: int | str
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch):
    """`cli(*arguments)`: run the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reflux", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.main()
        captured = capsys.readouterr()
        return Done(ended.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def refused(cli):
    """`refused(*arguments)`: the one line in which a command that cannot be done says so."""

    def run(*arguments):
        done = cli(*arguments)
        assert done.status == 1
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1
        return done.err.strip()

    return run


@pytest.fixture
def changed(task, tmp_path):
    """`changed(change)`: the file of another task, which `change` made of the task's mapping."""

    def make(change):
        described = yaml.safe_load(task.read_text())
        change(described)
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(described))
        return tmp_path / "task.yaml"

    return make


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No setting of this machine has a say."""
    for name in list(os.environ):
        if name.startswith("REFLUX_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def finished(task):
    """The folder of the task's run, made by `reflux run`. Shared: copy it before changing it."""
    folder = task.parent / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reflux", "run", str(task), "--output", str(folder)])
        with pytest.raises(SystemExit) as ended:
            command.main()
    assert not ended.value.code
    return folder


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def in_a_process(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from reflux.cli import main; main()", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_verb(cli, arguments):
    done = cli(*arguments)
    for verb in VERBS:
        assert verb in done.out + done.err


def test_a_new_key_fits_the_line_that_is_printed_beside_it(cli, tmp_path):
    done = cli("keys", "new", "tickets", "--rate", "12.5", "--admin")
    key, line = (row.rpartition(": ")[2] for row in done.out.splitlines())
    (tmp_path / "keys").write_text(line)
    (read,) = read_keys(tmp_path / "keys")
    assert (read.name, read.digest, read.options) == (
        "tickets",
        digest_of(key.encode()),
        KeyOptions(admin=True, rate=12.5),
    )
    assert key not in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["distil"], "distil"),
        (["label", "task.yaml", "--max-usd", "-1"], "--max-usd"),
        (["run", "task.yaml", "--max-usd", "-1"], "--max-usd"),
        (["check", "task.yaml", "--json", "."], "--json"),
        (["export"], "--verify"),
        (["export", "bundle", "--format", "hub"], "--format hub"),
        (["export", "bundle", "here"], "--format hub"),
        (["export", "bundle", "here", "--verify", "there"], "--format hub"),
        (["classify", "bundle", "in.csv", "out.csv", "--delimiter", "abc"], "expected one character"),
    ],
)
def test_a_wrong_use_ends_with_status_2_and_names_what_is_wrong(cli, arguments, named):
    done = cli(*arguments)
    assert done.status == 2
    assert named in done.err


def test_the_verbs_one_by_one(cli, task, tmp_path):
    output = ("--output", tmp_path / "run")
    done = cli("check", task, *output, "--json", tmp_path / "check.json")
    assert done.status == CHECK_EXIT_CODES["too little"] == 3
    assert "to train" in done.out
    assert "warning: train:" in done.out
    assert (
        "\nverdict: too little: 122 texts to train on; distillation profits from 10,000 to 50,000 texts\n" in done.out
    )
    assert json.loads((tmp_path / "check.json").read_text())["verdict"] == "too little"
    done = cli("label", task, *output, "--dry-run")
    assert done.out == "a teacher of kind bundle makes no paid calls: labelling costs nothing\n"
    assert not (tmp_path / "run" / "labels").exists()
    done = cli("label", task, *output, "--max-usd", "0")
    assert (done.status, done.out.count("\n")) == (0, 2)
    assert f"labelled by bundle:tiny-teacher: {tmp_path}/run/labels" in done.out
    assert re.search(r"0 refused, 0 invalid; \d+ asked now; \$0\.00 spent on calls in all", done.out)
    done = cli("label", task, *output)
    assert "; 0 asked now; " in done.out
    done = cli("train", task, *output)
    assert done == Done(0, f"small: {tmp_path}/run/students/small\n", done.err)
    done = cli("export", task, *output)
    assert done.status == 0
    assert done.out.startswith(f"{tmp_path}/run/bundle: small, int8 ")
    done = cli("evaluate", task, *output)
    assert done.status == 0
    for part in ("Distillation gap of keywords", "agreement with teacher", f"{tmp_path}/run/report/gap.json"):
        assert part in done.out
    written = {path.name for path in (tmp_path / "run" / "report").iterdir()}
    assert written >= {"gap.json", "report.html", "report.md", "reliability.png", "frontier.png", "stage.json"}


@pytest.mark.parametrize(
    ("verb", "first"), [("train", "label"), ("export", "train"), ("witness", "export"), ("evaluate", "export")]
)
def test_a_verb_out_of_turn_names_the_one_to_run(refused, task, tmp_path, verb, first):
    assert f"run `reflux {first}` with this task first" in refused(verb, task, "--output", tmp_path)


def test_all_stages_at_once(finished):
    assert {path.name for path in finished.iterdir() if path.is_dir()} == {
        "data",
        "labels",
        "students",
        "bundles",
        "bundle",
        "cascade",
        "report",
    }
    assert json.loads((finished / "report" / "gap.json").read_text())["chosen"] == "small"


def test_a_second_run_skips_what_is_done(cli, task, finished):
    before = written(finished)
    done = cli("run", task, "--output", finished)
    assert done.status == 0
    assert f"bundle to serve: {finished}/bundle\n" in done.out
    assert written(finished) == before


def test_a_run_goes_to_runs_and_the_tasks_name_where_no_folder_is_given(cli, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("check", task).status == CHECK_EXIT_CODES["too little"]
    assert (tmp_path / "runs" / "keywords" / "data").is_dir()


def test_check_warns_of_students_of_the_sweep_that_will_fail(cli, task, tmp_path):
    described = yaml.safe_load(task.read_text())
    small = described["students"]["small"]
    described["sweep"] = {"students": {"gone": {**small, "model": "/nowhere"}, "good": small}}
    own = task.with_name("swept.yaml")
    own.write_text(yaml.safe_dump(described))
    done = cli("check", own, "--output", tmp_path / "run")
    assert done.status == CHECK_EXIT_CODES["too little"]
    [warning] = [line for line in done.err.splitlines() if "sweep" in line]
    assert warning.startswith("warning: sweep.students.gone.model: model /nowhere: cannot be loaded")


def test_a_cascade_of_bundles_is_built_and_says_what_it_guarantees(cli, task, finished, tmp_path):
    own = Bundle.open(finished / "bundles" / "small")
    other = rewritten(own, tmp_path / "other", name="other", max_tokens=own.manifest.max_tokens - 1)
    stages = ["small", other.path]  # a student and a folder
    given = (task, *stages, "--output", finished, "--to", tmp_path / "cascade")
    done = cli("cascade", *given, "--margin", "0.9")
    assert done.status == 0
    assert done.out.startswith(f"{tmp_path}/cascade: of the validation texts it answers by small ")
    assert "With 95 % confidence, it agrees with the teacher on at most 90 points fewer of all requests" in done.out
    assert Bundle.open(tmp_path / "cascade").manifest.name == "small+other"
    assert done.err.splitlines()[-1].startswith("warning: small+other: ")  # both take equally long
    for margin in ("0", "1", "-0.1", "nan"):
        refused = cli("cascade", *given, "--margin", margin)
        assert (refused.status, "must be more than 0 and less than 1" in refused.err) == (1, True)
    done = cli("cascade", *given)
    assert done.status == 1
    assert "validation rows certify no margin of 0.5 points or less" in done.err
    done = cli("cascade", task, "small", "--output", finished, "--margin", "0.9")
    assert (done.status, "two students or more" in done.err) == (1, True)
    done = cli("cascade", task, "small", "small", "--output", finished, "--margin", "0.9")
    assert (done.status, "name each stage once" in done.err) == (1, True)


def test_a_cascade_that_defers_says_how_much_it_leaves_to_the_teacher(cli, task, finished):
    done = cli("cascade", task, "small", "--output", finished, "--defer", "0.5")
    assert done.status == 0, done.err
    folder = finished / "cascades" / "small+teacher"
    teacher = 100 * Bundle.open(folder).manifest.measured["shares"][-1]
    assert done.out.startswith(f"{folder}: of the validation texts it answers by small ")
    assert f"teacher {teacher:.0f} %" in done.out
    assert f"at least 50 % of all requests by leaving {teacher:.1f} % to it" in done.out
    refused = cli("cascade", task, "small", "--output", finished, "--defer", "0.5", "--margin", "0.1")
    assert (refused.status, "give one of them" in refused.err) == (1, True)
    refused = cli("cascade", task, "small", "--output", finished, "--defer", "0.99")
    assert (refused.status, "cannot certify 99 % agreement" in refused.err) == (1, True)


def test_without_options_a_cascade_defers_as_the_task_says(cli, task, finished, tmp_path):
    deferring = task.with_name("deferring.yaml")
    deferring.write_text(f"{task.read_text()}cascade: {{build: false, defer: 0.5}}\n")
    given = ("--output", finished, "--to", tmp_path / "cascade")
    done = cli("cascade", deferring, "small", *given)
    assert (done.status, "at least 50 % of all requests" in done.out) == (0, True), done.err
    own = Bundle.open(finished / "bundles" / "small")
    other = rewritten(
        own, tmp_path / "other", max_tokens=own.manifest.max_tokens - 1, teacher={"name": "gpt", "version": "1"}
    )
    done = cli("cascade", deferring, other.path, "small", *given, "--margin", "0.9")
    assert (done.status, "at most 90 points fewer" in done.out) == (0, True), done.err
    assert f"warning: {other.path}: learned from gpt@1, but small from " in done.err.replace("\n", " ")
    assert Bundle.open(tmp_path / "cascade").manifest.deferred_below is None


@pytest.mark.parametrize("source", ["bundle", "task"])
def test_a_bundle_is_written_as_others_load_it(cli, task, finished, tmp_path, source):
    given = [finished / "bundle"] if source == "bundle" else [task, "--output", finished]
    before = written(finished)
    done = cli("export", *given, "--format", "hub", tmp_path / "hub")
    version_here = Bundle.open(finished / "bundle").manifest.version
    assert done.out.endswith(f"{tmp_path / 'hub'}: small, version {version_here}, in the layout of the hub\n")
    assert (tmp_path / "hub" / "onnx" / MODEL).is_file()
    assert written(finished) == before


def test_a_folder_that_holds_something_is_not_written_over(refused, finished, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert f"{tmp_path}: is not an empty folder" in refused("export", finished / "bundle", "--format", "hub", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_witness_is_made_of_the_named_students(cli, task, finished, monkeypatch):
    asked = []

    def make(run, student, by):
        asked.append((run.run.root, student, by))
        return Witness(Bundle.open(finished / "bundle"), 0.4)

    monkeypatch.setattr(ExportRun, "make_witness", make)
    done = cli("witness", task, "--output", finished, "--student", "small", "--by", "large")
    assert asked == [(finished, "small", "large")]
    assert done.out.startswith(f"{finished / 'bundle'}: with it the teacher is asked about 40 % of the texts")
    assert "REFLUX_SHADOW__WITNESS" in done.out


def test_a_witness_needs_a_second_student(refused, task, finished):
    assert "two students of the task; it has small" in refused("witness", task, "--output", finished)


def test_verify_passes_a_good_bundle(cli, finished):
    bundle = Bundle.open(finished / "bundle")
    done = cli("export", "--verify", bundle.path)
    assert done == Done(
        0, f"{bundle.path}: version {bundle.manifest.version} is complete and gives the expected answers\n", ""
    )


def test_an_export_of_a_bundle_says_how_to_check_it(cli, finished):
    done = cli("export", finished / "bundle")
    assert done.status == 2
    assert "give a task file, or `--verify " in " ".join(done.err.replace("│", "").split())


def test_verify_refuses_a_changed_bundle(refused, finished, tmp_path):
    changed = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    (changed / MODEL).write_bytes(b"")
    assert f"{changed / MODEL}: does not match its hash" in refused("export", "--verify", changed)


def test_a_gate_that_fails_ends_the_export(cli, task, finished, tmp_path, monkeypatch):
    def export_another(student, path):
        other = copy.deepcopy(student)
        other.network.module.head.bias.data += 1
        export_onnx(other, path)

    monkeypatch.setattr(served_graph, "export_onnx", export_another)
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "bundles")
    done = cli("export", task, "--output", run)
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith(
        "error: small, plain graph does not pass: parity: largest difference of a logit: 1, required 0.001"
    )
    assert "Traceback" not in done.err
    assert not list((run / "bundles").iterdir())


def test_a_task_that_is_not_there_is_named(refused, tmp_path):
    for verb in ("check", "label", "train", "export", "evaluate", "run"):
        assert f"{tmp_path}/none.yaml: cannot be read" in refused(verb, tmp_path / "none.yaml")


def test_a_key_that_no_task_has_is_named(refused, changed, tmp_path):
    file = changed(lambda described: described.update(colour="red"))
    assert f"{file}: colour: unknown key" in refused("check", file)


def test_a_path_with_brackets_is_told_as_it_is(refused, changed, tmp_path):
    file = changed(lambda described: described["data"]["train"].update(path="[bold] [/]/train.csv"))
    assert f"{tmp_path}/[bold] [/]/train.csv: cannot be read" in refused("check", file)


def test_a_teacher_with_other_labels_is_told(cli, task, changed, tmp_path):
    def change(described):
        for source in (described["data"]["train"], described["data"]["test"]):
            source["path"] = str(task.parent / source["path"])
        described["labels"] = ["billing", "shipping", "account", "technical", "returns"]

    done = cli("label", changed(change), "--output", tmp_path / "run")
    assert done.status == 1
    assert "does not know the task's labels: missing ['returns']" in done.err.splitlines()[-1]


def test_what_the_disk_refuses_is_told(cli, task, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    done = cli("check", task, "--output", tmp_path / "file" / "run")
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("error: [Errno ")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = cli("check", task, "--output", tmp_path / "run")
    assert done.status == 1
    assert done.err.splitlines()[-1] == "error: [Errno 28] No space left on device"


def test_an_error_that_nobody_foresaw_keeps_its_traceback(task, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("reflux.pipeline.open_run", fail)
    monkeypatch.setattr(sys, "argv", ["reflux", "check", str(task)])
    with pytest.raises(ZeroDivisionError):
        command.main()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_is_classified_row_by_row(cli, tiny_bundle, tmp_path, suffix):
    texts = ["my invoice", 'login, "password"\nreset', "parcel " * 40]
    source = tmp_path / f"texts{suffix}"
    if suffix == ".csv":
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([("key", "body"), *((f"k{row}", text) for row, text in enumerate(texts))])
    else:
        source.write_text(
            "".join(json.dumps({"key": f"k{row}", "body": text}) + "\n" for row, text in enumerate(texts))
        )
    target = tmp_path / "answers.csv"
    done = cli("classify", tiny_bundle.path, source, target, "--text", "body", "--id", "key")
    assert (done.status, done.out) == (0, f"3 texts classified: {target}\n")
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    classifier = Classifier.load(tiny_bundle)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        answer = classifier.classify(text)
        assert row == {
            "id": f"k{number}",
            "text": text,
            "label": tiny_bundle.manifest.labels[answer.probabilities.argmax()],
            "score": f"{answer.probabilities.max():.6f}",
            "truncated": "true" if number == 2 else "false",
        }


def test_texts_that_are_left_to_the_teacher_are_counted(cli, tiny_bundle, tmp_path):
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle], [], defer=0.8)
    source, target = tmp_path / "texts.csv", tmp_path / "answers.csv"
    source.write_text("text\ninvoice\nmy invoice is late\n")
    told = cli("classify", cascade.path, source, target).out.replace("\n", " ")
    assert "1 text was left to the teacher, who is not asked here" in told


def test_a_file_with_another_column_is_not_classified(refused, tiny_bundle, tmp_path):
    (tmp_path / "texts.csv").write_text("body\nmy invoice\n")
    told = refused("classify", tiny_bundle.path, tmp_path / "texts.csv", tmp_path / "answers.csv")
    assert "no column 'text'; there are 'body'" in told
    assert not (tmp_path / "answers.csv").exists()


def test_a_delimiter_is_found_and_said_or_given(cli, tiny_bundle, tmp_path):
    source, target = tmp_path / "texts.csv", tmp_path / "answers.jsonl"
    source.write_text("key;text\n1;my invoice, please\n2;\n")
    done = cli("classify", tiny_bundle.path, source, target)
    told = f"2 texts classified (1 of them blank, without a label): {target}\n"
    assert (done.status, done.out) == (0, f"{source}: read with the delimiter ';'\n{told}")
    source.write_text(source.read_text().replace(";", "\t"))
    assert cli("classify", tiny_bundle.path, source, target, "--delimiter", "tab").out == told


def test_check_says_what_the_preset_of_a_task_leads_to(cli, task, changed, tmp_path):
    def change(described):
        for source in (described["data"]["train"], described["data"]["test"]):
            source["path"] = str(task.parent / source["path"])
        described["preset"] = "local-teacher"

    done = cli("check", changed(change), "--output", tmp_path / "run")
    assert "\nThe task has the preset local-teacher" in done.out
    assert "\nlabelling.views: {per_text: 3}\n" in done.out


def test_check_lists_every_label_and_names_those_that_look_alike(cli, task, changed, tmp_path):
    def change(described):
        for name in ("train", "test"):
            source = described["data"][name]
            rows = (task.parent / source["path"]).read_text().replace(",billing", ",Billing", 1)
            source["path"] = f"{name}.csv"
            (tmp_path / source["path"]).write_text(rows.replace(",", ";"))

    done = cli("check", changed(change), "--output", tmp_path / "run")
    assert f"- {tmp_path}/train.csv: read with the delimiter ';'" in done.out
    assert f"- {tmp_path}/test.csv: read with the delimiter ';'" in done.out
    assert re.search(
        r"- warning: labels 'Billing' \(2 rows\), 'billing' \(\d+ rows\) differ only in spelling", done.out
    )
    listed = re.findall(r"^- label (\w+): \d+ rows \(\d+ train, \d+ validation, \d+ test\)$", done.out, re.MULTILINE)
    assert listed == ["Billing", "account", "billing", "shipping", "technical"]


def test_numbers_of_different_types_are_one_label_and_different_spellings_are_told(cli, changed, tmp_path):
    texts = [f"{number} is the text of row {number * 7919}" for number in range(60)]
    labels = pyarrow.array([None if number % 10 == 0 else float(number % 2) for number in range(40)])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts[:40], "label": labels}), tmp_path / "train.parquet")
    file = changed(lambda described: described["data"]["train"].update(path="train.parquet"))
    rows = "".join(f"{text},{number % 2}\n" for number, text in enumerate(texts[40:]))
    (tmp_path / "test.csv").write_text(f"text,label\n{rows}")
    done = cli("check", file, "--output", tmp_path / "run")
    assert re.findall(r"- (?:label (.+)|no label): (\d+) rows", done.out) == [("", "4"), ("0", "26"), ("1", "30")]
    (tmp_path / "test.csv").write_text(f"text,label\n{rows}".replace(",1\n", ",1.0\n"))
    told = cli("check", file, "--output", tmp_path / "run").err.splitlines()[-1]
    assert "labels '1' (20 rows), '1.0' (10 rows) are one value in several spellings; spell them alike" in told


@pytest.mark.parametrize("verb", ["label", "run"])
def test_the_budget_reaches_the_labelling(cli, task, tmp_path, verb, monkeypatch):
    given = []

    def stop(self, means):
        given.append(means.max_usd)
        raise StoppedError("stopped: [half] of it")

    monkeypatch.setattr(Run, "make_labels", stop)
    done = cli(verb, task, "--output", tmp_path, "--max-usd", "1.5")
    assert given == [1.5]
    assert done.status == 130
    assert done.err.splitlines()[-1] == "stopped: [half] of it"


@pytest.fixture
def serving(cli, monkeypatch):
    """`serving(*arguments)`: the settings with which `reflux serve` would serve."""

    def run(*arguments):
        given = []
        monkeypatch.setattr(serve, "serve", given.append)
        monkeypatch.setattr(gc, "disable", lambda: None)
        assert cli("serve", *arguments).status == 0
        return given[0]

    return run


def test_serve_takes_its_settings_from_the_command_line(serving, tiny_bundle):
    settings = serving(tiny_bundle.path, "--host", "127.0.0.1", "--port", "8123")
    assert (settings.bundle, settings.host, settings.port) == (tiny_bundle.path, "127.0.0.1", 8123)


def test_serve_takes_from_the_environment_what_the_command_line_does_not_say(serving, tiny_bundle, monkeypatch):
    monkeypatch.setenv("REFLUX_BUNDLE", str(tiny_bundle.path))
    monkeypatch.setenv("REFLUX_PORT", "8001")
    monkeypatch.setenv("REFLUX_HOST", "::1")
    settings = serving("--port", "8002")
    assert (settings.bundle, settings.host, settings.port) == (tiny_bundle.path, "::1", 8002)
    monkeypatch.setenv("REFLUX_BUNDLE", "another")
    assert serving(tiny_bundle.path).bundle == tiny_bundle.path


@pytest.mark.parametrize(
    ("arguments", "named"), [((), "REFLUX_BUNDLE: Field required"), (("bundle", "--port", "70000"), "REFLUX_PORT: ")]
)
def test_serve_refuses_settings_that_do_not_fit_by_name(cli, monkeypatch, arguments, named):
    monkeypatch.setattr(gc, "disable", lambda: None)
    assert f"reflux refuses to start: {named}" in cli("serve", *arguments).status


def test_exit_codes_and_streams_of_a_real_process(tiny_bundle, tmp_path):
    done = in_a_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"reflux {version('reflux')}\n", "")
    done = in_a_process("export", "--verify", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}: no manifest.json; a bundle is a directory that `reflux export` wrote\n"


def test_serving_on_an_address_that_is_taken_is_told(tiny_bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = in_a_process("serve", tiny_bundle.path, "--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"reflux refuses to start: cannot listen on 127.0.0.1:{port} ")
    assert "Traceback" not in done.stderr


def test_help_and_version_load_no_stage():
    code = """
import sys
from reflux import cli
sys.argv = ["reflux", "--version"]
try:
    cli.main()
finally:
    print(sorted({name.split(".")[0] for name in sys.modules} & {"distill", "export", "service", "torch", "numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
