"""Integer products with their scales: product, cast, scale and bias as the one operator that ONNX Runtime has for it.

ONNX Runtime finds this pattern itself, but only with ranges that are measured as it runs; with fixed ones the scales
are constants, and folded before it looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_DOMAIN = "com.microsoft"


def join_scales(source: Path, target: Path) -> Path:
    """Write a quantised graph in which each integer product gives floats. It computes the same."""
    import onnx
    from onnx import helper

    model = onnx.load(str(source))
    graph = model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    made = {name: node for node in graph.node for name in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    joined: dict[str, Any] = {}
    gone: set[str] = set()
    for product in graph.node:
        if product.op_type != "MatMulInteger":
            continue
        chain = _only_readers(product, ("Cast", "Mul"), readers, outputs)
        if len(chain) < 2:
            continue
        cast, scaled = chain
        scales = made.get(next(name for name in scaled.input if name != cast.output[0]))
        if scales is None or scales.op_type != "Mul":
            continue
        inputs = [*product.input[:2], *scales.input, *product.input[2:4]]
        last, bias = scaled, _only_readers(scaled, ("Add",), readers, outputs)
        width = shapes.get(product.input[1], [])[-1:]
        if bias and (more := [name for name in bias[0].input if width and shapes.get(name) == width]):
            last = bias[0]
            inputs += [""] * (6 - len(inputs)) + more
        node = helper.make_node("MatMulIntegerToFloat", inputs, [last.output[0]], product.name, domain=_DOMAIN)
        joined[last.output[0]] = node
        gone |= {node.output[0] for node in (product, cast, scaled, last)}
        if len(readers[scales.output[0]]) == 1 and scales.output[0] not in outputs:
            gone.add(scales.output[0])
    nodes = [joined.get(node.output[0], node) for node in graph.node if _stays(node, gone, joined)]
    del graph.node[:]
    graph.node.extend(nodes)
    if joined and _DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    onnx.save(model, str(target))
    return target


def _only_readers(node: Any, kinds: tuple[str, ...], readers: dict[str, list[Any]], outputs: set[str]) -> list[Any]:
    """The nodes of these kinds that follow one another, each the only reader of what is before it."""
    chain = []
    for kind in kinds:
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != kind or node.output[0] in outputs:
            break
        node = following[0]
        chain.append(node)
    return chain


def _stays(node: Any, gone: set[str], joined: dict[str, Any]) -> bool:
    return node.output[0] in joined or node.output[0] not in gone
