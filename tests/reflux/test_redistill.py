"""`reflux redistill`, on a small task and on logs that a real outbox wrote."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from distill.errors import DistillError
from export.build_cascade import measure_stages
from export.bundle.anchors import read_anchors
from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.run import ExportRun
from reflux import pipeline
from reflux.cli import app
from reflux.exit_codes import GateResult
from reflux.pipeline import open_run
from reflux.redistill.judgement import judge
from reflux.redistill.rows import LogRows, weights_of
from reflux.replay import Replayed
from service.shadow.outbox.checks import AnchorAnswer
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.outbox.store import Outbox
from service.shadow.outbox.training_rows import TrainingLog
from service.shadow.shared.database import Database
from service.shadow.shared.outbox import SharedOutbox
from tests.support.shadow_log import fill, split_of
from tests.support.task_files import optimisation, static
from tests.support.tiny_bundle import NEUTRAL, WORDS, build_bundle, rewritten

TEXTS = 2400
KNOWN = 3
"""Words of each label that the task's own rows have; the traffic has all ten."""


def texts(count, seed, known=10):
    """Return different texts of two of the first `known` words of a label, among words that say nothing."""
    generator = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        words = WORDS[generator.choice(list(WORDS))][:known]
        given = [*generator.choice(words, size=2), *generator.choice(NEUTRAL, size=generator.integers(1, 6))]
        found[" ".join(generator.permutation(given))] = None
    return list(found)


ORIGIN = {"name": "local:large", "version": "7"}


@pytest.fixture(scope="module")
def tiny_teacher(tiny_teacher, tmp_path_factory):
    """The teacher as a bundle that was exported from ORIGIN."""
    return rewritten(tiny_teacher, tmp_path_factory.mktemp("teacher") / "exported", teacher=ORIGIN)


@pytest.fixture(scope="module")
def task(tmp_path_factory, tiny_encoder, tiny_teacher, write_csv):
    """A task whose own rows know a few words of each label."""
    folder = tmp_path_factory.mktemp("task")
    for name, count, seed in (("train", 300, 1), ("test", 120, 2)):
        write_csv(folder / f"{name}.csv", [(text,) for text in texts(count, seed, KNOWN)], ("text",))
    described = {
        "name": "keywords",
        "labels": sorted(WORDS),
        "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}, "validation": 0.2},
        "teacher": {"kind": "bundle", "path": str(tiny_teacher.path)},
        "students": {"small": static(tiny_encoder, 10)},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(described))
    return folder / "task.yaml"


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """The folder of the task's finished run, whose bundle is served."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    pipeline.run(task, folder, warn=lambda message: None)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, of the test alone."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def log(finished, tiny_teacher, tmp_path_factory):
    """A log of its traffic: texts of band 1 were sampled four times as often as those of band 0."""
    path = tmp_path_factory.mktemp("log") / "shadow.sqlite"
    sampled = {0: 0.2, 1: 0.8}
    fill(
        outbox(path, finished, tiny_teacher),
        Bundle.open(finished / "bundle"),
        tiny_teacher,
        texts(TEXTS, 3),
        place=lambda at: (band := int(at % 5 > 0), sampled[band]),
    )
    return path


def key_of(teacher):
    return f"bundle:{teacher.manifest.name}@{teacher.manifest.version}"


def outbox(path, run, teacher, **options):
    manifest = Bundle.open(run / "bundle").manifest
    return Outbox(path, bundle=manifest.version, labels=manifest.labels, teacher=key_of(teacher), **options)


def redistill(task, run, *arguments):
    return CliRunner().invoke(app, ["redistill", str(task), "--output", str(run), *map(str, arguments)])


def report_of(run):
    return json.loads((run / "redistill" / "report" / "redistill.json").read_text())


def test_a_candidate_learns_from_the_log_and_the_current_bundle_is_left_alone(task, run, log, tmp_path):
    before = {path: path.read_bytes() for path in (run / "bundle").iterdir()}
    done = redistill(task, run, "--store", log, "--push", tmp_path / "place")
    assert done.exit_code == 0, done.output
    assert "PASS: the candidate's gap less the current one is -" in done.stdout
    assert {path: path.read_bytes() for path in (run / "bundle").iterdir()} == before

    candidate = Bundle.open(run / "redistill" / "bundles" / "small")
    traffic = [text for text in texts(TEXTS, 3) if split_of(text) == "eval"]
    agreement = [agree(bundle, traffic) for bundle in (Bundle.open(run / "bundle"), candidate)]
    assert agreement[0] < 0.8 < 0.9 < agreement[1]
    told = report_of(run)
    assert told["candidate"]["version"] == candidate.manifest.version
    assert told["log"]["found"]["difference"] < -0.1
    assert told["log"]["texts"] == told["rows"]["held_out"] == len(traffic)
    assert told["test"] == {"texts": 120, "found": told["test"]["found"]}
    rows = told["rows"]
    assert rows["new"] == TEXTS
    assert rows["answers"] + rows["held_out"] + rows["duplicates"] == TEXTS
    assert [round(band["share"], 1) for band in rows["bands"]] == [0.5, 0.5]
    assert [round(band["answers"] / rows["answers"], 1) for band in rows["bands"]] == [0.2, 0.8]

    pushed = CliRunner().invoke(app, ["pull", str(tmp_path / "place"), str(tmp_path / "pulled")])
    assert pushed.exit_code == 0
    assert Bundle.open(tmp_path / "pulled").manifest.version == candidate.manifest.version
    assert pushed.stdout.strip() in done.stdout

    markdown = (run / "redistill" / "report" / "redistill.md").read_text()
    assert not any(text in markdown + json.dumps(told) for text in texts(TEXTS, 3))
    again = redistill(task, run, "--store", log)
    assert again.exit_code == 0
    assert again.stdout.startswith("nothing to do: 0 new texts were answered since 20")


def agree(bundle, given):
    """Return how often a bundle puts the label first that the words of a text speak for, as the teacher hears them."""
    heard = {word: label for label, words in WORDS.items() for word in words}
    found = [bundle.manifest.labels[at] for at in Classifier.load(bundle).probabilities(given).argmax(axis=1)]
    plain = [
        (text, label) for text, label in zip(given, found, strict=True) if not {"refund", "late"} & {*text.split()}
    ]
    return np.mean([label in {heard[word] for word in text.split() if word in heard} for text, label in plain])


def test_a_candidate_that_is_worse_fails_and_is_not_pushed(task, run, log, tiny_teacher, tmp_path):
    learned = {"name": "bundle:tiny-teacher", "version": tiny_teacher.manifest.version}
    labels = Bundle.open(run / "bundle").manifest.labels
    flips = {"refund": "shipping", "late": "technical"}
    best = rewritten(
        build_bundle(tmp_path / "as-teacher", name="small", labels=labels, flip=flips),
        tmp_path / "best",
        teacher=learned,
    )
    path = tmp_path / "log.sqlite"
    served = Outbox(path, bundle=best.manifest.version, labels=labels, teacher=key_of(tiny_teacher))
    fill(served, best, tiny_teacher, texts(TEXTS, 3))
    described = yaml.safe_load(task.read_text())
    described["students"]["small"]["optimisation"] = {"epochs": 1, "learning_rate": 1e-6}
    hasty = task.with_name("hasty.yaml")
    hasty.write_text(yaml.safe_dump(described))
    done = redistill(hasty, run, "--store", path, "--current", best.path, "--push", tmp_path / "place")
    assert done.exit_code == 2, done.output
    assert done.stdout.startswith("FAIL: ")
    assert not (tmp_path / "place").exists()


def test_texts_of_the_log_are_trained_on_by_their_weight_and_rows_of_the_task_by_one(task, run, log, monkeypatch):
    def stop(config, soft, learn, choose, description, weights, *_):
        seen.append((soft, learn, choose, weights))
        raise DistillError("stopped here")

    seen = []
    monkeypatch.setattr("distill.training.distil.distil", stop)
    assert redistill(task, run, "--store", log).exit_code == 4
    ((soft, learn, choose, weights),) = seen
    of_log = np.array([name.startswith("shadow-log:") for name in learn.ids])
    assert 0 < of_log.sum() < len(learn)
    np.testing.assert_array_equal(weights[~of_log], 1.0)
    assert weights[of_log].mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights[of_log], 1.0)  # bands differ in their propensities, and these do not change
    assert not any(name.startswith("shadow-log:") for name in choose.ids)
    given = soft.probabilities[soft.rows_of(learn.ids)]
    assert given.shape == (len(learn), 4)
    np.testing.assert_allclose(given.sum(axis=1), 1.0, rtol=1e-5)


def test_texts_that_are_held_out_are_never_trained_on(task, run, tiny_teacher, tmp_path, monkeypatch):
    def stop(config, soft, learn, choose, description, weights, *_):
        seen.append(learn)
        raise DistillError("stopped here")

    seen = []
    monkeypatch.setattr("distill.training.distil.distil", stop)
    test = texts(120, 2, KNOWN)[:20]  # of the task
    given = texts(100, 5)
    key, path = iter(range(len(given))), tmp_path / "log.sqlite"
    fill(outbox(path, run, tiny_teacher), Bundle.open(run / "bundle"), tiny_teacher, test, split=lambda _: "train")
    for split in (split_of, lambda text: "eval" if next(key) % 2 else "train"):  # as if shadow.split_key had changed
        fill(outbox(path, run, tiny_teacher), Bundle.open(run / "bundle"), tiny_teacher, given, split=split)
    assert redistill(task, run, "--store", path, "--min-rows", 1).exit_code == 4
    taken = [text for name, text in zip(seen[0].ids, seen[0].texts, strict=True) if name.startswith("shadow-log:")]
    expected = {text for at, text in enumerate(given) if split_of(text) == "train" and at % 2 == 0}
    assert 30 < len(taken) == len(set(taken)) <= len(expected)
    assert set(taken) <= expected - set(test)


def test_with_fewer_than_200_held_out_texts_nothing_is_certain_and_no_text_is_kept(task, run, tiny_teacher, tmp_path):
    path, given = tmp_path / "log.sqlite", texts(100, 5)
    fill(outbox(path, run, tiny_teacher), Bundle.open(run / "bundle"), tiny_teacher, given)
    before = {file for file in run.rglob("*") if file.is_file()}
    done = redistill(task, run, "--store", path, "--min-rows", 1)
    assert done.exit_code == 3, done.output
    assert "texts that are never trained on are too few to decide; wait for 200\n" in done.stdout
    assert "--rows" not in done.stdout + (run / "redistill" / "report" / "redistill.md").read_text()
    written = [file for file in run.rglob("*") if file.is_file() and file not in before]
    assert len(written) > 10
    own = "".join((task.parent / f"{name}.csv").read_text() for name in ("train", "test"))
    log_alone = [text.encode() for text in given if text not in own]
    assert len(log_alone) > 50
    assert not [file for file in written if any(text in file.read_bytes() for text in log_alone)]


@pytest.fixture(scope="module")
def cascaded(task, tmp_path_factory, tiny_encoder, tiny_teacher):
    """A task with two students, its finished run, the cascade of them, which is served, and its log."""
    described = yaml.safe_load(task.read_text())
    described["students"] = {"small": static(tiny_encoder, 4), "large": static(tiny_encoder, 6)}
    described["cascade"] = {"build": False}
    two, folder = task.with_name("two.yaml"), tmp_path_factory.mktemp("cascaded")
    two.write_text(yaml.safe_dump(described))
    pipeline.run(two, folder / "run", warn=lambda message: None)
    stages = ["small", "large"]
    cascade, _ = ExportRun(open_run(two, folder / "run")).cascades.make(stages, folder / "served", margin=0.3)
    manifest = cascade.manifest
    log = Outbox(folder / "log.sqlite", bundle=manifest.version, labels=manifest.labels, teacher=key_of(tiny_teacher))
    fill(log, cascade, tiny_teacher, texts(100, 5))
    return two, folder


def redistill_cascade(cascaded, *arguments):
    task, folder = cascaded
    given = ("--store", folder / "log.sqlite", "--current", folder / "served", "--min-rows", 1, *arguments)
    shutil.rmtree(folder / "run" / "redistill", ignore_errors=True)
    return redistill(task, folder / "run", *given)


def test_where_a_cascade_is_served_its_stages_are_trained_anew_and_a_cascade_is_the_candidate(cascaded):
    done = redistill_cascade(cascaded)
    assert done.exit_code == 3, done.output
    run = cascaded[1] / "run"
    candidate, served = Bundle.open(run / "redistill" / "cascade"), Bundle.open(cascaded[1] / "served")
    assert f"candidate: {candidate.path}, version {candidate.manifest.version}" in done.stdout.replace("\n", "")
    assert candidate.manifest.name == "small+large"
    assert candidate.manifest.measured["margin"] == served.manifest.measured["margin"] == 0.3
    versions = [{stage.version for stage in bundle.manifest.stages} for bundle in (candidate, served)]
    assert len(versions[0] | versions[1]) == 4
    told = report_of(run)
    assert told["students"] == ["small", "large"]
    assert told["current"] == served.manifest.version
    assert told["candidate"]["version"] == candidate.manifest.version


def test_where_a_cascade_defers_so_does_the_candidate(cascaded, tiny_teacher, tmp_path):
    task, folder = cascaded
    exported = ExportRun(open_run(task, folder / "run"))
    served, _ = exported.cascades.make(["small", "large"], tmp_path / "served", defer=0.9)
    manifest, key = served.manifest, key_of(tiny_teacher)
    log = Outbox(tmp_path / "log.sqlite", bundle=manifest.version, labels=manifest.labels, teacher=key)
    fill(log, served, tiny_teacher, texts(100, 5))
    shutil.rmtree(folder / "run" / "redistill", ignore_errors=True)
    given = ("--store", tmp_path / "log.sqlite", "--current", served.path, "--min-rows", 1)
    done = redistill(task, folder / "run", *given)
    assert done.exit_code in (2, 3), done.output  # how it is judged is another matter
    candidate = Bundle.open(folder / "run" / "redistill" / "cascade").manifest
    assert candidate.name == "small+large+teacher"
    assert candidate.answering == ("0-small", "1-large", "teacher")
    assert candidate.measured["margin"] == manifest.measured["margin"] == pytest.approx(0.1)


def test_a_stage_that_is_no_student_of_the_task_is_kept(cascaded):
    task, folder = cascaded
    described = yaml.safe_load(task.read_text())
    del described["students"]["small"]
    without = task.with_name("without.yaml")
    without.write_text(yaml.safe_dump(described))
    done = redistill_cascade((without, folder))
    assert done.exit_code == 3, done.output
    served, candidate = Bundle.open(folder / "served"), Bundle.open(folder / "run" / "redistill" / "cascade")
    kept, anew = [
        before.version == after.version
        for before, after in zip(served.manifest.stages, candidate.manifest.stages, strict=True)
    ]
    assert kept
    assert not anew


def test_where_no_cut_off_can_be_certified_the_last_stage_alone_is_the_candidate(cascaded, monkeypatch):
    monkeypatch.setattr(
        "export.cascades.measure_stages", lambda stages, baseline, **_: measure_stages(stages, baseline)
    )
    done = redistill_cascade(cascaded)  # so few validation rows certify none of the default margins
    assert done.exit_code == 3, done.output
    assert "note: the candidate is large alone, since no cascade small+large can be made" in " ".join(
        done.stdout.split()
    )
    told = report_of(cascaded[1] / "run")
    assert told["candidate"]["name"] == "large"
    assert "no cascade small+large" in told["candidate"]["note"]


def test_one_student_of_a_cascade_may_be_trained_alone(cascaded):
    done = redistill_cascade(cascaded, "--student", "small")
    assert done.exit_code == 3, done.output
    assert report_of(cascaded[1] / "run")["students"] == ["small"]
    done = redistill_cascade(cascaded, "--student", "small+large")
    assert done.exit_code == 4
    assert "is no student of the task, which has large, small" in done.stderr


def test_a_candidate_about_which_nothing_is_certain_does_not_use_up_the_rows(task, run, tiny_teacher, tmp_path):
    path, served = tmp_path / "log.sqlite", Bundle.open(run / "bundle")
    fill(outbox(path, run, tiny_teacher), served, tiny_teacher, texts(100, 5), ago=60)
    given = ("--store", path, "--min-rows", 100)
    assert redistill(task, run, *given).exit_code == 3
    again = redistill(task, run, *given)  # not trained on the same rows for nothing
    assert again.exit_code == 0
    assert "nothing to do: no text was answered since the last candidate" in again.stdout
    fill(outbox(path, run, tiny_teacher), served, tiny_teacher, texts(10, 6))
    assert "nothing to do: 110 new texts were answered, and" in redistill(task, run, *given[:2]).stdout
    candidate = Bundle.open(run / "redistill" / "bundles" / "small")  # a canary has promoted it
    version, labels = candidate.manifest.version, candidate.manifest.labels
    of_it = Outbox(path, bundle=version, labels=labels, teacher=key_of(tiny_teacher))
    fill(of_it, candidate, tiny_teacher, texts(5, 7))
    done = redistill(task, run, *given, "--current", candidate.path)
    assert "nothing to do: 15 new texts were answered since" in done.stdout.replace("\n", " "), done.output


@pytest.mark.parametrize("given", [("--push", "place"), ()])
def test_a_key_that_cannot_sign_is_found_before_the_training(task, run, log, tmp_path, given):
    done = redistill(task, run, "--store", log, *given, "--sign-key", tmp_path / "missing")
    assert done.exit_code == 4
    assert ("No such file" if given else "nothing is signed without --push") in done.stderr.replace("\n", " ")
    assert not (run / "redistill").exists()


def test_another_variant_of_the_graph_is_told_with_its_reason(task, run, tiny_teacher, tmp_path):
    measured = {**Bundle.open(run / "bundle").manifest.measured, "bytes": 12_000, "milliseconds": 0.25}
    served = rewritten(Bundle.open(run / "bundle"), tmp_path / "served", variant="int8", measured=measured)
    path, manifest = tmp_path / "log.sqlite", served.manifest
    small = Outbox(path, bundle=manifest.version, labels=manifest.labels, teacher=key_of(tiny_teacher))
    fill(small, served, tiny_teacher, texts(40, 5))
    done = redistill(task, run, "--store", path, "--current", served.path, "--min-rows", 1)
    assert done.exit_code == 3, done.output
    candidate = Bundle.open(run / "redistill" / "bundles" / "small").manifest
    assert candidate.variant != "int8"
    told = (
        f"raph of the candidate: {candidate.variant}, {candidate.measured['bytes'] / 1e6:.1f} MB, "
        f"{candidate.measured['milliseconds']:.2f} ms per text; of the current bundle: int8, 0.0 MB, 0.25 ms per text. "
        f"The variants differ (small: {candidate.measured['reason']})"
    )
    assert told in done.stdout.replace("\n", " ")
    assert told in (run / "redistill" / "report" / "redistill.md").read_text()
    graphs = report_of(run)["graphs"]
    assert (graphs["current"]["variant"], graphs["current"]["bytes"]) == ("int8", 12_000)
    assert graphs["candidate"]["variant"] == candidate.variant


def test_a_fine_tuned_teacher_is_known_by_its_exported_bundle(task, tmp_path, tiny_encoder, write_csv, keyword_rows):
    write_csv(task.parent / "gold.csv", keyword_rows(60, 8))
    fit = {"data": {"path": "gold.csv", "label": "label"}, "validation": 0.2, "optimisation": optimisation(1, 3e-3)}
    described = yaml.safe_load(task.read_text())
    described["teacher"] = {"kind": "local", "model": str(tiny_encoder), "max_tokens": 32, "fit": fit}
    described["students"] = {"small": static(tiny_encoder, 1)}
    fitted = task.with_name("fitted.yaml")
    fitted.write_text(yaml.safe_dump(described))
    folder = tmp_path / "run"
    pipeline.run(fitted, folder, warn=lambda message: None)
    teacher, path = Bundle.open(folder / "bundles" / "teacher"), tmp_path / "log.sqlite"
    fill(outbox(path, folder, teacher), Bundle.open(folder / "bundle"), teacher, texts(30, 5))
    done = redistill(fitted, folder, "--store", path)
    assert (done.exit_code, done.stdout[:29]) == (0, "nothing to do: 30 new texts w"), done.output


def test_answers_of_the_teacher_that_the_bundle_was_exported_from_are_taken(task, run, tiny_teacher, tmp_path):
    bundle, path = Bundle.open(run / "bundle"), tmp_path / "log.sqlite"
    assert bundle.manifest.teacher["origin"] == ORIGIN
    manifest = bundle.manifest
    outbox = Outbox(path, bundle=manifest.version, labels=manifest.labels, teacher="local:large@7")
    fill(outbox, bundle, tiny_teacher, texts(30, 5))
    done = redistill(task, run, "--store", path)
    assert (done.exit_code, done.stdout[:29]) == (0, "nothing to do: 30 new texts w"), done.output


@pytest.mark.parametrize("keep", [True, False])
def test_too_few_new_texts_are_nothing_to_do(task, run, tiny_teacher, tmp_path, keep):
    path, leftover = tmp_path / "log.sqlite", run / "redistill" / "rows"
    leftover.mkdir(parents=True)
    (leftover / "rows.parquet").write_text("what somebody wrote")
    fill(outbox(path, run, tiny_teacher, keep_text=keep), Bundle.open(run / "bundle"), tiny_teacher, texts(20, 5))
    done = redistill(task, run, "--store", path)
    assert done.exit_code == 0
    told = "20 new texts" if keep else "0 new texts"
    assert f"nothing to do: {told} were answered, and --min-rows is 2000" in done.stdout
    assert ("20 more are erased, as REFLUX_SHADOW__STORE_TEXT is off" in done.stdout) is not keep
    assert not (run / "redistill" / "rows").exists()


def test_the_log_may_be_in_a_database(task, run, tiny_teacher, shared_store):
    manifest = Bundle.open(run / "bundle").manifest
    learned = ("bundle:tiny-teacher", tiny_teacher.manifest.version)
    shared = SharedOutbox(
        Database(shared_store.url),
        bundle=manifest.version,
        labels=manifest.labels,
        teacher=TeacherIdentity(*learned, learned),
        keep_text=True,
        lease_seconds=60.0,
        most_pending=1000,
    )
    fill(shared, Bundle.open(run / "bundle"), tiny_teacher, texts(30, 5))
    done = redistill(task, run, "--database", shared_store.url)
    assert (done.exit_code, done.stdout[:29]) == (0, "nothing to do: 30 new texts w"), done.output


def test_nothing_is_learned_from_a_teacher_that_drifts(task, run, tiny_teacher, tmp_path):
    path = tmp_path / "log.sqlite"
    bundle = Bundle.open(run / "bundle")
    fill(outbox(path, run, tiny_teacher), bundle, tiny_teacher, texts(30, 5))
    given = ("--store", path, "--min-rows", 1)
    watched = outbox(path, run, tiny_teacher)
    watched.open()
    anchors = read_anchors(bundle)
    for at, anchor in enumerate(anchors[: len(anchors) // 2]):
        other = (bundle.manifest.labels.index(anchor.label) + 1) % 4
        for _ in range(6):
            watched.add_anchor(AnchorAnswer(at, time.time(), other, "local", 0.0, None, None))
    watched.close()
    done = redistill(task, run, *given)
    assert done.exit_code == 5, done.output
    assert "nothing is learned from a teacher that drifts" in done.stderr
    assert not (run / "redistill" / "rows").exists()


def test_answers_of_another_version_of_the_teacher_are_not_taken(task, run, tiny_teacher, tmp_path):
    path, bundle = tmp_path / "log.sqlite", Bundle.open(run / "bundle")
    manifest, given = bundle.manifest, texts(60, 5)
    other = Outbox(path, bundle=manifest.version, labels=manifest.labels, teacher="bundle:tiny-teacher@before")
    fill(other, bundle, tiny_teacher, given[:40])
    done = redistill(task, run, "--store", path, "--min-rows", 1)
    assert done.exit_code == 5, done.output
    assert "the log is answered by bundle:tiny-teacher@before, but the task's labels are of" in done.stderr
    fill(outbox(path, run, tiny_teacher), bundle, tiny_teacher, given[40:])
    done = redistill(task, run, "--store", path)
    assert done.exit_code == 0
    assert "nothing to do: 20 new texts" in done.stdout
    assert "40 are of other teachers or labels" in done.stdout


def test_a_redistillation_that_is_killed_goes_on_with_the_rows_that_it_took(task, run, log, tiny_teacher, tmp_path):
    grown = shutil.copy(log, tmp_path / "log.sqlite")
    before = {path: path.read_bytes() for path in (run / "bundle").iterdir()}
    command = [sys.executable, "-m", "reflux", "redistill", str(task), "--output", str(run), "--store", str(grown)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        while not (run / "redistill" / "rows" / "stage.json").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "redistill" / "report").exists()
    assert (run / "redistill" / "rows" / "rows.parquet").stat().st_mode & 0o077 == 0
    assert {path: path.read_bytes() for path in (run / "bundle").iterdir()} == before
    fill(outbox(grown, run, tiny_teacher), Bundle.open(run / "bundle"), tiny_teacher, texts(100, 6))
    done = redistill(task, run, "--store", grown, "--min-rows", 5000)
    assert done.exit_code == 0, done.output
    assert "PASS: " in done.stdout
    assert report_of(run)["rows"]["new"] == TEXTS
    assert "nothing to do: 100 new texts" in redistill(task, run, "--store", grown).stdout


def test_a_candidate_that_lost_what_the_task_is_about_fails_whatever_the_log_says(
    task, finished, tiny_teacher, tmp_path
):
    words = {word: "billing" for label in ("shipping", "account") for word in WORDS[label]}
    lost = build_bundle(tmp_path / "lost", labels=sorted(WORDS), flip=words)
    passed = Replayed(GateResult.PASS, "", 0.003, "eval", 300, 0, 1.0, "t", "c", "d", None)
    run = open_run(task, finished)
    assert judge(run, lost, Bundle.open(finished / "bundle"), passed).gate is GateResult.FAIL
    assert judge(run, tiny_teacher, Bundle.open(finished / "bundle"), passed).gate is GateResult.PASS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the log"),
        (("--store", "nowhere.sqlite"), "no such file"),
        (("--store", "a.sqlite", "--database", "postgresql://reflux@h/reflux"), "there are two logs"),
        (("--store", "nowhere.sqlite", "--push", "oci://r/Bundle"), "no address in a registry"),
        (("--student", "large"), "--student large is no student of the task, which has small"),
        (("--current", "nowhere"), "nowhere"),
        (("--min-rows", "0"), "--min-rows"),
    ],
)
def test_what_does_not_fit_is_said(task, run, arguments, words):
    done = redistill(task, run, *arguments)
    assert done.exit_code == 4
    assert words in done.stderr


def test_a_bundle_that_is_not_of_this_run_is_refused(task, run, log, tmp_path):
    other = rewritten(Bundle.open(run / "bundle"), tmp_path / "other", teacher={"name": "x", "version": "2"})
    done = redistill(task, run, "--store", log, "--current", other.path)
    assert done.exit_code == 4
    assert "learned from x@2, but the labels of" in done.stderr


def test_a_run_that_is_not_made_names_the_verb(task, tmp_path, finished):
    done = redistill(task, tmp_path / "none", "--store", tmp_path / "log", "--current", finished / "bundle")
    assert done.exit_code == 4
    assert "`reflux run`" in done.stderr


def test_within_a_band_an_answer_counts_the_inverse_of_its_propensity_and_equal_texts_are_one_row():
    log = TrainingLog(
        texts=["a", "b <EMAIL>", "a", "c", "d"],
        answers=np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 1], [0, 1]], dtype=np.float32),
        band=np.array([0, 1, 0, 1, 0]),
        propensity=np.array([0.1, 0.5, 0.2, 0.5, 0.2]),
        agreed=np.array([True, False, True, True, True]),
        answered=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        held_out=np.array([6.0]),
        erased=0,
        others=0,
    )
    rows = LogRows.of(log, np.array([False, False, False, True, False]), 2.5)
    assert rows.texts == ("a", "b <EMAIL>", "d")
    np.testing.assert_allclose(rows.answers, [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    # Of 10, 5 and 5 in band 0 the mean is 20 / 3; what is alone in its band counts 1.
    np.testing.assert_allclose(rows.weights, np.array([2.25, 1.0, 0.75]) / (4 / 3))
    facts = rows.facts
    assert (facts.answers, facts.texts, facts.redacted, facts.new, facts.duplicates) == (4, 3, 1, 4, 1)
    assert [(band.band, band.answers, band.disagreed) for band in facts.bands] == [(0, 3, 0), (1, 1, 1)]
    assert facts.bands[0].share == pytest.approx(20 / 22)


def test_weights_have_a_mean_of_one_and_are_cut_where_one_text_outweighs_the_others():
    even = weights_of(np.full(7, 50.0))
    np.testing.assert_allclose(even, 1.0)
    skewed = weights_of(np.array([1.0] * 99 + [10_000.0]))
    assert skewed.mean() == pytest.approx(1.0)
    assert skewed.max() / skewed.min() == pytest.approx(10 * 100.99)
