"""Packing: a graph that computes nothing for padding.

The texts of a run are padded to the longest, and a graph pays for every padded place. A packed one keeps the real
tokens of all texts together, [tokens, width], and pads them only in what it does not know (Zeng et al. 2022, Boosting
distributed training performance of the unpadded BERT model, section 3). Attention has them in rows that several texts
share; who runs the graph says how, by inputs of their own (`rows`). Beside these, inputs, outputs and answers stay the
same, so that texts of any lengths may share a run.

For the CPU: embedding and layer norm are spelt there as operators that ONNX Runtime runs vectorised, which its fused
ones are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.sequence_packing import BIAS, PLACES, ROWS

_EMBEDDING = "EmbedLayerNormalization"
_ATTENTION = "Attention"
_NORM = "SkipLayerNormalization"
_GELU = "BiasGelu"
_MASK = "attention_mask"
_EACH = ("Add", "Mul", _GELU, "Gelu", "FastGelu", "Relu", "Tanh")
"""Operators that compute each place for itself, given constants of at most one dimension."""

_PASSING = ("Cast", "Expand", "Slice")
"""Operators that give nothing but what their first input has."""

_EPSILON = 1e-12  # of a norm that gives none
_DOMAIN = "com.microsoft"


def pack(source: Path, target: Path) -> Path:
    """Write a packed graph, which takes the inputs of `rows`, of one whose attention, norms and embedding are fused.

    A graph without such an embedding and attention is written as it is.
    """
    import onnx

    model = onnx.load(str(source))
    packed = _Packing(model).result()
    onnx.save(packed if packed is not None else model, str(target))
    return target


@dataclass(slots=True)
class _Packing:
    """A graph on its way: the nodes so far, and which values have a packed twin."""

    model: Any
    nodes: list[Any] = field(default_factory=list)
    twins: dict[str, str] = field(default_factory=dict)
    """The packed twin of each value that has one, [tokens, width]."""

    padded: set[str] = field(default_factory=set)
    """Those of them that also exist as they were, [rows, longest, width]."""

    constants: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    """The node of the source that makes each value."""

    def result(self) -> Any | None:
        """The packed model; None where some attention would still read padding."""
        import onnx

        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.made = {name: node for node in graph.node for name in node.output}
        kinds = [node.op_type for node in graph.node]
        if kinds.count(_EMBEDDING) != 1 or _ATTENTION not in kinds:
            return None
        if _MASK not in {value.name for value in graph.input}:
            return None
        for node in graph.node:
            if node.op_type == _EMBEDDING:
                self._begin(node)
            elif node.op_type == _ATTENTION and self._fits(node):
                self._attention(node)
            elif node.op_type == _NORM and self._sums(node):
                self._norm(node)
            elif self._each(node):
                self._twin(node)
            else:
                self._as_it_is(node)
        if any(node.op_type == _ATTENTION for node in self.nodes):
            return None
        for value in graph.output:
            self._pad(value.name)
        packed = onnx.ModelProto()
        packed.CopyFrom(self.model)
        nodes = self._read()
        inputs = {name for node in nodes for name in node.input}
        del packed.graph.node[:], packed.graph.initializer[:]
        packed.graph.node.extend(nodes)
        packed.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in inputs)
        packed.graph.input.extend(_row_inputs())
        return packed

    def _read(self) -> list[Any]:
        """The nodes of which something is read, in their order."""
        read = {value.name for value in self.model.graph.output}
        kept = []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                kept.append(node)
                read.update(node.input)
        return kept[::-1]

    def _begin(self, node: Any) -> None:
        """The embedding, and from the mask: the place of each token, and the token of each place."""
        name = node.output[0]
        width = self.constants[node.input[2]].dims[-1]
        self._add("Reshape", [_MASK, self._constant([-1])], "mask")
        self._add("NonZero", [_own("mask")], "nonzero")
        self._add("Reshape", [_own("nonzero"), self._constant([-1])], "places")
        # A padded place gets the token before it, which nobody reads.
        self._add("CumSum", [_own("mask"), self._constant(0)], "counted")
        self._add("Sub", [_own("counted"), self._constant(1)], "before")
        self._add("Shape", [_MASK], "shape")
        self._add("Reshape", [_own("before"), _own("shape")], "tokens")
        if self._counts_places(node):
            self._embedding(node, self._named(name))
        else:
            self.nodes.append(node)
            self._keep(name, width, _own("places"), self._named(name))
            self.padded.add(name)

    def _counts_places(self, node: Any) -> bool:
        """Whether an embedding counts places itself and knows one segment alone, and nobody else needs its mask."""
        given = [*node.input, *[""] * 9]
        masks = set(node.output[1:]) - {""}
        others = [reader for reader in self.model.graph.node if reader.op_type != _ATTENTION]
        return (
            all(name in self.constants for name in given[2:4])
            and not given[8]
            and (not given[4] or (given[4] in self.constants and self._is_zero(given[1])))
            and all(given[5:7])
            and not any(masks.intersection(reader.input) for reader in others)
        )

    def _is_zero(self, name: str) -> bool:
        """Whether a value is 0 everywhere, or not given, which means the same."""
        from onnx import numpy_helper

        while name in self.made and self.made[name].op_type in _PASSING:
            name = self.made[name].input[0]
        return not name or (name in self.constants and not numpy_helper.to_array(self.constants[name]).any())

    def _embedding(self, node: Any, twin: str) -> None:
        """Look up words and places for the tokens alone, sum, and norm."""
        from onnx import numpy_helper

        name, places = node.output[0], numpy_helper.to_array(self.constants[node.input[3]])
        if node.input[4]:  # every token is of the first segment
            places = places + numpy_helper.to_array(self.constants[node.input[4]])[0]
        table = _own(f"{name}/places")
        self.constants[table] = numpy_helper.from_array(places, table)
        self._add("Reshape", [node.input[0], self._constant([-1])], "ids")
        self._add("Gather", [_own("ids"), _own("places")], "words", axis=0)
        self._add("Gather", [_own("shape"), self._constant(1)], "longest", axis=0)
        self._add("Mod", [_own("places"), _own("longest")], "columns")
        self._add("Gather", [node.input[2], _own("words")], f"{name}/words", axis=0)
        self._add("Gather", [table, _own("columns")], f"{name}/columns", axis=0)
        self._add("Add", [_own(f"{name}/words"), _own(f"{name}/columns")], f"{name}/sum")
        self._normal(node, _own(f"{name}/sum"), node.input[5:7], twin)

    def _keep(self, name: str, width: int, places: str, twin: str) -> None:
        """What a value has at the places of tokens, as the twin."""
        self._add("Reshape", [name, self._constant([-1, width])], f"{name}/rows")
        self._node("Gather", [_own(f"{name}/rows"), places], [twin], axis=0)

    def _pad(self, name: str) -> None:
        """Give a value back as it was, for who needs that."""
        if name in self.twins and name not in self.padded:
            self._node("Gather", [self.twins[name], _own("tokens")], [name], axis=0)
            self.padded.add(name)

    def _fits(self, node: Any) -> bool:
        """Whether an attention is of a packed value with itself, masked, and has no bias of scores, past or window."""
        given = [bool(name) for name in node.input]
        known = {"num_heads", "mask_filter_value", "scale", "unidirectional"}
        attributes = {attribute.name: attribute for attribute in node.attribute}
        causal = "unidirectional" in attributes and attributes["unidirectional"].i
        return (
            node.input[0] in self.twins
            and node.input[1] in self.constants
            and given[:4] == [True] * 4
            and not any(given[4:])
            and attributes.keys() <= known
            and not causal
        )

    def _attention(self, node: Any) -> None:
        """The projections for each token, then attention in rows."""
        name, twin = node.output[0], self._named(node.output[0])
        kept = {attribute.name: attribute for attribute in node.attribute if attribute.name != "unidirectional"}
        width = self.constants[node.input[1]].dims[1] // 3
        parts = []
        for index, part in enumerate(("query", "key", "value")):
            # A product each: to split that of all would copy every padded place once more.
            weight, bias = (self._columns(constant, index, width, part) for constant in node.input[1:3])
            self._add("MatMul", [self.twins[node.input[0]], weight], f"{name}/{part}/product")
            self._add("Add", [_own(f"{name}/{part}/product"), bias], f"{name}/{part}/projected")
            self._add("Gather", [_own(f"{name}/{part}/projected"), ROWS], f"{name}/{part}", axis=0)
            parts.append(_own(f"{name}/{part}"))
        attended = _own(f"{name}/attended")
        attention = self._node("MultiHeadAttention", [*parts, "", "", BIAS], [attended], domain=_DOMAIN)
        attention.attribute.extend(kept.values())
        self._keep(attended, width, PLACES, twin)

    def _columns(self, constant: str, index: int, width: int, part: str) -> str:
        """The name of some of a constant's columns, `width` of them, after `index` times as many."""
        from onnx import numpy_helper

        name = _own(f"{constant}/{part}")
        values = numpy_helper.to_array(self.constants[constant])[..., index * width : (index + 1) * width]
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _sums(self, node: Any) -> bool:
        """Whether a norm is of the sum of two packed values, has both its weights, and gives nothing else."""
        return set(node.input[:2]) <= self.twins.keys() and all([*node.input, ""][2:4]) and len(node.output) == 1

    def _norm(self, node: Any) -> None:
        """Sum, then layer norm."""
        name, twin = node.output[0], self._named(node.output[0])
        inputs = [self.twins.get(each, each) for each in node.input]
        total = inputs[0]
        # The bias first: it belongs to the product, and joins it where that has an operator for both.
        for index, each in enumerate([*inputs[4:5], inputs[1]]):
            self._add("Add", [total, each], f"{name}/sum{index}")
            total = _own(f"{name}/sum{index}")
        self._normal(node, total, inputs[2:4], twin)

    def _normal(self, node: Any, total: str, weights: Sequence[str], twin: str) -> None:
        """The layer norm of a node, for each token."""
        self._node("LayerNormalization", [total, *weights], [twin], axis=-1, epsilon=_epsilon(node))

    def _each(self, node: Any) -> bool:
        """Whether a node computes each place of packed values for itself."""
        inputs = [name for name in node.input if name]
        read = [name for name in inputs if name in self.twins]
        others = [name for name in inputs if name not in self.twins]
        if not read or any(name not in self.constants for name in others):
            return False
        dimensions = [len(self.constants[name].dims) for name in others]
        if node.op_type == "MatMul":
            return inputs[0] in self.twins and dimensions == [2]
        return node.op_type in _EACH and all(count <= 1 for count in dimensions)

    def _twin(self, node: Any) -> None:
        """The same node, of packed values."""
        import onnx

        if node.op_type == _GELU:  # the bias belongs to the product before it
            name, inputs = node.output[0], [self.twins.get(each, each) for each in node.input]
            self._add("Add", inputs, f"{name}/biased")
            self._node("Gelu", [_own(f"{name}/biased")], [self._named(name)], domain=_DOMAIN)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = self.twins.get(name, name)
        copy.output[0] = self._named(node.output[0])
        self.nodes.append(copy)

    def _as_it_is(self, node: Any) -> None:
        for name in node.input:
            self._pad(name)
        self.nodes.append(node)

    def _named(self, name: str) -> str:
        self.twins[name] = _own(name)
        return self.twins[name]

    def _add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> None:
        self._node(kind, inputs, [_own(name)], **attributes)

    def _node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
        from onnx import helper

        node = helper.make_node(kind, inputs, outputs, name=f"{kind}:{outputs[0]}", **attributes)
        self.nodes.append(node)
        return node

    def _constant(self, values: int | list[int]) -> str:
        """The name of a constant of int64."""
        from onnx import numpy_helper

        name = _own(f"constant {values}")
        self.constants.setdefault(name, numpy_helper.from_array(np.array(values), name))
        return name


def _row_inputs() -> list[Any]:
    """The inputs of `rows`, as a graph declares them."""
    from onnx import TensorProto, helper

    rows, width = "attention rows", "attention width"
    return [
        helper.make_tensor_value_info(ROWS, TensorProto.INT64, [rows, width]),
        helper.make_tensor_value_info(PLACES, TensorProto.INT64, ["all tokens"]),
        helper.make_tensor_value_info(BIAS, TensorProto.FLOAT, [rows, 1, width, width]),
    ]


def _epsilon(node: Any) -> float:
    """What a norm adds to the variance."""
    return float(next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), _EPSILON))


_OWN = "packed "


def _own(name: str) -> str:
    """A name that no exporter gives."""
    return f"{_OWN}{name}"
