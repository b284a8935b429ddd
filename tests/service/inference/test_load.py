"""A bundle that does not behave here as where it was made is not served."""

import dataclasses
import shutil

import numpy as np
import pytest

from export.bundle.classifier import Classifier, InferenceError
from export.bundle.format import CARD, GOLDEN, MODEL, REFERENCE, TOKENIZER, BundleError, golden_jsonl, write_bundle
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.fit_drift import fit_drift
from service.errors import StartupError
from service.inference.autotune import Overrides
from service.inference.load import load
from tests.support.tiny_bundle import build_cascade, rewritten


def test_a_good_bundle_is_loaded(tiny_bundle):
    loaded = load(tiny_bundle.path)
    assert loaded.bundle == tiny_bundle
    assert loaded.stages[0].classifier.classify("invoice").tokens == 2


def test_the_memory_of_the_measurement_is_given_back_and_that_of_the_longest_text_allocated(tiny_bundle, monkeypatch):
    called = []
    for name in ("run", "shrink"):
        method = getattr(Classifier, name)

        def spy(classifier, *rows, name=name, method=method):
            called.append((name, [len(row.ids) for row in rows[0]] if rows else None))
            return method(classifier, *rows)

        monkeypatch.setattr(Classifier, name, spy)
    load(tiny_bundle.path)
    assert called[-2:] == [("shrink", None), ("run", [tiny_bundle.manifest.max_tokens])]


def test_a_bundle_like_one_loaded_before_takes_its_tuning_and_learns_for_itself(tiny_bundle, rewrite):
    before = load(tiny_bundle.path, Overrides(workers=1, batch_tokens=64))
    after = load(rewrite({CARD: b"# again"}), before=[before])
    (old,), (new,) = before.stages, after.stages
    assert new.tuning == old.tuning != load(tiny_bundle.path).stages[0].tuning
    assert new.classifier.tokenizer is old.classifier.tokenizer
    runs = old.tuning.cost.runs
    new.tuning.cost.learn(8, 0.001)
    assert old.tuning.cost.runs == runs


def test_the_tuning_is_taken_from_the_bundle_that_is_alike(tiny_bundle):
    like = load(tiny_bundle.path, Overrides(workers=1, batch_tokens=64))
    (stage,) = like.stages
    unlike = dataclasses.replace(stage, tuning=None, conditions=dataclasses.replace(stage.conditions, cpus=99))
    other = dataclasses.replace(like, stages=(unlike,))
    assert load(tiny_bundle.path, before=[other, like]).stages[0].tuning == stage.tuning


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tuning_of_several_threads_has_a_graph_of_its_own(tiny_bundle, monkeypatch, threads):
    before = load(tiny_bundle.path, Overrides(workers=1, threads=threads, batch_tokens=64))
    made = []
    read = Classifier.load

    def spy(bundle, **options):
        made.append(options["threads"])
        return read(bundle, **options)

    monkeypatch.setattr(Classifier, "load", spy)
    load(tiny_bundle.path, before=[before])
    assert made[-1] == threads


def test_another_tokenizer_is_read(tiny_bundle, rewrite):
    before = load(tiny_bundle.path)
    text = (tiny_bundle.path / TOKENIZER).read_text()
    after = load(rewrite({TOKENIZER: f"{text}\n".encode()}), before=[before])
    assert after.stages[0].classifier.tokenizer is not before.stages[0].classifier.tokenizer


def test_a_tokenizer_that_reads_further_is_another(tiny_bundle, tmp_path):
    before = load(tiny_bundle.path)
    contents = {name: tiny_bundle.path / name for name in (MODEL, TOKENIZER, REFERENCE, GOLDEN, CARD)}
    manifest = dataclasses.replace(tiny_bundle.manifest, max_tokens=tiny_bundle.manifest.max_tokens - 1)
    after = load(write_bundle(tmp_path / "shorter", contents, manifest).path, before=[before])
    assert after.stages[0].classifier.tokenizer.max_tokens == manifest.max_tokens


def test_a_changed_file_is_named(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    (copy / TOKENIZER).write_text("{}")
    with pytest.raises(StartupError, match=r"tokenizer\.json: does not match its hash"):
        load(copy)


def test_a_directory_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(StartupError, match=str(tmp_path)):
        load(tmp_path)


def test_a_bundle_that_answers_otherwise_here_is_refused(rewrite, golden):
    other = next(label for label in ("billing", "shipping") if label != golden.label)
    path = rewrite({GOLDEN: golden_jsonl([dataclasses.replace(golden, label=other)])})
    message = rf"golden row 1 of 1, '{golden.text}': this CPU answers '{golden.label}', expected '{other}'"
    with pytest.raises(StartupError, match=message):
        load(path)


def test_a_reference_of_input_drift_fits_the_embeddings_of_the_graph(tiny_bundle, rewrite):
    def refitted(width):
        answers = [
            each._replace(embedding=generator.normal(size=width).astype(np.float32))
            for each in [classifier.classify(row.text) for row in tiny_bundle.golden()] * 20
        ]
        drift = fit_drift(answers, reference, unknown=True)
        assert drift is not None
        return rewrite({REFERENCE: dataclasses.replace(reference, drift=drift).to_bytes()})

    generator = np.random.default_rng(0)
    classifier, reference = Classifier.load(tiny_bundle), Reference.open(tiny_bundle)
    load(refitted(8))
    for check, error in ((load, StartupError), (verify, BundleError)):
        with pytest.raises(error, match=r"reference\.npz: is for embeddings of 9 numbers, and the graph gives 8"):
            check(refitted(9))


def test_a_bundle_without_golden_rows_is_refused(rewrite):
    with pytest.raises(StartupError, match="no golden rows"):
        load(rewrite({GOLDEN: b""}))


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, REFERENCE, GOLDEN])
def test_a_sealed_file_that_cannot_be_read_is_named(rewrite, name):
    with pytest.raises(StartupError, match=name):
        load(rewrite({name: b"garbage"}))


def test_a_golden_text_that_the_graph_fails_on_is_refused(rewrite, golden):
    with pytest.raises(StartupError, match="export the bundle again"):
        load(rewrite({GOLDEN: golden_jsonl([dataclasses.replace(golden, text="poison")])}))


def test_a_graph_that_fails_on_the_longest_text_is_refused(tiny_bundle, monkeypatch):
    run = Classifier.run

    def fail(classifier, rows):
        if max(len(row.ids) for row in rows) > 30:
            raise InferenceError("the graph failed on 31 tokens")
        return run(classifier, rows)

    monkeypatch.setattr(Classifier, "run", fail)
    message = (
        f"{tiny_bundle.path}: max_tokens is 32, but on a text of that many the graph failed on 31 tokens; "
        "train it with max_tokens of 30 or less and export the bundle again"
    )
    with pytest.raises(StartupError, match=message):
        load(tiny_bundle.path)


def test_the_stages_of_a_cascade_share_a_tokenizer(tiny_bundle, tiny_teacher, tmp_path):
    other = rewritten(tiny_teacher, tmp_path / "other", role="student")
    cascade = build_cascade(tmp_path / "cascade", [tiny_bundle, other], [0.8])
    first, last = load(cascade.path, Overrides(workers=1, batch_tokens=64)).stages
    assert [one.bundle.manifest.name for one in (first, last)] == ["tiny", "tiny-teacher"]
    assert first.classifier.tokenizer is last.classifier.tokenizer


def test_the_earlier_stages_of_a_cascade_run_on_as_many_threads_as_the_last(tiny_bundle, tiny_teacher, tmp_path):
    shorter = rewritten(tiny_bundle, tmp_path / "shorter", max_tokens=16)
    other = rewritten(tiny_teacher, tmp_path / "other", role="student")
    cascade = build_cascade(tmp_path / "cascade", [shorter, other], [0.8])
    known = load(other.path, Overrides(workers=1, threads=2, batch_tokens=64))
    first, last = load(cascade.path, before=[known]).stages
    assert [one.tuning.threads for one in (first, last)] == [2, 2]
