"""A student's embedding is fitted to its teacher's first, and the student then learns from soft labels as usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distill.errors import DistillError
from distill.labelling.embeddings import Embeddings, embed_all
from distill.students.config import EmbeddingPhase
from distill.students.student import embed, predict
from distill.teachers import TeacherError
from distill.training import distil as distillation
from distill.training import embedding_phase, loop
from distill.training.checkpoint import Checkpoint
from distill.training.course import History
from distill.training.distil import build_student, distil
from distill.training.embedding_phase import fit_embedding
from tests.support.stub_teacher import StubTeacher

WIDTH = 24


@pytest.fixture(scope="module")
def embeddings(splits, labels) -> Embeddings:
    """Those of a teacher in whose embedding a text's gold label is a direction, beside some noise; far from 0."""
    generator = np.random.default_rng(0)
    directions = 10 * generator.normal(size=(len(labels), WIDTH))
    rows = [(name, gold) for split in splits[:2] for name, gold in zip(split.ids, split.gold, strict=True)]
    values = 50 + np.stack([directions[labels.index(gold)] for _, gold in rows])
    return Embeddings(
        tuple(name for name, _ in rows), (values + generator.normal(size=values.shape)).astype(np.float16)
    )


def with_phase(config: Any, **phase: Any) -> Any:
    given = config.optimisation.model_copy(update={"epochs": 2})
    return config.model_copy(
        update={"optimisation": given, "embedding_phase": EmbeddingPhase(**{"epochs": 3, **phase})}
    )


def test_the_embedding_comes_to_say_what_the_teachers_says(config, splits, labels, embeddings):
    learn, choose, _ = splits
    torch.manual_seed(0)
    student = build_student(config, labels, learn)
    module = student.network.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    rows, held = student.encode(learn.texts), student.encode(choose.texts)
    (rows, wanted), (held, held_wanted) = embeddings.known(learn, rows), embeddings.known(choose, held)

    def explained() -> float:
        """The share of the variance of the held-out embeddings that the best linear map of the student's explains."""
        inputs, held_inputs = (np.column_stack([embed(module, one), np.ones(len(one))]) for one in (rows, held))
        fitted = np.linalg.lstsq(inputs, wanted, rcond=None)[0]
        wrong = ((held_inputs @ fitted - held_wanted) ** 2).sum()
        return float(1 - wrong / ((held_wanted - wanted.mean(0)) ** 2).sum())

    begun = explained()
    history = fit_embedding(
        module, rows, wanted, held, held_wanted, EmbeddingPhase(epochs=4), config.optimisation, "training"
    )
    assert begun + 0.02 < explained() > 0.7
    assert max(history.scores) == pytest.approx(explained(), abs=0.1)
    after = module.state_dict()
    assert list(after) == list(before)  # the map is dropped
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert not [name for name in changed if name.startswith("head")]  # the embedding does not depend on it
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_the_phase_comes_before_the_soft_labels_and_is_recorded(config, splits, soft_for, embeddings):
    learn, choose, _ = splits
    soft = soft_for(learn, choose)
    phased = distil(with_phase(config), soft, learn, choose, "training", embeddings=embeddings).record
    alone = distil(with_phase(config).model_copy(update={"embedding_phase": None}), soft, learn, choose, "training")
    assert phased["epochs"] == 2
    assert len(phased["embedding_phase"]["losses"]) == len(phased["embedding_phase"]["explained"]) == 3
    assert phased["losses"] != alone.record["losses"]
    assert "embedding_phase" not in alone.record


def test_rows_without_an_embedding_are_left_to_the_soft_labels(
    static_config, splits, soft_for, embeddings, monkeypatch
):
    learn, choose, _ = splits
    given: list[int] = []

    def counted(module: Any, rows: list[list[int]], *more: Any) -> History:
        given.append(len(rows))
        return fit_embedding(module, rows, *more)

    monkeypatch.setattr(distillation, "fit_embedding", counted)
    fewer = Embeddings(embeddings.ids[20:], embeddings.values[20:])
    distil(with_phase(static_config, epochs=1), soft_for(learn, choose), learn, choose, "training", embeddings=fewer)
    assert given == [len(learn) - 20]
    none = Embeddings(("other",), embeddings.values[:1])
    for missing, said in ((None, "the teacher's embeddings are missing"), (none, "no row has an embedding")):
        with pytest.raises(DistillError, match=f"training words: embedding_phase: {said}"):
            distil(
                with_phase(static_config), soft_for(learn, choose), learn, choose, "training words", embeddings=missing
            )


@pytest.mark.parametrize(("phase", "epochs"), [(embedding_phase, 2), (distillation, 1)])
def test_a_training_that_was_stopped_in_either_phase_ends_as_if_it_had_not_been(
    static_config, splits, soft_for, embeddings, monkeypatch, tmp_path, phase, epochs
):
    learn, choose, _ = splits
    soft, config = soft_for(learn, choose), with_phase(static_config)
    expected = distil(config, soft, learn, choose, "training", embeddings=embeddings)
    checkpoint = Checkpoint(tmp_path / "state", "key")
    calls = 0

    def killed(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > epochs:
            raise KeyboardInterrupt
        return predict(*given, **named)

    monkeypatch.setattr(phase, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        distil(config, soft, learn, choose, "training", None, checkpoint, embeddings)
    monkeypatch.setattr(phase, "predict", predict)
    run = []
    usual = loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *given: run.append(1) or usual(*given))
    resumed = distil(config, soft, learn, choose, "training", None, checkpoint, embeddings)
    # of 3 epochs in the first phase and 2 in the second
    assert len(run) == ((3 - epochs) + 2 if phase is embedding_phase else 2 - epochs)
    assert resumed.record == expected.record
    ours, theirs = (one.student.network.module.state_dict() for one in (resumed, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_embeddings_come_back_from_disk(embeddings, tmp_path):
    embeddings.write(tmp_path / "embeddings.parquet")
    read = Embeddings.read(tmp_path / "embeddings.parquet")
    assert read.ids == embeddings.ids
    np.testing.assert_array_equal(read.values, embeddings.values)


def test_a_teacher_without_hidden_states_embeds_nothing(splits):
    with pytest.raises(TeacherError, match="embedding_phase: stub has no hidden states; leave it out"):
        embed_all(StubTeacher(), splits[0])
