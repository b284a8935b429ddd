"""Change the temperature of a graph: what its logits are divided by before they become probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_PROBABILITIES = "probabilities"
_TEMPERATURE = "fitted temperature"


def set_temperature(source: Path, target: Path, temperature: float) -> Path:
    """Write a graph whose probabilities have another temperature. Its logits and its embedding stay the same.

    A graph at the temperature 1 may have no division left; it gets one.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    activation = producer[_PROBABILITIES]
    division = producer.get(activation.input[0])
    if division is not None and _divides_by_one_number(division, constants):
        divisor = constants[division.input[1]]
        division.input[1] = _TEMPERATURE
        _drop_unread(graph, divisor)
    else:
        scaled = helper.make_node("Div", [activation.input[0], _TEMPERATURE], ["scaled logits"], name="scale logits")
        graph.node.insert([*graph.node].index(activation), scaled)
        activation.input[0] = "scaled logits"
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    onnx.save(model, str(target))
    return target


def _divides_by_one_number(node: Any, constants: Mapping[str, Any]) -> bool:
    """Whether a node divides by a constant without dimensions."""
    return node.op_type == "Div" and node.input[1] in constants and not constants[node.input[1]].dims


def _drop_unread(graph: Any, constant: Any) -> None:
    """Remove a constant that no node reads any more."""
    if not any(constant.name in node.input for node in graph.node):
        graph.initializer.remove(constant)
