"""Every trained parameter is in one group, with the rate of its layer, and only matrices decay."""

from __future__ import annotations

import pytest
from torch import nn

from distill.sections import Optimisation
from distill.students.encoder import build as build_encoder
from distill.students.static import build as build_static
from distill.training.parameter_groups import parameter_groups

LABELS = ("a", "b")


@pytest.fixture(scope="module")
def encoder(encoder_config) -> nn.Module:
    return build_encoder(encoder_config, LABELS).network.module


def rates(module: nn.Module, **optimisation: float) -> dict[str, float]:
    """The learning rate of each parameter, by name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, Optimisation(learning_rate=1.0, **optimisation))
    found = [(names[id(parameter)], group["lr"]) for group in groups for parameter in group["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_each_layer_learns_slower_than_the_one_above_it(encoder):
    expected = {"encoder.embeddings": 0.125, "encoder.encoder.layer.0": 0.25, "encoder.encoder.layer.1": 0.5, "head": 1}
    found = rates(encoder, layer_decay=0.5)
    assert set(found) == {name for name, _ in encoder.named_parameters()}
    for name, rate in found.items():
        assert rate == next(value for start, value in expected.items() if name.startswith(start))


def test_a_static_student_learns_its_embeddings_the_slowest(static_config):
    found = rates(build_static(static_config, LABELS, ["a text"]).network.module, layer_decay=0.5)
    assert (found["words.weight"], found["importance.weight"]) == (0.25, 0.25)
    assert (found["hidden.weight"], found["norm.bias"], found["head.bias"]) == (0.5, 0.5, 1.0)


def test_without_decay_all_learn_alike_and_in_two_groups(encoder):
    assert set(rates(encoder).values()) == {1.0}
    assert [group["weight_decay"] for group in parameter_groups(encoder, Optimisation(weight_decay=0.3))] in (
        [0.3, 0.0],
        [0.0, 0.3],
    )


def test_what_is_frozen_is_in_no_group(encoder_config):
    module = build_encoder(encoder_config, LABELS).network.module
    module.tables()["words"].weight.requires_grad_(False)
    found = rates(module, layer_decay=0.9)
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert frozen.isdisjoint(found)
