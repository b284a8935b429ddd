"""Tools for rewriting ONNX graphs: add nodes and constants under names of our own, drop what no output needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

MASK = "attention_mask"


class GraphBuilder:
    """The nodes and constants of a graph under construction. `prefix` starts every name that the builder makes up."""

    def __init__(self, prefix: str, constants: Iterable[Any] = ()) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {tensor.name: tensor for tensor in constants}
        self._prefix = prefix

    def own(self, name: str) -> str:
        """Return `name` as the builder spells it, so that it cannot clash with a name of the exporter."""
        return f"{self._prefix} {name}"

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node whose one output is `own(name)`, and return that output's name."""
        self.node(kind, inputs, self.own(name), **attributes)
        return self.own(name)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
        """Append a node whose one output is called `output`, and return the node."""
        from onnx import helper

        node = helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes)
        self.nodes.append(node)
        return node

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Return the name of a constant with these values; equal constants are stored once."""
        array = np.array(values, dtype)
        return self.tensor(array, self.own(f"constant {array.dtype} {array.tolist()}"))

    def tensor(self, values: Any, name: str) -> str:
        """Store an array under `name`, unless a constant has that name, and return the name."""
        from onnx import numpy_helper

        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def locate_tokens(self, places: str, tokens: str) -> None:
        """Compute from the mask [texts, longest] where the tokens are, all texts flattened into one sequence.

        `places`, int64 [tokens], gets the flat position of each token; `tokens`, int64 [texts, longest], the number of
        the token at each position. A padded position gets the number of the token before it, which nothing reads.
        """
        flat = self.add("Reshape", [MASK, self.constant([-1])], "mask")
        self.node("Reshape", [self.add("NonZero", [flat], "nonzero"), self.constant([-1])], places)
        counted = self.add("CumSum", [flat, self.constant(0)], "counted")
        before = self.add("Sub", [counted, self.constant(1)], "before")
        self.node("Reshape", [before, self.add("Shape", [MASK], "shape")], tokens)


def drop_unread(graph: Any) -> None:
    """Remove the nodes and constants of a graph that none of its outputs needs."""
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            nodes.append(node)
            read.update(node.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(constants)


def head_nodes(model: Any) -> list[str]:
    """Return the names of the nodes that compute the logits: the matrix product nearest to that output."""
    producer = {name: node for node in model.graph.node for name in node.output}
    pending = ["logits"]
    while pending:
        node = producer.get(pending.pop(0))
        if node is None:
            continue
        if node.op_type in ("MatMul", "Gemm"):
            return [node.name, f"{node.name}_MatMul"]  # the quantiser splits a Gemm, and names its product so
        pending.extend(node.input)
    return []
