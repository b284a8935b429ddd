"""Convert an fp32 graph to float16, for GPUs. Inputs and outputs keep their types.

Sums over tokens, exponentials, and everything from the head onwards stay fp32: there a mantissa of 11 bits, or a
largest value of 65504, would change answers.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from export.graph.builder import head_nodes
from export.graph.quiet import quiet

_SENSITIVE = ("ReduceSum", "ReduceMean", "Exp")


def to_float16(source: Path, target: Path) -> Path:
    """Write the float16 form of a graph."""
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(str(source))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node-{index}"  # the converter excludes by name
    kept = _stay_fp32(model)
    with quiet():
        converted = OnnxModel(model)
        converted.convert_float_to_float16(keep_io_types=True, node_block_list=kept)
        converted.topological_sort()
        converted.save_model_to_file(str(target))
    return target


def _stay_fp32(model: Any) -> list[str]:
    """Return the names of the nodes that stay fp32."""
    nodes = {node.name: node for node in model.graph.node}
    readers: dict[str, set[str]] = defaultdict(set)
    for node in model.graph.node:
        for value in node.input:
            readers[value].add(node.name)

    def after(names: set[str]) -> set[str]:
        return {reader for name in names for value in nodes[name].output for reader in readers[value]}

    deciding = set(head_nodes(model)) & nodes.keys()
    while more := after(deciding) - deciding:
        deciding |= more
    sums = {name for name, node in nodes.items() if node.op_type in _SENSITIVE}
    sums |= {name for name in after(sums) if nodes[name].op_type == "Clip"}  # the bound of a sum that is divided by
    return sorted(deciding | sums | after(sums))
