"""A pruned student lacks the heads and neurons that matter least, and is fitted to answer as the whole one does."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from distill.errors import DistillError
from distill.students.prunable import prunable_layers
from distill.task import Prune
from export.pruning.prune import kept_heads, kept_neurons, prune


def test_the_least_important_heads_go_whichever_layer_they_are_in():
    important = [np.array([0.9, 0.1, 0.2, 0.8]), np.array([0.7, 0.6, 0.5, 0.3])]
    assert kept_heads(important, 0.25) == [[0, 3], [0, 1, 2, 3]]
    assert kept_heads(important, 0.375) == [[0, 3], [0, 1, 2]]


def test_each_layer_keeps_its_most_important_head_and_neuron():
    assert kept_heads([np.array([0.1, 0.2]), np.array([0.9, 0.8])], 0.5) == [[1], [0]]
    assert kept_neurons(np.array([0.1, 0.3, 0.2]), 0.67) == [1]


@pytest.mark.parametrize(("share", "kept"), [(0.0, [0, 1, 2, 3]), (0.25, [0, 1, 3]), (0.5, [0, 3])])
def test_the_least_important_neurons_of_a_layer_go(share, kept):
    assert kept_neurons(np.array([0.4, 0.2, 0.1, 0.3]), share) == kept


@pytest.fixture(scope="module")
def pool(keyword_rows):
    """Texts that a student may have learned from."""
    return [text for text, _ in keyword_rows(96, 21)]


def test_each_of_what_is_wanted_becomes_a_student_and_the_whole_one_stays(students, pool, validation):
    whole = students["encoder"]
    before = {name: value.clone() for name, value in whole.network.module.state_dict().items()}
    wanted = [Prune(heads=0.25, epochs=0), Prune(feed_forward=0.125, epochs=0), Prune(heads=0.5, feed_forward=0.5)]
    found = prune(whole, wanted, pool, validation.texts, "small")
    assert [each.suffix for each in found] == ["-pruned-25-0", "-pruned-0-12.5", "-pruned-50-50"]
    facts = [each.as_dict() for each in found]
    assert sorted(facts[0]["kept"]["heads"]) == [1, 2]
    assert facts[0]["kept"]["neurons"] == facts[0]["whole"]["neurons"] == [64, 64]
    assert facts[1]["kept"] == {"heads": [2, 2], "neurons": [56, 56]}
    assert facts[2]["kept"] == {"heads": [1, 1], "neurons": [32, 32]}
    assert facts[2]["whole"] == {"heads": [2, 2], "neurons": [64, 64]}
    for each, fact in zip(found, facts, strict=True):
        layers = prunable_layers(each.student.network.module.encoder)
        assert [layer.heads for layer in layers] == fact["kept"]["heads"]
        assert fact["parameters"] == sum(own.numel() for own in each.student.network.module.parameters())
    assert facts[2]["parameters"] < facts[0]["parameters"] < sum(map(torch.numel, before.values()))
    after = whole.network.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_fitting_brings_its_answers_nearer_to_those_of_the_whole_one(students, pool, validation):
    whole, texts = students["encoder"], validation.texts
    rough, fitted = (
        prune(whole, [Prune(heads=0.5, feed_forward=0.5, epochs=epochs, learning_rate=1e-3)], pool, texts, "small")[0]
        for epochs in (0, 12)
    )
    expected = softmax(whole.logits(texts), axis=1)
    far, near = (np.abs(softmax(each.student.logits(texts), axis=1) - expected).mean() for each in (rough, fitted))
    assert near < 0.7 * far
    words = [each.student.network.module.tables()["words"].weight for each in (rough, fitted)]
    assert torch.equal(*words)


def test_what_matters_less_is_removed(students, pool, validation):
    """A head whose output is made small goes, and nearly nothing changes."""
    whole = deepcopy(students["encoder"])
    layer = prunable_layers(whole.network.module.encoder)[1]
    with torch.no_grad():
        layer.behind_attention.weight[:, :16] *= 1e-4
    (found,) = prune(whole, [Prune(heads=0.25, epochs=0)], pool, validation.texts, "small")
    assert found.as_dict()["kept"]["heads"] == [2, 1]
    np.testing.assert_allclose(found.student.logits(validation.texts), whole.logits(validation.texts), atol=1e-2)


@pytest.mark.parametrize("family", ["static", "ngrams", "sequence-classifier"])
def test_another_family_is_refused_by_name(students, family, validation):
    expected = rf"small: export\.prune: a student of the family {family} cannot be pruned, .* remove the key"
    with pytest.raises(DistillError, match=expected):
        prune(students[family], [Prune(heads=0.5)], ["a"], validation.texts, "small")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"heads": 0.1}, "heads: 0.1 of 4 is 0; the fewest to remove are 1, a share of 0.2"),
        (
            {"heads": 0.999},
            "heads: 0.999 of 4 is 4, but each layer keeps one; the most to remove are 2, a share of 0.5",
        ),
        ({"feed_forward": 0.007}, "feed_forward: 0.007 of 64 is 0; the fewest to remove are 1, a share of 0.02"),
        (
            {"feed_forward": 0.999},
            "feed_forward: 0.999 of 64 is 64, but each layer keeps one; the most to remove are 63, a share of 0.98",
        ),
    ],
)
def test_a_share_that_does_not_do_what_it_says_is_refused_with_the_nearest_that_does(students, pool, shares, message):
    """The student has 2 layers of 2 heads and 64 neurons each."""
    wanted = [Prune(heads=0.5, epochs=0), Prune(**shares, epochs=0)]
    with pytest.raises(DistillError, match=rf"^small: export\.prune: {re.escape(message)}$"):
        prune(students["encoder"], wanted, pool, ["a"], "small")
    key = next(iter(shares))
    nearest = Prune(**{key: float(message.rpartition(" ")[2])}, epochs=0)
    assert prune(students["encoder"], [nearest], pool, ["a"], "small")


def test_the_only_head_of_each_layer_cannot_go(students, pool):
    whole = students["encoder"]
    (single,) = prune(whole, [Prune(heads=0.5, epochs=0)], pool, ["a"], "small")
    expected = "small: export.prune: heads: 0.5 of 2 is 1, and each layer has and keeps one; leave out heads"
    with pytest.raises(DistillError, match=f"^{expected}$"):
        prune(single.student, [Prune(heads=0.5)], pool, ["a"], "small")


def test_another_architecture_and_missing_texts_are_refused_with_the_name_of_the_student(students, monkeypatch):
    whole = students["encoder"]
    with pytest.raises(DistillError, match=r"small: export\.prune: there are no training texts"):
        prune(whole, [Prune(heads=0.5)], [], ["a"], "small")
    other = replace(whole, network=deepcopy(whole.network))
    monkeypatch.setattr(other.network.module.encoder.config, "model_type", "mpnet", raising=False)
    with pytest.raises(DistillError, match=r"small: export\.prune: cannot prune a mpnet model"):
        prune(other, [Prune(heads=0.5)], ["a"], ["a"], "small")
