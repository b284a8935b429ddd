"""A portable graph runs without Reflux: it takes ids and mask only, and computes what the served graph does.

It computes the inputs of sequence packing from the mask, with a row for each text, and replaces the operators of ONNX
Runtime's own that `unpad` and `fuse_int8` introduced by operators of the ONNX standard.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.sequence_packing import BIAS, NAMES, PLACES, ROWS, UNSEEN
from export.graph.builder import MASK, MICROSOFT, GraphBuilder

_FLOAT = np.float32


def make_portable(source: Path, target: Path) -> Path:
    """Write the portable form of a served graph, unpadded or not, with all weights in the file."""
    import onnx

    model = onnx.load(str(source))
    builder = _Portable("portable")
    packing = set(NAMES) & {value.name for value in model.graph.input}
    if packing:
        builder.compute_packing_inputs()
        kept = [value for value in model.graph.input if value.name not in packing]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    for node in model.graph.node:
        builder.take(node)
    del model.graph.node[:]
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.constants.values())
    used = {node.domain for node in builder.nodes}
    needed = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(needed)
    onnx.save(model, str(target))
    return target


class _Portable(GraphBuilder):
    """Copies nodes, and expands those of ONNX Runtime's own operators that our rewrites introduced."""

    def take(self, node: Any) -> None:
        """Append a node, expanded where it is one of ours."""
        kind = node.op_type if node.domain == MICROSOFT else None
        if kind == "MultiHeadAttention" and _is_ours(node):
            self._attention(node)
        elif kind == "MatMulIntegerToFloat":
            self._integer_product(node)
        elif kind == "Gelu":
            self._gelu(node)
        else:
            self.nodes.append(node)

    def compute_packing_inputs(self) -> None:
        """Compute what `SequencePacking.pack` gives for texts that each have a row of their own."""
        self.locate_tokens(PLACES, ROWS)
        seen = self.add("Unsqueeze", [MASK, self.constant([1, 2])], "seen")
        unseen = self._to_float(self.add("Sub", [self.constant(1), seen], "unseen"), "unseen float")
        self.node("Mul", [unseen, self.constant(UNSEEN, _FLOAT)], BIAS)

    def _attention(self, node: Any) -> None:
        """Compute softmax(Q·Kᵀ·scale + bias)·V for each head."""
        name = node.output[0]
        split = self.constant([0, 0, _attribute(node, "num_heads"), -1])
        query, key, value = (
            self.add(
                "Transpose", [self.add("Reshape", [each, split], f"{name}/{part}/split")], f"{name}/{part}", perm=order
            )
            for part, each, order in zip("qkv", node.input[:3], ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        product = self.add("MatMul", [query, key], f"{name}/product")
        scaled = self.add("Mul", [product, self._scale(node, query)], f"{name}/scaled")
        scores = self.add("Add", [scaled, node.input[5]], f"{name}/scores")
        weights = self.add("Softmax", [scores], f"{name}/weights", axis=-1)
        heads = self.add("MatMul", [weights, value], f"{name}/heads")
        joined = self.add("Transpose", [heads], f"{name}/joined", perm=[0, 2, 1, 3])
        self.node("Reshape", [joined, self.constant([0, 0, -1])], name)

    def _scale(self, node: Any, queries: str) -> str:
        """Return the factor of the scores: the node's `scale`, or 1 / √d for heads d wide."""
        scale = _attribute(node, "scale")
        if scale:
            return self.constant(scale, _FLOAT)
        name = node.output[0]
        width = self._to_float(self.add("Shape", [queries], f"{name}/width", start=3), f"{name}/width float")
        return self.add("Pow", [width, self.constant(-0.5, _FLOAT)], f"{name}/root")

    def _integer_product(self, node: Any) -> None:
        """Compute the integer product times both scales plus the bias, which `fuse_int8` made one operator."""
        name = node.output[0]
        left, right, left_scale, right_scale, *others = node.input
        zeros, bias = others[:2], others[2:3]
        integers = self.add("MatMulInteger", [left, right, *zeros], f"{name}/integers")
        factors = [
            self._to_float(integers, f"{name}/floats"),
            self.add("Mul", [left_scale, right_scale], f"{name}/scales"),
        ]
        if bias:
            self.node("Add", [self.add("Mul", factors, f"{name}/scaled"), *bias], name)
        else:
            self.node("Mul", factors, name)

    def _gelu(self, node: Any) -> None:
        """Compute GELU: x · (1 + erf(x / √2)) · ½."""
        (value,), (name,) = node.input, node.output
        root = self.add("Div", [value, self.constant(math.sqrt(2), _FLOAT)], f"{name}/root")
        erf = self.add("Erf", [root], f"{name}/erf")
        total = self.add("Add", [erf, self.constant(1, _FLOAT)], f"{name}/sum")
        twice = self.add("Mul", [value, total], f"{name}/twice")
        self.node("Mul", [twice, self.constant(0.5, _FLOAT)], name)

    def _to_float(self, value: str, name: str) -> str:
        from onnx import TensorProto

        return self.add("Cast", [value], name, to=TensorProto.FLOAT)


def _is_ours(node: Any) -> bool:
    """Whether an attention has queries, keys, values and a score bias only, as those that `unpad` makes."""
    given = [bool(name) for name in node.input]
    return given == [True, True, True, False, False, True] and len(node.output) == 1


def _attribute(node: Any, name: str) -> Any:
    """Return the value of a node's attribute; None where it has none of that name."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)
