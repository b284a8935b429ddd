"""A graph that needs nothing of Reflux: it takes ids and mask alone, and computes the same as the one that is served.

What a packed graph is told about its rows comes from the mask here, a row for each text, and the operators of ONNX
Runtime's own that `unpad` and `fuse_int8` put in are spelt in those of the ONNX standard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.sequence_packing import BIAS, NAMES, PLACES, ROWS

_MASK = "attention_mask"
_DOMAIN = "com.microsoft"
_UNSEEN = -10_000.0
"""Added to the score of a place that is padding, as `sequence_packing` does."""


def make_portable(source: Path, target: Path) -> Path:
    """Write the portable graph of one that is served, packed or not, with all its weights in the file."""
    import onnx

    model = onnx.load(str(source))
    graph = _Portable(model.graph)
    packed = set(NAMES) & {value.name for value in model.graph.input}
    if packed:
        graph.rows()
        kept = [value for value in model.graph.input if value.name not in packed]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    for node in model.graph.node:
        graph.take(node)
    del model.graph.node[:]
    model.graph.node.extend(graph.nodes)
    used = {node.domain for node in graph.nodes}
    needed = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(needed)
    onnx.save(model, str(target))
    return target


class _Portable:
    """The nodes of a portable graph so far."""

    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        self._graph = graph
        self._constants: dict[str, str] = {}
        self._spell: dict[str, Callable[[Any], None]] = {
            "MultiHeadAttention": self._attention,
            "MatMulIntegerToFloat": self._product,
            "Gelu": self._gelu,
        }

    def take(self, node: Any) -> None:
        """Add a node, in operators of the standard where it is one of those that we put in."""
        spell = self._spell.get(node.op_type) if node.domain == _DOMAIN else None
        if spell is None or (node.op_type == "MultiHeadAttention" and not _is_ours(node)):
            self.nodes.append(node)
        else:
            spell(node)

    def rows(self) -> None:
        """Compute what a packed graph is given beside its texts: see `sequence_packing.Rows.of`."""
        self._add("Reshape", [_MASK, self._constant(np.array([-1]))], _own("mask"))
        self._add("NonZero", [_own("mask")], _own("nonzero"))
        self._add("Reshape", [_own("nonzero"), self._constant(np.array([-1]))], PLACES)
        # A padded place is given the token before it, which nobody reads.
        self._add("CumSum", [_own("mask"), self._constant(np.array(0))], _own("counted"))
        self._add("Sub", [_own("counted"), self._constant(np.array(1))], _own("before"))
        self._add("Shape", [_MASK], _own("shape"))
        self._add("Reshape", [_own("before"), _own("shape")], ROWS)
        self._add("Unsqueeze", [_MASK, self._constant(np.array([1, 2]))], _own("seen"))
        self._add("Sub", [self._constant(np.array(1)), _own("seen")], _own("unseen"))
        self._float(_own("unseen"), _own("unseen float"))
        self._add("Mul", [_own("unseen float"), self._constant(np.array(_UNSEEN, np.float32))], BIAS)

    def _attention(self, node: Any) -> None:
        """For each head softmax(Q·Kᵀ / √d + bias)·V."""
        name = node.output[0]
        heads = _attribute(node, "num_heads")
        parts = {}
        for part, value, order in zip("qkv", node.input[:3], ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
            split, turned = _own(f"{name}/{part}/split"), _own(f"{name}/{part}")
            self._add("Reshape", [value, self._constant(np.array([0, 0, heads, -1]))], split)
            self._add("Transpose", [split], turned, perm=order)
            parts[part] = turned
        self._add("MatMul", [parts["q"], parts["k"]], _own(f"{name}/product"))
        self._add("Mul", [_own(f"{name}/product"), self._scale(node, parts["q"])], _own(f"{name}/scaled"))
        self._add("Add", [_own(f"{name}/scaled"), node.input[5]], _own(f"{name}/scores"))
        self._add("Softmax", [_own(f"{name}/scores")], _own(f"{name}/weights"), axis=-1)
        self._add("MatMul", [_own(f"{name}/weights"), parts["v"]], _own(f"{name}/heads"))
        self._add("Transpose", [_own(f"{name}/heads")], _own(f"{name}/joined"), perm=[0, 2, 1, 3])
        self._add("Reshape", [_own(f"{name}/joined"), self._constant(np.array([0, 0, -1]))], name)

    def _scale(self, node: Any, queries: str) -> str:
        """What scores are multiplied by: the node's `scale`, or 1 / √d for heads d wide."""
        scale = _attribute(node, "scale")
        if scale:
            return self._constant(np.array(scale, np.float32))
        name = node.output[0]
        self._add("Shape", [queries], _own(f"{name}/width"), start=3)
        self._float(_own(f"{name}/width"), _own(f"{name}/width float"))
        self._add(
            "Pow", [_own(f"{name}/width float"), self._constant(np.array(-0.5, np.float32))], _own(f"{name}/root")
        )
        return _own(f"{name}/root")

    def _product(self, node: Any) -> None:
        """The integer product, times the scales, plus the bias: what `join_scales` joined."""
        name = node.output[0]
        left, right, left_scale, right_scale, *others = node.input
        zeros, bias = others[:2], others[2:3]
        self._add("MatMulInteger", [left, right, *zeros], _own(f"{name}/integers"))
        self._float(_own(f"{name}/integers"), _own(f"{name}/floats"))
        self._add("Mul", [left_scale, right_scale], _own(f"{name}/scales"))
        self._add("Mul", [_own(f"{name}/floats"), _own(f"{name}/scales")], _own(f"{name}/scaled") if bias else name)
        if bias:
            self._add("Add", [_own(f"{name}/scaled"), *bias], name)

    def _gelu(self, node: Any) -> None:
        """Gelu: x · ½ · (1 + erf(x / √2))."""
        (value,), (name,) = node.input, node.output
        self._add("Div", [value, self._constant(np.array(math.sqrt(2), np.float32))], _own(f"{name}/root"))
        self._add("Erf", [_own(f"{name}/root")], _own(f"{name}/erf"))
        self._add("Add", [_own(f"{name}/erf"), self._constant(np.array(1, np.float32))], _own(f"{name}/sum"))
        self._add("Mul", [value, _own(f"{name}/sum")], _own(f"{name}/twice"))
        self._add("Mul", [_own(f"{name}/twice"), self._constant(np.array(0.5, np.float32))], name)

    def _float(self, value: str, output: str) -> None:
        from onnx import TensorProto

        self._add("Cast", [value], output, to=TensorProto.FLOAT)

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes))

    def _constant(self, values: Any) -> str:
        """The name of a constant, one for all who need these values."""
        from onnx import numpy_helper

        name = _own(f"constant {values.dtype} {values.tolist()}")
        if name not in self._constants:
            self._constants[name] = name
            self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _is_ours(node: Any) -> bool:
    """Whether an attention has queries, keys, values and a bias of scores alone, as those that `unpad` makes."""
    given = [bool(name) for name in node.input]
    return given == [True, True, True, False, False, True] and len(node.output) == 1


def _attribute(node: Any, name: str) -> Any:
    """The value of a node's attribute, None where it has none of that name."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)


def _own(name: str) -> str:
    """A name that no other graph gives."""
    return f"portable {name}"
