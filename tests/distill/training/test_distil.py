"""Every family learns what the teacher says, repeatably, and comes out calibrated to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from distill.data.splits import Train, Validation
from distill.errors import DataError, DistillError
from distill.training.distil import distil


def short(config, **optimisation):
    given = {"epochs": 1, **optimisation}
    return config.model_copy(update={"optimisation": config.optimisation.model_copy(update=given)})


def test_the_task_is_learned(trained, splits, labels):
    test = splits[2]
    chosen = trained.student.logits(test.texts).argmax(1)
    assert np.mean([labels[index] == gold for index, gold in zip(chosen, test.gold, strict=True)]) > 0.9


def test_the_record_says_what_happened(trained, soft_for, splits, config):
    record, choose = trained.record, splits[1]
    logits = trained.student.logits(choose.texts)
    agreement = float((logits.argmax(1) == soft_for(choose).hard).mean())
    assert record["validation_agreement"] == max(record["scores"]) == pytest.approx(agreement)
    assert record["epochs"] == len(record["losses"]) == len(record["scores"]) == config.optimisation.epochs
    assert record["scores"][record["best_epoch"]] == max(record["scores"])
    assert record["losses"][-1] < 0.5 * record["losses"][0]
    assert record["temperature"] == trained.student.temperature
    modules = trained.student.network.module
    assert record["parameters"] == sum(parameter.numel() for parameter in modules.parameters())


def test_an_overconfident_student_is_cooled_to_its_teacher(static_config, soft_for, splits):
    # Cross-entropy with the teacher's first choice teaches certainty, where the teacher is sure to 0.88 only.
    learn, choose, _ = splits
    loss = static_config.loss.model_copy(update={"hard": 1.0})
    config = static_config.model_copy(update={"loss": loss})
    student = distil(config, soft_for(learn, choose), learn, choose, "training").student
    logits, wanted = student.logits(choose.texts).astype(np.float64), soft_for(choose).probabilities

    def cross_entropy(temperature: float) -> float:
        return float(-(wanted * log_softmax(logits / temperature, axis=1)).sum(1).mean())

    found = student.temperature
    assert found > 1.2
    assert cross_entropy(found) <= min(cross_entropy(found * factor) for factor in (0.8, 0.98, 1.02, 1.25))


def test_a_seed_gives_the_same_weights_whatever_was_drawn_before(config, soft_for, splits):
    learn, choose, _ = splits
    students = []
    for seed in (0, 0, 1):
        torch.rand(len(students) + 1)
        students.append(distil(short(config, seed=seed), soft_for(learn, choose), learn, choose, "training").student)
    first, second, other = (student.network.module.state_dict() for student in students)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert students[0].temperature == students[1].temperature
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_labels_belong_to_their_rows_by_id(static_config, soft_for, splits):
    learn, choose, _ = splits
    config = short(static_config)
    expected = distil(config, soft_for(learn, choose), learn, choose, "training")
    shuffled = distil(config, soft_for(choose, learn), learn, choose, "training")
    assert shuffled.record == expected.record


def test_a_row_without_a_label_is_an_error(static_config, soft_for, splits):
    learn, choose, _ = splits
    with pytest.raises(DataError, match="no row 'train-319'"):
        distil(static_config, soft_for(learn.take(range(319)), choose), learn, choose, "training")


def test_a_split_without_rows_is_an_error(static_config, soft_for, splits):
    learn, choose, _ = splits
    soft = soft_for(learn, choose)
    with pytest.raises(DistillError, match="320 train and 0 choose; both need some"):
        distil(static_config, soft, learn, Validation((), (), ()), "training words")
    with pytest.raises(DistillError, match=r"training words: .* 0 train and 80 choose"):
        distil(static_config, soft, Train((), (), ()), choose, "training words")


def test_the_loss_of_the_task_is_the_one_that_is_minimised(static_config, soft_for, splits):
    learn, choose, _ = splits
    losses = set()
    for temperature, hard in ((2.0, 0.0), (4.0, 0.0), (2.0, 1.0)):
        loss = static_config.loss.model_copy(update={"temperature": temperature, "hard": hard})
        config = short(static_config).model_copy(update={"loss": loss})
        losses.add(distil(config, soft_for(learn, choose), learn, choose, "training").record["losses"])
    assert len(losses) == 3


def test_rows_of_no_weight_teach_nothing(static_config, soft_for, splits):
    learn, choose, _ = splits
    config = short(static_config, epochs=8)
    soft = soft_for(learn, choose)
    # The first half of the rows is labelled wrongly.
    half = len(learn) // 2
    wrong = soft.probabilities.copy()
    wrong[soft.rows_of(learn.ids[:half])] = np.roll(soft.probabilities[soft.rows_of(learn.ids[:half])], 1, axis=1)
    misled = replace(soft, probabilities=wrong)
    weights = np.repeat([0.0, 2.0], [half, len(learn) - half])
    plain, weighted = (distil(config, misled, learn, choose, "training", each).record for each in (None, weights))
    assert plain["validation_agreement"] < 0.8 < weighted["validation_agreement"]
