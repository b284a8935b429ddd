"""A local teacher learns from gold labels, is calibrated, and is loaded from wherever it lies in the task's order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from distill.data.splits import Examples, gold_classes
from distill.errors import DistillError
from distill.evaluation.calibration import one_hot
from distill.sections import FileSource, Optimisation
from distill.students.sequence_classifier import load_classifier
from distill.students.student import probabilities
from distill.teachers import TeacherError, create
from distill.teachers.local import LocalConfig, LocalTeacher
from distill.training.finetune import finetune

OPTIMISATION = Optimisation(epochs=8, batch_size=16, learning_rate=3e-3)
WRONG = 8  # every eighth gold label is, so that certainty would be a mistake


@pytest.fixture(scope="module")
def make_gold(make_split, labels):
    """`make_gold(count, seed)`: keyword rows, some of them labelled wrongly."""

    def make(count: int, seed: int) -> Examples:
        rows = make_split(Examples, count, seed)
        gold = [
            labels[(labels.index(label) + 1) % len(labels)] if row % WRONG == 0 else label
            for row, label in enumerate(rows.gold)
        ]
        return Examples(rows.ids, rows.texts, tuple(gold))

    return make


@pytest.fixture(scope="module")
def gold(make_gold) -> Examples:
    return make_gold(400, 21)


@pytest.fixture(scope="module")
def fitted(tiny_encoder, gold, labels):
    """A classifier fitted on gold labels, with the record of it."""
    return finetune(str(tiny_encoder), gold, labels, max_tokens=32, validation=0.2, optimisation=OPTIMISATION)


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory) -> Path:
    """Where it was saved."""
    path = tmp_path_factory.mktemp("teachers") / "fitted"
    fitted[0].save(path)
    return path


@pytest.fixture(scope="module")
def foreign(tiny_encoder, tmp_path_factory) -> Path:
    """A classifier that somebody else fine-tuned: a folder of transformers with names for its classes."""
    path = tmp_path_factory.mktemp("teachers") / "foreign"
    torch.manual_seed(5)
    names = {0: "technical", 1: "account", 2: "shipping", 3: "billing"}
    BertForSequenceClassification.from_pretrained(tiny_encoder, num_labels=4, id2label=names).save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(path)
    return path


def load(folder: Path, labels, **settings) -> LocalTeacher:
    return LocalTeacher.from_config(LocalConfig(model=str(folder), **settings), labels)


async def answers(teacher: LocalTeacher, texts) -> np.ndarray:
    return np.stack([answer.probabilities for answer in await teacher.ask(texts)])


# Fitting


def test_the_task_is_learned_from_gold_labels(fitted, splits, labels):
    teacher, record = fitted
    test = splits[2]
    assert (teacher.logits(test.texts).argmax(1) == gold_classes(test, labels)).mean() > 0.9
    assert record["validation_accuracy"] == pytest.approx(1 - 1 / WRONG, abs=0.1)
    assert record["losses"][-1] < record["losses"][0]
    assert (record["gold_rows"], record["temperature"]) == (400, teacher.temperature)
    assert record["validation_rows"] == pytest.approx(80, abs=4)


def test_the_temperature_is_fitted_on_held_out_gold(fitted, make_gold, labels):
    teacher, _ = fitted
    fresh = make_gold(400, 77)
    logits, truth = teacher.logits(fresh.texts), one_hot(gold_classes(fresh, labels), len(labels))

    def loss(temperature: float) -> float:
        return float(-(truth * np.log(probabilities(logits, temperature))).sum(1).mean())

    assert loss(teacher.temperature) < min(loss(teacher.temperature * factor) for factor in (0.5, 2))
    confidence = probabilities(logits, teacher.temperature).max(1).mean()
    assert confidence == pytest.approx((logits.argmax(1) == truth.argmax(1)).mean(), abs=0.05)


def test_a_seed_gives_the_same_teacher_whatever_was_drawn_before(tiny_encoder, gold, labels):
    short = OPTIMISATION.model_copy(update={"epochs": 1})
    states = []
    for seed in (0, 0, 1):
        torch.rand(len(states) + 1)
        optimisation = short.model_copy(update={"seed": seed})
        teacher, _ = finetune(str(tiny_encoder), gold, labels, max_tokens=32, validation=0.2, optimisation=optimisation)
        states.append(teacher.network.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((None, "billing", "account"), "every row needs a gold label; 1 of 3 have none, such as 1: label or remove"),
        ((None, None, None), "every row needs a gold label; name the column with `label`"),
        (("weather", "billing", "account"), r"gold labels \['weather'\] are not among the task's 4 labels"),
        (("shipping", "billing", "account"), "no row of 3 is held out to calibrate; raise `validation` or add rows"),
    ],
)
def test_gold_that_will_not_do_is_refused(tiny_encoder, labels, change, message):
    rows = Examples(("1", "2", "3"), ("parcel", "invoice", "login"), change)
    with pytest.raises(DistillError, match=rf"teacher\.fit.*{message}"):
        finetune(str(tiny_encoder), rows, labels, max_tokens=32, validation=0.01, optimisation=OPTIMISATION)


def test_a_classifier_for_other_labels_lends_its_encoder(foreign, gold, labels):
    rows = gold.take([row for row, label in enumerate(gold.gold) if label in labels[:2]])
    short = OPTIMISATION.model_copy(update={"epochs": 1})
    teacher, _ = finetune(str(foreign), rows, labels[:2], max_tokens=32, validation=0.2, optimisation=short)
    assert teacher.logits(rows.texts[:3]).shape == (3, 2)


# Loading what was fitted


async def test_a_fitted_teacher_answers_from_disk_as_it_did(fitted, folder, splits, labels):
    teacher = load(folder, labels)
    texts = splits[2].texts[:20]
    expected = probabilities(fitted[0].logits(texts), fitted[0].temperature)
    np.testing.assert_allclose(await answers(teacher, texts), expected, atol=1e-6)


async def test_labels_are_brought_into_the_tasks_order(folder, splits, labels):
    texts = splits[2].texts[:20]
    mine, reversed_ = load(folder, labels), load(folder, labels[::-1])
    assert reversed_.labels == labels[::-1]
    np.testing.assert_array_equal((await answers(mine, texts))[:, ::-1], await answers(reversed_, texts))


async def test_a_students_folder_reads_no_more_than_is_asked_nor_than_it_was_trained_to(folder, splits, labels):
    def teacher(max_tokens):
        return load(folder, labels, max_tokens=max_tokens)

    whole, longer, shorter = teacher(32), teacher(400), teacher(8)
    assert (longer.model.max_tokens, longer.version) == (32, whole.version)
    assert shorter.version != whole.version
    (answer,) = await shorter.ask([" ".join(splits[2].texts[:5])])
    assert answer.tokens == 8


async def test_an_answer_says_what_it_took(folder, labels):
    teacher = load(folder, labels, usd_per_hour=3600.0)
    short, long = await teacher.ask(["invoice", "invoice refund parcel"])
    assert (short.method, short.outcome) == ("local", "ok")
    assert (short.tokens, long.tokens) == (3, 5)  # with [CLS] and [SEP]
    assert short.seconds > 0
    assert short.cost_usd == pytest.approx(short.seconds)
    for answer in (short, long):
        assert answer.probabilities.dtype == np.float32
        assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)


async def test_batches_do_not_change_answers(folder, splits, labels):
    texts = splits[2].texts[:20]
    one, many = (load(folder, labels, batch_size=size) for size in (1, 32))
    assert (one.batch_size, many.batch_size, one.version) == (1, 32, many.version)
    np.testing.assert_allclose(await answers(one, texts), await answers(many, texts), atol=1e-5)


def test_other_weights_are_another_version(folder, tmp_path, labels):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = load(copy, labels).version
    assert first == load(folder, labels).version
    card = json.loads((copy / "student.json").read_text())
    (copy / "student.json").write_text(json.dumps({**card, "temperature": 9.0}))
    assert load(copy, labels).version != first


def test_a_configuration_with_fit_must_be_fitted_first(folder, labels, tmp_path):
    config = LocalConfig(model=str(folder), fit={"data": FileSource(path=tmp_path / "gold.csv")})
    with pytest.raises(TeacherError, match="must be fitted first: run `reflux label`"):
        create(config, labels)


@pytest.mark.parametrize("other", [("billing", "shipping"), ("billing", "shipping", "account", "weather")])
def test_other_labels_are_refused(folder, other):
    with pytest.raises(TeacherError, match="does not know the task's labels"):
        load(folder, other)


# Loading what somebody else fine-tuned


async def test_a_foreign_classifier_answers_by_its_own_names(foreign, labels, splits):
    texts = splits[2].texts[:10]
    teacher = load(foreign, labels, max_tokens=32)
    assert teacher.name == "local:foreign"
    student = load_classifier(str(foreign), 32)
    assert student.labels == ("technical", "account", "shipping", "billing")
    own = probabilities(student.logits(texts), 1.0)
    expected = own[:, [student.labels.index(label) for label in labels]]
    np.testing.assert_allclose(await answers(teacher, texts), expected, atol=1e-6)


def test_names_that_are_only_numbers_are_refused(tiny_encoder, labels):
    with pytest.raises(TeacherError, match=r"names no labels \(id2label\); set them, or give it a `fit`"):
        load(tiny_encoder, labels)


@pytest.mark.parametrize("change", ["names", "max_tokens"])
def test_what_changes_the_answers_of_a_foreign_classifier_changes_its_version(foreign, tmp_path, labels, change):
    copy = tmp_path / "copy"
    shutil.copytree(foreign, copy)
    before = load(copy, labels, max_tokens=32).version
    if change == "names":
        config = json.loads((copy / "config.json").read_text())
        config["id2label"]["0"], config["id2label"]["1"] = config["id2label"]["1"], config["id2label"]["0"]
        (copy / "config.json").write_text(json.dumps(config))
    max_tokens = 16 if change == "max_tokens" else 32
    assert load(copy, labels, max_tokens=max_tokens).version != before


def test_a_classifier_of_several_labels_a_text_is_known_and_refused_as_a_teacher(foreign, tmp_path, labels):
    assert not load_classifier(str(foreign), 32).multi_label
    shutil.copytree(foreign, tmp_path / "several")
    card = json.loads((foreign / "config.json").read_text())
    card["problem_type"] = "multi_label_classification"
    (tmp_path / "several" / "config.json").write_text(json.dumps(card))
    assert load_classifier(str(tmp_path / "several"), 32).multi_label
    with pytest.raises(TeacherError, match="gives a text several labels; a teacher must give it a distribution"):
        load(tmp_path / "several", labels)


async def test_a_text_without_tokens_is_invalid_and_changes_no_other(tiny_classifier, words):
    folder = tiny_classifier("gpt2", special=False)
    teacher = LocalTeacher.from_config(LocalConfig(model=str(folder)), tuple(words))
    (alone,) = await teacher.ask(["late parcel"])
    none, beside, more = await teacher.ask(["", "late parcel", "refund the invoice, please"])
    assert [answer.outcome for answer in (none, beside, more)] == ["invalid", "ok", "ok"]
    assert (none.probabilities, none.tokens) == (None, 0)
    np.testing.assert_allclose(beside.probabilities, alone.probabilities, atol=1e-5)
    assert [answer.outcome for answer in await teacher.ask([""])] == ["invalid"]


def test_texts_are_cut_at_the_positions_of_the_model(foreign):
    student = load_classifier(str(foreign), 500)
    assert student.max_tokens == 64
    assert student.logits(["invoice " * 500]).shape == (1, 4)


@pytest.mark.parametrize("damage", ["nothing there", "weights cut off"])
def test_a_model_that_cannot_be_loaded_is_refused(foreign, tmp_path, labels, damage):
    folder = tmp_path / "model"
    if damage == "weights cut off":
        shutil.copytree(foreign, folder)
        (folder / "model.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(TeacherError, match="cannot be loaded"):
        load(folder, labels)
