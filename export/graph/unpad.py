"""Unpadding: rewrite a fused graph so that it computes nothing for padding.

The texts of a run are padded to the longest of them, and an ordinary graph computes every padded position. An unpadded
graph keeps the tokens of all texts in one sequence, [tokens, width], and restores the padding only before operators it
does not know (Zeng et al. 2022, Boosting distributed training performance of the unpadded BERT model, section 3).
Attention needs texts in rows, which several texts share; the inputs of `sequence_packing` say how. All other inputs,
the outputs and the answers stay the same, so texts of any lengths may share a run.

This is for the CPU, where ONNX Runtime runs embedding and layer norm faster as the plain operators used here than as
its fused ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.sequence_packing import BIAS, PLACES, ROWS
from export.graph.builder import MASK, MICROSOFT, GraphBuilder, drop_unread

_EMBEDDING = "EmbedLayerNormalization"
_ATTENTION = "Attention"
_NORM = "SkipLayerNormalization"
_GELU = "BiasGelu"
_ELEMENTWISE = ("Add", "Mul", _GELU, "Gelu", "FastGelu", "Relu", "Tanh")
"""Operators that treat each position alone, if their constants have at most one dimension."""

_COPYING = ("Cast", "Expand", "GatherElements", "Slice")
"""Operators whose output has no values but those of their first input."""

_EPSILON = 1e-12  # where a norm gives none


def unpad(source: Path, target: Path) -> Path:
    """Write the unpadded form of the graph at `source` to `target`, and return `target`.

    A graph without a fused embedding and attention that this module knows is written unchanged.
    """
    import onnx

    model = onnx.load(str(source))
    unpadded = _Unpadding(model).result()
    onnx.save(unpadded if unpadded is not None else model, str(target))
    return target


class _Unpadding(GraphBuilder):
    """Rewrites one model node by node.

    `unpadded` maps a value to its unpadded counterpart, [tokens, width]; `padded` holds those of its keys that the new
    graph also has in their original form, [texts, longest, width].
    """

    def __init__(self, model: Any) -> None:
        super().__init__("unpadded", model.graph.initializer)
        self.model = model
        self.unpadded: dict[str, str] = {}
        self.padded: set[str] = set()
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self.places, self.tokens = self.own("places"), self.own("tokens")

    def result(self) -> Any | None:
        """Return the unpadded model; None where some attention would still read padding."""
        import onnx

        graph = self.model.graph
        kinds = [node.op_type for node in graph.node]
        if kinds.count(_EMBEDDING) != 1 or _ATTENTION not in kinds or MASK not in {each.name for each in graph.input}:
            return None
        for node in graph.node:
            if node.op_type == _EMBEDDING:
                self._embed(node)
            elif node.op_type == _ATTENTION and self._knows_attention(node):
                self._attend(node)
            elif node.op_type == _NORM and self._knows_norm(node):
                self._normalise_sum(node)
            elif self._is_per_token(node):
                self._copy_unpadded(node)
            else:
                self._copy_padded(node)
        if any(node.op_type == _ATTENTION for node in self.nodes):
            return None
        for value in graph.output:
            self._restore_padding(value.name)
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:]
        result.graph.node.extend(self.nodes)
        result.graph.initializer.extend(self.constants.values())
        drop_unread(result.graph)
        result.graph.input.extend(_packing_inputs())
        return result

    def _embed(self, node: Any) -> None:
        """Locate the tokens, and embed them alone where the embedding allows it."""
        name = node.output[0]
        self.locate_tokens(self.places, self.tokens)
        if self._knows_embedding(node):
            self._embed_tokens(node, self._counterpart(name))
        else:
            width = self.constants[node.input[2]].dims[-1]
            self.nodes.append(node)
            self._select(name, width, self.places, self._counterpart(name))
            self.padded.add(name)

    def _knows_embedding(self, node: Any) -> bool:
        """Whether an embedding numbers positions itself, has one segment only, and its mask serves attention only."""
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
        """Whether a value is 0 everywhere, or absent, which means the same."""
        from onnx import numpy_helper

        while name in self.producer and self.producer[name].op_type in _COPYING:
            name = self.producer[name].input[0]
        return not name or (name in self.constants and not numpy_helper.to_array(self.constants[name]).any())

    def _embed_tokens(self, node: Any, output: str) -> None:
        """Look up words and positions for the tokens alone, add them, and normalise."""
        from onnx import numpy_helper

        name, positions = node.output[0], numpy_helper.to_array(self.constants[node.input[3]])
        if node.input[4]:  # every token is of the first segment
            positions = positions + numpy_helper.to_array(self.constants[node.input[4]])[0]
        table = self.tensor(positions, self.own(f"{name}/table"))
        ids = self.add("Reshape", [node.input[0], self.constant([-1])], "ids")
        words = self.add("Gather", [ids, self.places], "words", axis=0)
        longest = self.add("Gather", [self.own("shape"), self.constant(1)], "longest", axis=0)
        columns = self.add("Mod", [self.places, longest], "columns")
        word = self.add("Gather", [node.input[2], words], f"{name}/words", axis=0)
        position = self.add("Gather", [table, columns], f"{name}/columns", axis=0)
        self._normalise(node, self.add("Add", [word, position], f"{name}/sum"), node.input[5:7], output)

    def _select(self, name: str, width: int, places: str, output: str) -> None:
        """Select the rows of a value, `width` wide, at flat positions."""
        flat = self.add("Reshape", [name, self.constant([-1, width])], f"{name}/rows")
        self.node("Gather", [flat, places], output, axis=0)

    def _restore_padding(self, name: str) -> None:
        """Make the original, padded form of a value available under its name."""
        if name in self.unpadded and name not in self.padded:
            self.node("Gather", [self.unpadded[name], self.tokens], name, axis=0)
            self.padded.add(name)

    def _knows_attention(self, node: Any) -> bool:
        """Whether this is masked self-attention to an unpadded value, without score bias, past or window."""
        given = [bool(name) for name in node.input]
        attributes = {attribute.name: attribute for attribute in node.attribute}
        causal = "unidirectional" in attributes and attributes["unidirectional"].i
        return (
            node.input[0] in self.unpadded
            and node.input[1] in self.constants
            and given[:4] == [True] * 4
            and not any(given[4:])
            and attributes.keys() <= {"num_heads", "mask_filter_value", "scale", "unidirectional"}
            and not causal
        )

    def _attend(self, node: Any) -> None:
        """Project each token to query, key and value, then attend in the rows of sequence packing."""
        name, output = node.output[0], self._counterpart(node.output[0])
        width = self.constants[node.input[1]].dims[1] // 3
        parts = []
        for index, part in enumerate(("query", "key", "value")):
            # Three products: splitting the result of a single one would copy every padded position once more.
            weight, bias = (self._columns(constant, index, width, part) for constant in node.input[1:3])
            product = self.add("MatMul", [self.unpadded[node.input[0]], weight], f"{name}/{part}/product")
            projected = self.add("Add", [product, bias], f"{name}/{part}/projected")
            parts.append(self.add("Gather", [projected, ROWS], f"{name}/{part}", axis=0))
        attended = self.own(f"{name}/attended")
        attention = self.node("MultiHeadAttention", [*parts, "", "", BIAS], attended, domain=MICROSOFT)
        attention.attribute.extend(attribute for attribute in node.attribute if attribute.name != "unidirectional")
        self._select(attended, width, PLACES, output)

    def _columns(self, constant: str, index: int, width: int, part: str) -> str:
        """Store the `index`-th block of `width` columns of a constant, and return its name."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(self.constants[constant])[..., index * width : (index + 1) * width]
        return self.tensor(np.ascontiguousarray(values), self.own(f"{constant}/{part}"))

    def _knows_norm(self, node: Any) -> bool:
        """Whether a norm is of the sum of two unpadded values, has both weights, and has one output only."""
        return set(node.input[:2]) <= self.unpadded.keys() and all([*node.input, ""][2:4]) and len(node.output) == 1

    def _normalise_sum(self, node: Any) -> None:
        """Add the inputs of a norm, and normalise the sum."""
        name, output = node.output[0], self._counterpart(node.output[0])
        inputs = [self.unpadded.get(each, each) for each in node.input]
        total = inputs[0]
        # The bias first, so that ONNX Runtime can fuse it with the product that it belongs to.
        for index, each in enumerate([*inputs[4:5], inputs[1]]):
            total = self.add("Add", [total, each], f"{name}/sum{index}")
        self._normalise(node, total, inputs[2:4], output)

    def _normalise(self, node: Any, total: str, weights: Sequence[str], output: str) -> None:
        """Apply the layer norm of `node` to each token of `total`."""
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), _EPSILON)
        self.node("LayerNormalization", [total, *weights], output, axis=-1, epsilon=float(epsilon))

    def _is_per_token(self, node: Any) -> bool:
        """Whether a node reads unpadded values and constants, and treats each position alone."""
        inputs = [name for name in node.input if name]
        others = [name for name in inputs if name not in self.unpadded]
        if len(others) == len(inputs) or any(name not in self.constants for name in others):
            return False
        dimensions = [len(self.constants[name].dims) for name in others]
        if node.op_type == "MatMul":
            return inputs[0] in self.unpadded and dimensions == [2]
        return node.op_type in _ELEMENTWISE and all(count <= 1 for count in dimensions)

    def _copy_unpadded(self, node: Any) -> None:
        """Append the same operator, reading and giving unpadded values."""
        import onnx

        name, inputs = node.output[0], [self.unpadded.get(each, each) for each in node.input]
        if node.op_type == _GELU:  # the bias apart, so that ONNX Runtime can fuse it with the product before it
            biased = self.add("Add", inputs, f"{name}/biased")
            self.node("Gelu", [biased], self._counterpart(name), domain=MICROSOFT)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        copy.output[0] = self._counterpart(name)
        self.nodes.append(copy)

    def _copy_padded(self, node: Any) -> None:
        """Append the node itself, with its inputs in their original form."""
        for name in node.input:
            self._restore_padding(name)
        self.nodes.append(node)

    def _counterpart(self, name: str) -> str:
        """Register the unpadded counterpart of a value, and return its name."""
        self.unpadded[name] = self.own(name)
        return self.unpadded[name]


def _packing_inputs() -> list[Any]:
    """Declare the inputs of `sequence_packing`."""
    from onnx import TensorProto, helper

    rows, width = "attention rows", "attention width"
    return [
        helper.make_tensor_value_info(ROWS, TensorProto.INT64, [rows, width]),
        helper.make_tensor_value_info(PLACES, TensorProto.INT64, ["all tokens"]),
        helper.make_tensor_value_info(BIAS, TensorProto.FLOAT, [rows, 1, width, width]),
    ]
