"""The average of weights is the one by hand: plain at first, then over about as many steps as it should."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.training.averaging import Average


def averages(steps: float, weights: list[float]) -> list[float]:
    module = nn.Linear(1, 1, bias=False)
    average, seen = Average(module, steps), []
    for weight in weights:
        with torch.no_grad():
            module.weight.fill_(weight)
        average.update()
        seen.append(float(average.state_dict()["module.weight"]))
    assert module.weight.item() == weights[-1]
    return seen


def test_it_is_the_mean_of_all_steps_while_there_are_few():
    assert averages(4, [1.0, 3.0, 5.0, 7.0]) == pytest.approx([1, 2, 3, 4])


def test_then_each_step_counts_as_one_of_so_many():
    assert averages(2, [0.0, 0.0, 8.0, 0.0, 8.0]) == pytest.approx([0, 0, 4, 2, 5])


@pytest.mark.parametrize("steps", [0.2, 1.0])
def test_over_one_step_or_less_it_is_the_weights_themselves(steps):
    assert averages(steps, [1.0, 5.0, 2.0]) == pytest.approx([1, 5, 2])
