"""`reflux replay`, on logs that a real outbox wrote."""

import json
import sqlite3

import numpy as np
import pytest
from typer.testing import CliRunner

from export.bundle.classifier import Classifier
from reflux.cli import app
from reflux.replay import source
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.outbox.store import Outbox
from service.shadow.shared.database import Database
from service.shadow.shared.outbox import SharedOutbox
from tests.support.shadow_log import fill
from tests.support.sockets import dead_address
from tests.support.tiny_bundle import NEUTRAL, WORDS, build_bundle, build_cascade, rewritten

WRONG = {"refund": "shipping", "charge": "shipping", "invoice": "account", "parcel": "billing", "crash": "billing"}
TEXTS = 600


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "teacher": build_bundle(folder / "teacher", role="teacher"),
        "current": build_bundle(folder / "current", flip={"refund": "shipping"}),
        "same": build_bundle(folder / "same", name="same", flip={"refund": "shipping"}),
        "better": build_bundle(folder / "better"),
        "worse": build_bundle(folder / "worse", flip=WRONG),
    }


def texts(count):
    """Return texts whose label hangs on one word."""
    generator = np.random.default_rng(7)
    words = [word for words in WORDS.values() for word in words]
    return [f"{generator.choice(NEUTRAL)} {generator.choice(words)}" for _ in range(count)]


@pytest.fixture(scope="module")
def log(tmp_path_factory, bundles):
    """A log of the current bundle: a tenth of its rows is never trained on."""
    path = tmp_path_factory.mktemp("log") / "shadow.sqlite"
    write(path, bundles, texts(TEXTS))
    return path


def write(path, bundles, given, **options):
    manifest = bundles["current"].manifest
    fill_with(Outbox(path, bundle=manifest.version, labels=manifest.labels, teacher="t@1", **options), bundles, given)


def fill_with(outbox, bundles, given):
    at = iter(range(len(given)))
    fill(outbox, bundles["current"], bundles["teacher"], given, split=lambda _: "train" if next(at) % 10 else "eval")


def replay(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.mark.parametrize(("candidate", "gate", "code"), [("better", "PASS", 0), ("worse", "FAIL", 2)])
def test_a_candidate_is_judged_by_the_log(bundles, log, candidate, gate, code):
    done = replay(bundles[candidate].path, "--current", bundles["current"].path, "--store", log, "--rows", "all")
    assert done.exit_code == code, done.output
    assert done.stdout.startswith(f"{gate}: ")
    assert "answers 100.0 % of them as it did in production" in done.stdout


def test_a_cascade_is_judged_by_the_answers_of_the_whole(bundles, log, tmp_path):
    for cut_off, code in ((0.99, 0), (0.0, 3)):  # the better one answers everything, or the current one does
        candidate = build_cascade(tmp_path / "cascade", [bundles["current"], bundles["better"]], [cut_off])
        done = replay(candidate.path, "--current", bundles["current"].path, "--store", log, "--rows", "all")
        assert done.exit_code == code, done.output


def test_a_candidate_that_answers_alike_is_inconclusive_until_the_log_is_long_enough(bundles, log):
    given = (bundles["same"].path, "--current", bundles["current"].path, "--store", log, "--rows", "all")
    assert replay(*given).exit_code == 3
    assert replay(*given, "--margin", 0.05).exit_code == 0


def test_by_default_only_texts_that_are_never_trained_on_count(bundles, log, tmp_path):
    output = tmp_path / "gate.json"
    done = replay(bundles["better"].path, "--current", bundles["current"].path, "--store", log, "--output", output)
    assert done.exit_code == 3
    found = json.loads(output.read_text())
    assert (found["texts"], found["rows"], found["gate"]) == (TEXTS // 10, "eval", "inconclusive")
    assert "too few" in found["message"]


def test_the_difference_is_that_of_the_answers(bundles, log, tmp_path):
    output = tmp_path / "gate.json"
    replay(
        bundles["worse"].path, "--current", bundles["current"].path, "--store", log, "--rows", "all", "--output", output
    )
    best = {
        name: Classifier.load(bundles[name]).probabilities(texts(TEXTS)).argmax(axis=1)
        for name in ("worse", "current", "teacher")
    }
    wrong = {name: best[name] != best["teacher"] for name in ("worse", "current")}
    found = json.loads(output.read_text())["found"]
    assert found["difference"] == pytest.approx(np.mean(wrong["worse"]) - np.mean(wrong["current"]), abs=1e-9)
    assert found["worse"] == int((wrong["worse"] & ~wrong["current"]).sum())


def test_the_log_may_be_in_use_and_is_not_changed(bundles, log):
    before = log.read_bytes()
    busy = Outbox(log, bundle="other", labels=("a",), teacher="t@1")
    busy.open()
    done = replay(bundles["better"].path, "--current", bundles["current"].path, "--store", log, "--rows", "all")
    assert done.exit_code == 0
    busy.close()
    assert len(before) <= len(log.read_bytes())


def test_the_log_may_be_in_a_database(bundles, shared_store):
    manifest = bundles["current"].manifest
    outbox = SharedOutbox(
        Database(shared_store.url),
        bundle=manifest.version,
        labels=manifest.labels,
        teacher=TeacherIdentity("t", "1", ("t", "1")),
        keep_text=True,
        lease_seconds=60.0,
        most_pending=10_000,
    )
    fill_with(outbox, bundles, texts(TEXTS))
    given = (bundles["worse"].path, "--current", bundles["current"].path, "--database", shared_store.url)
    done = replay(*given, "--rows", "all")
    assert done.exit_code == 2, done.output
    assert f"{TEXTS} texts, trained on or not, answered by t@1" in done.stdout


def test_of_two_logs_none_is_taken(bundles, log, monkeypatch):
    given = (bundles["better"].path, "--current", bundles["current"].path, "--store", log)
    for more in (["--database", "postgresql://reflux@h/reflux"], []):
        done = replay(*given, *more)
        assert done.exit_code == 4
        assert "there are two logs" in done.stderr
        monkeypatch.setenv("REFLUX_SHADOW__DATABASE", "postgresql://reflux@h/reflux")


def test_a_long_log_in_a_database_may_take_its_time(shared_store):
    with source(None, shared_store.url) as connection:
        for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
            assert connection.execute("SELECT current_setting(?)", (limit,)).fetchone() == ("0",)


def test_a_database_that_is_gone_is_no_answer(bundles):
    address = f"postgresql://reflux:secret@{dead_address()}/reflux"
    done = replay(bundles["better"].path, "--current", bundles["current"].path, "--database", address)
    assert done.exit_code == 4
    assert "check that it runs" in done.stderr
    assert "secret" not in done.output


@pytest.mark.parametrize(
    "address", ["postgresql://reflux:my/secret@h/reflux", "postgresql://reflux:my#secret@h/reflux", "sqlite:///secret"]
)
def test_an_address_that_is_none_is_refused_without_being_repeated(bundles, address):
    done = replay(bundles["better"].path, "--current", bundles["current"].path, "--database", address)
    assert done.exit_code == 4
    assert "--database must be postgresql://" in done.stderr
    assert "secret" not in done.output
    assert "my" not in done.output


def test_a_database_of_another_schema_is_no_answer(bundles, shared_store):
    given = (bundles["better"].path, "--current", bundles["current"].path, "--database", shared_store.url)
    shared_store.execute("INSERT INTO reflux.schema_version (version) VALUES (99)")
    done = replay(*given)
    assert done.exit_code == 4
    assert "has schema 99" in done.stderr
    shared_store.execute("DROP SCHEMA reflux CASCADE")
    done = replay(*given)
    assert done.exit_code == 4
    assert "run `reflux migrate`" in done.stderr


def test_an_outcome_that_cannot_be_written_is_no_answer(bundles, log, tmp_path):
    given = (bundles["better"].path, "--current", bundles["current"].path, "--store", log)
    done = replay(*given, "--output", tmp_path / "none" / "gate.json")
    assert done.exit_code == 4
    assert "none" in done.stderr


def test_all_days_are_as_many_as_one_likes(bundles, log):
    given = (bundles["better"].path, "--current", bundles["current"].path, "--store", log, "--rows", "all")
    assert replay(*given, "--days", "inf").exit_code == replay(*given).exit_code == 0


def test_texts_that_were_erased_are_named(bundles, tmp_path):
    write(tmp_path / "log.sqlite", bundles, texts(20), keep_text=False)
    done = replay(
        bundles["better"].path,
        "--current",
        bundles["current"].path,
        "--store",
        tmp_path / "log.sqlite",
        "--rows",
        "all",
    )
    assert done.exit_code == 3
    assert "0 texts, trained on or not" in done.stdout
    assert "20 more were erased" in done.stdout


def test_older_texts_can_be_left_out(bundles, log):
    done = replay(
        bundles["worse"].path, "--current", bundles["current"].path, "--store", log, "--rows", "all", "--days", 0
    )
    assert done.exit_code == 3
    assert "0 texts" in done.stdout


@pytest.mark.parametrize(
    ("candidate", "current", "words"),
    [
        ("other labels", "current", ("differ in the labels", "technical")),
        ("other teacher", "current", ("learned from x@2", "no known teacher")),
        ("multi-label", "multi-label", ("multi-label bundles cannot be replayed",)),
        ("better", "worse", ("nothing of the bundle", "give the bundle that was served")),
    ],
)
def test_bundles_that_do_not_fit_the_log_are_refused(bundles, log, tmp_path, candidate, current, words):
    given = {
        **bundles,
        "other labels": build_bundle(tmp_path / "fewer", labels=("billing", "shipping", "account")),
        "other teacher": rewritten(bundles["better"], tmp_path / "other", teacher={"name": "x", "version": "2"}),
        "multi-label": build_bundle(tmp_path / "multi", multi_label=True),
    }
    done = replay(given[candidate].path, "--current", given[current].path, "--store", log)
    assert done.exit_code == 4
    assert all(word in done.stderr for word in words), done.stderr


def test_a_teacher_and_the_bundle_exported_from_it_are_one_teacher(bundles, log, tmp_path):
    origin = {"name": "local:large", "version": "7"}
    bundle = {"name": "bundle:large", "version": "1", "origin": origin}
    current = rewritten(bundles["current"], tmp_path / "current", teacher=origin)
    candidate = rewritten(bundles["better"], tmp_path / "candidate", teacher=bundle)
    store = tmp_path / "shadow.sqlite"
    write(store, {**bundles, "current": current}, texts(TEXTS))
    done = replay(candidate.path, "--current", current.path, "--store", store, "--rows", "all")
    assert done.exit_code == 0, done.output


def test_a_file_that_is_no_log_is_refused(bundles, tmp_path):
    (tmp_path / "text").write_text("no database")
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE t (x)")
    for path, word in (("missing", "no such file"), ("text", "not a database"), ("other", "no shadow outbox")):
        done = replay(bundles["better"].path, "--current", bundles["current"].path, "--store", tmp_path / path)
        assert done.exit_code == 4
        assert word in done.stderr
    done = replay(bundles["better"].path, "--current", bundles["current"].path)
    assert done.exit_code == 4
    assert "--store" in done.stderr
