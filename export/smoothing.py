"""Smoothing before int8: channels that are large in the activations lend their size to the weights.

Activations are quantised with one scale for all channels, weights with one per output, so a few large channels cost
all others their precision. Each product X·W becomes (X / s)·(s·W), the same in fp32 (SmoothQuant, Xiao et al. 2023,
equations 3 and 4).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.activations import Floats, activations

MIGRATION = 0.75
"""How much of the range moves into the weights (α of the paper, 0 none, 1 all)."""

_PRODUCTS = ("MatMul", "Attention")
_LEAST = 1e-5


def smooth(source: Path, target: Path, rows: Sequence[Sequence[int]], exclude: Collection[str] = ()) -> Path:
    """Write a graph that computes the same, ready to be quantised. `rows` are token ids of typical texts.

    `exclude` names the products that stay fp32. A graph without products of activations and weights is left as it is.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [
        node
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in constants and node.name not in exclude
    ]
    users: dict[str, list[Any]] = {}
    for node in products:
        users.setdefault(node.input[0], []).append(node)
    for name, largest in _largest(model, target, list(users), rows).items():
        weights = {node.input[1]: numpy_helper.to_array(constants[node.input[1]]) for node in users[name]}
        factor = factors(largest, list(weights.values()))
        for weight, values in weights.items():
            constants[weight].CopyFrom(numpy_helper.from_array(values * factor[:, None], weight))
        model.graph.initializer.append(numpy_helper.from_array(1 / factor, f"{name}/factor"))
        scaled = helper.make_node("Mul", [name, f"{name}/factor"], [f"{name}/smooth"], name=f"{name}/smooth")
        first = min(place for place, node in enumerate(model.graph.node) if node in users[name])
        for node in users[name]:
            node.input[0] = f"{name}/smooth"
        model.graph.node.insert(first, scaled)
    onnx.save(model, str(target))
    return target


def factors(largest: Floats, weights: Sequence[Floats]) -> Floats:
    """What each of C channels is divided by, float32 [C], with a geometric mean of 1.

    `largest` [C] is the largest magnitude of each channel's activations; `weights` are the matrices [C, outputs] that
    read them.
    """
    reading = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0)
    logs = MIGRATION * np.log(np.maximum(largest, _LEAST)) - (1 - MIGRATION) * np.log(np.maximum(reading, _LEAST))
    factor: Floats = np.exp(logs - logs.mean()).astype(np.float32)
    return factor


def _largest(model: Any, scratch: Path, names: list[str], rows: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """The largest magnitude of each channel of the named activations over all rows; a graph is written to `scratch`."""
    largest: dict[str, Floats] = {}
    for seen in activations(model, names, rows, scratch) if names else ():
        for name, values in seen.items():
            here = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, here), here)
    return largest
