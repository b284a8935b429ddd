"""Which parameters decay, and at what rate each learns: the groups of an optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from distill.sections import Optimisation
from distill.students.student import StudentModule


def parameter_groups(module: nn.Module, optimisation: Optimisation) -> list[dict[str, Any]]:
    """Return the groups of the parameters that are trained.

    Only matrices decay: not biases, norms and embedding tables. The last of a student's blocks learns at the learning
    rate, each block before it at `layer_decay` times the rate of the next (Howard & Ruder 2018), and what is in no
    block at the learning rate.
    """
    rates = _rates(module, optimisation)
    tables = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and id(parameter) not in tables
            rate = rates.get(id(parameter), optimisation.learning_rate)
            groups.setdefault((rate, decays), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": optimisation.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def _rates(module: nn.Module, optimisation: Optimisation) -> dict[int, float]:
    """Return the learning rate of each parameter of a block, by the parameter's `id`."""
    if optimisation.layer_decay == 1 or not isinstance(module, StudentModule):
        return {}
    return {
        id(parameter): optimisation.learning_rate * optimisation.layer_decay**above
        for above, block in enumerate(reversed(module.blocks()))
        for parameter in block.parameters()
    }
