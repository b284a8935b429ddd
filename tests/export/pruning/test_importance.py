"""The importance of a head or a neuron is how much the loss of a text changes with what it gives."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from distill.students.prunable import prunable_layers
from export.pruning.importance import importance

STEP = 1e-2


def loss(module, rows, chosen):
    """The cross-entropy with the chosen labels, by text."""
    with torch.inference_mode():
        logits = [module(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))[0][0].numpy() for row in rows]
    return np.array([-log_softmax(own.astype(float))[label] for own, label in zip(logits, chosen, strict=True)])


def scaled(module, layer, part, place, factor):
    """A copy of a module in which the output of a head (`behind_attention`) or of a neuron has a factor."""
    copy = deepcopy(module)
    own = prunable_layers(copy.encoder)[layer]
    product = getattr(own, part)
    size = product.in_features // own.heads if part == "behind_attention" else 1
    with torch.no_grad():
        product.weight[:, place * size : (place + 1) * size] *= factor
    return copy


def by_differences(module, layer, part, count, rows, chosen):
    """The mean absolute derivative of each text's loss by the factor, from two points, divided by the layer's norm."""
    found = []
    for place in range(count):
        more, less = (loss(scaled(module, layer, part, place, factor), rows, chosen) for factor in (1 + STEP, 1 - STEP))
        found.append(np.abs((more - less) / (2 * STEP)).mean())
    return np.array(found) / np.linalg.norm(found)


@pytest.fixture(scope="module")
def small(students, validation):
    """The module of the encoder student, token ids of texts of several lengths, and what it chooses for them."""
    student = students["encoder"]
    return student.network.module, student.encode(validation.texts[:6]), student.logits(validation.texts[:6]).argmax(1)


@pytest.mark.parametrize("layer", [0, 1])
def test_it_is_the_derivative_of_the_loss_of_each_text(small, layer):
    module, rows, chosen = small
    own = prunable_layers(module.encoder)
    found = importance(module, own, rows)[layer]
    heads = by_differences(module, layer, "behind_attention", own[layer].heads, rows, chosen)
    np.testing.assert_allclose(found.heads, heads, rtol=0.02)
    neurons = by_differences(module, layer, "behind_neurons", 8, rows, chosen)
    np.testing.assert_allclose(found.neurons[:8] / np.linalg.norm(found.neurons[:8]), neurons, rtol=0.02, atol=2e-3)


def test_what_is_read_nowhere_does_not_matter(small):
    module, rows, _ = small
    without = scaled(scaled(module, 1, "behind_attention", 0, 0.0), 1, "behind_neurons", 3, 0.0)
    found = importance(without, prunable_layers(without.encoder), rows)[1]
    assert found.heads[0] == found.neurons[3] == 0
    assert found.heads[1] > 0


def test_the_student_stays_as_it_is_and_progress_is_told(small):
    module, rows, _ = small
    before = {name: value.clone() for name, value in module.state_dict().items()}
    done = []
    importance(module, prunable_layers(module.encoder), rows, done.append)
    assert sum(done) == len(rows)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
