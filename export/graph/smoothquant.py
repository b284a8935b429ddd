"""SmoothQuant: before int8, move part of the range of large activation channels into the weights.

Activations are quantised with one scale for all channels, weights with one per output, so a few large channels cost
all others their precision. Each product X·W becomes (X / s)·(s·W), the same in fp32 (Xiao et al. 2023, SmoothQuant,
equations 3 and 4). The output of attention is divided for free, in the weights that make its values; any other
activation needs an operator that divides it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.graph.activations import Floats, activations

MIGRATION = 0.75
"""How much of the range moves into the weights (α of the paper): 0 is nothing, 1 everything."""

_PRODUCTS = ("MatMul", "Gemm", "Attention")
_LEAST = 1e-5


def smoothquant(source: Path, target: Path, rows: Sequence[Sequence[int]], exclude: Collection[str] = ()) -> Path:
    """Write a graph that computes the same and loses less when quantised. `rows` are token ids of typical texts.

    `exclude` names the products that will stay fp32. A graph without products of activations and weights is written
    unchanged.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in constants and node.name not in exclude
    ]
    users: dict[str, list[Any]] = defaultdict(list)
    for node in products:
        users[node.input[0]].append(node)
    for name, largest in _largest(model, target, list(users), rows).items():
        weights = {node.input[1]: _by_channel(node, constants) for node in users[name]}
        factor = factors(largest, list(weights.values()))
        for values in weights.values():
            values *= factor[:, None]
        for node in users[name]:
            own = weights[node.input[1]]
            changed = np.ascontiguousarray(own.T if _transposed(node) else own)
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(changed, node.input[1]))
        projection = _projection(model.graph, name, constants, len(factor)) if len(users[name]) == 1 else []
        for constant in projection:
            values = numpy_helper.to_array(constants[constant])
            constants[constant].CopyFrom(numpy_helper.from_array(values / factor, constant))
        if not projection:
            _divide(model.graph, name, factor, users[name])
    onnx.save(model, str(target))
    return target


def _by_channel(node: Any, constants: Mapping[str, Any]) -> Floats:
    """Return a copy of the weights of a product, [C, outputs]."""
    from onnx import numpy_helper

    weights = numpy_helper.to_array(constants[node.input[1]])
    own: Floats = np.array(weights.T if _transposed(node) else weights)
    return own


def _transposed(node: Any) -> bool:
    """Whether a Gemm's weights are [outputs, C], as torch writes them."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def _divide(graph: Any, name: str, factor: Floats, users: list[Any]) -> None:
    """Insert an operator that divides an activation by a factor per channel, and let `users` read its result."""
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(1 / factor, f"{name}/factor"))
    scaled = helper.make_node("Mul", [name, f"{name}/factor"], [f"{name}/smooth"], name=f"{name}/smooth")
    first = min(place for place, node in enumerate(graph.node) if node in users)
    for node in users:
        node.input[0] = f"{name}/smooth"
    graph.node.insert(first, scaled)


def _projection(graph: Any, name: str, constants: Mapping[str, Any], channels: int) -> list[str]:
    """Return the names of the bias and the weights that make the attention values behind an activation.

    Attention averages each channel on its own, so dividing the values divides its output. The list is empty where the
    activation is not the output of attention, or something else reads the values.
    """
    producer = {output: node for node in graph.node for output in node.output}
    read = Counter([*(each for node in graph.node for each in node.input), *(value.name for value in graph.output)])
    found: list[str] = []
    attended = False
    while name in producer and read[name] == 1:
        node = producer[name]
        constant = next((each for each in node.input if each in constants and read[each] == 1), None)
        if node.op_type == "MultiHeadAttention":
            name, attended = node.input[2], True
        elif node.op_type == "Gather" or (node.op_type == "Reshape" and _width(node, constants) == channels):
            name = node.input[0]
        elif attended and node.op_type == "Add" and constant is not None:
            found.append(constant)
            name = next(each for each in node.input if each != constant)
        elif attended and node.op_type == "MatMul" and constant == node.input[1]:
            return [*found, constant]
        else:
            break
    return []


def _width(node: Any, constants: Mapping[str, Any]) -> int | None:
    """Return the last dimension of a Reshape's result; None where it is not constant."""
    from onnx import numpy_helper

    shape = constants.get(node.input[1])
    return None if shape is None else int(numpy_helper.to_array(shape)[-1])


def factors(largest: Floats, weights: Sequence[Floats]) -> Floats:
    """Return what each of C channels is divided by, float32 [C], with a geometric mean of 1.

    `largest` [C] is the largest magnitude of each channel's activations; `weights` are the matrices [C, outputs] that
    read them.
    """
    reading = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0)
    logs = MIGRATION * np.log(np.maximum(largest, _LEAST)) - (1 - MIGRATION) * np.log(np.maximum(reading, _LEAST))
    factor: Floats = np.exp(logs - logs.mean()).astype(np.float32)
    return factor


def _largest(model: Any, scratch: Path, names: list[str], rows: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """Return the largest magnitude, over all rows, of each channel of the named activations.

    `scratch` is a path for a temporary graph.
    """
    largest: dict[str, Floats] = {}
    for seen in activations(model, names, rows, scratch) if names else ():
        for name, values in seen.items():
            here = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, here), here)
    return largest
