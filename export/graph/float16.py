"""An fp32 graph in 16 bits, for GPUs: inputs and outputs stay as they are, and so does what decides in 32 bits.

Sums over tokens, exponents, and all from the head onwards stay fp32: there 11 bits, or a largest value of 65504, would
show in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.graph.quiet import quiet

_SENSITIVE = ("ReduceSum", "ReduceMean", "Exp")


def halve(source: Path, target: Path, heads: Iterable[str]) -> Path:
    """Write a graph with 16-bit weights and products. `heads` are the names of the nodes that compute the logits."""
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(str(source))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node-{index}"  # the converter excludes by name
    kept = _kept(model, set(heads))
    with quiet():
        converted = OnnxModel(model)
        converted.convert_float_to_float16(keep_io_types=True, node_block_list=kept)
        converted.topological_sort()
        converted.save_model_to_file(str(target))
    return target


def _kept(model: Any, heads: set[str]) -> list[str]:
    """The names of the nodes that stay fp32."""
    nodes = {node.name: node for node in model.graph.node}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for value in node.input:
            readers.setdefault(value, set()).add(node.name)

    def after(names: set[str]) -> set[str]:
        return {reader for name in names for value in nodes[name].output for reader in readers.get(value, ())}

    deciding = heads & nodes.keys()
    while more := after(deciding) - deciding:
        deciding |= more
    sums = {name for name, node in nodes.items() if node.op_type in _SENSITIVE}
    sums |= {name for name in after(sums) if nodes[name].op_type == "Clip"}  # what bounds a sum, before it divides
    return sorted(deciding | sums | after(sums))
