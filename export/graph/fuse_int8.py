"""Fuse int8 products: integer product, cast, scale and bias become the one operator that ONNX Runtime has for them.

ONNX Runtime finds this pattern itself only where ranges are computed at run time. With static ranges the scales are
constants, which it folds before it looks for the pattern.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from export.graph.builder import MICROSOFT


def fuse_int8(source: Path, target: Path) -> Path:
    """Write a quantised graph with each integer product fused. It computes the same."""
    import onnx
    from onnx import helper

    model = onnx.load(str(source))
    graph = model.graph
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    producer = {name: node for node in graph.node for name in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    fused: dict[str, Any] = {}
    replaced: set[str] = set()
    for product in graph.node:
        if product.op_type != "MatMulInteger":
            continue
        chain = _sole_readers(product, ("Cast", "Mul"), readers, outputs)
        if len(chain) < 2:
            continue
        cast, scaled = chain
        scales = producer.get(next(name for name in scaled.input if name != cast.output[0]))
        if scales is None or scales.op_type != "Mul":
            continue
        inputs = [*product.input[:2], *scales.input, *product.input[2:4]]
        last, bias = scaled, _sole_readers(scaled, ("Add",), readers, outputs)
        width = shapes.get(product.input[1], [])[-1:]
        if bias and (more := [name for name in bias[0].input if width and shapes.get(name) == width]):
            last = bias[0]
            inputs += [""] * (6 - len(inputs)) + more
        node = helper.make_node("MatMulIntegerToFloat", inputs, [last.output[0]], product.name, domain=MICROSOFT)
        fused[last.output[0]] = node
        replaced |= {node.output[0] for node in (product, cast, scaled, last)}
        if len(readers[scales.output[0]]) == 1 and scales.output[0] not in outputs:
            replaced.add(scales.output[0])
    nodes = [
        fused.get(node.output[0], node)
        for node in graph.node
        if node.output[0] in fused or node.output[0] not in replaced
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    if fused and MICROSOFT not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(model, str(target))
    return target


def _sole_readers(node: Any, kinds: tuple[str, ...], readers: dict[str, list[Any]], outputs: set[str]) -> list[Any]:
    """Return the nodes that follow `node`, of these kinds, each the sole reader of the one before."""
    chain = []
    for kind in kinds:
        following = readers[node.output[0]]
        if len(following) != 1 or following[0].op_type != kind or node.output[0] in outputs:
            break
        node = following[0]
        chain.append(node)
    return chain
