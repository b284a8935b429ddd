"""Quantise a graph to int8, in three ways that differ in where the ranges of activations come from.

`int8` has fixed ranges, of typical texts, and fused integer products. `int8-qdq` has the same ranges in the notation of
the ONNX standard, QuantizeLinear and DequantizeLinear around ordinary products, which a runtime fuses itself.
`int8-dynamic` computes ranges at run time, from all tokens of a run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.bundle.format import INT8, INT8_DYNAMIC, INT8_QDQ, cpu_features
from export.graph.activations import Feeds, activations, inputs
from export.graph.builder import head_nodes
from export.graph.fuse_int8 import fuse_int8
from export.graph.quiet import quiet
from export.graph.smoothquant import smoothquant
from export.graph.static_ranges import set_static_ranges

KINDS = (INT8, INT8_QDQ, INT8_DYNAMIC)
_PRODUCTS = ("MatMul", "Gemm")
_LOOKUP = "Gather"


def quantise(source: Path, target: Path, rows: Sequence[Sequence[int]], kind: str = INT8) -> Path:
    """Apply SmoothQuant, then quantise to int8 with a kind of ranges. The head, which decides, stays fp32.

    `rows` are token ids of typical texts, `kind` is one of `KINDS`. Without VNNI, sums of uint8 and int8 products
    saturate at 16 bits, so weights get 7 bits there.
    """
    import onnx

    model = onnx.load(str(source))
    exclude = [*head_nodes(model), *_scalar_lookups(model)]
    smoothed = smoothquant(source, target.with_name(f"smooth-{target.name}"), rows, exclude)
    if kind == INT8_QDQ:
        _quantise_qdq(smoothed, target, rows, exclude)
    else:
        _quantise_dynamically(smoothed, target, exclude)
    smoothed.unlink()
    if kind == INT8:
        set_static_ranges(target, target, rows)
        fuse_int8(target, target)
    return target


def saturates() -> bool:
    """Whether sums of uint8 and int8 products saturate at 16 bits on this machine."""
    features = cpu_features()["features"]
    return not any("vnni" in name or name in ("amx_int8", "asimddp", "i8mm") for name in features)


def _quantise_dynamically(source: Path, target: Path, exclude: Sequence[str]) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=True,
            reduce_range=saturates(),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*exclude],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )


def _quantise_qdq(source: Path, target: Path, rows: Sequence[Sequence[int]], exclude: Sequence[str]) -> None:
    """Put pairs of QuantizeLinear and DequantizeLinear before products with constants, and around lookups.

    What a product gives stays fp32: attention and norms read it. The types of activations are written down first,
    because the quantiser infers none behind ONNX Runtime's own operators, and leaves out what has no known type.
    """
    import onnx
    from onnx import helper
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(str(source))
    _join_biases(model, source, rows[:1])
    constants = {tensor.name for tensor in model.graph.initializer}
    own = [node for node in model.graph.node if node.name not in exclude]
    products = [node for node in own if node.op_type in _PRODUCTS and node.input[1] in constants]
    lookups = [node for node in own if node.op_type == _LOOKUP and _is_table(node.input[0], model)]
    known = {value.name for value in model.graph.value_info}
    unknown = {node.input[0] for node in products} | {node.output[0] for node in lookups}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in sorted(unknown - known)
    )
    onnx.save(model, str(source))
    with quiet():
        quantize_static(
            str(source),
            str(target),
            _Typical(model, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_PRODUCTS, _LOOKUP],
            nodes_to_quantize=[node.name for node in (*products, *lookups)],
            per_channel=True,
            reduce_range=saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "DefaultTensorType": onnx.TensorProto.FLOAT,
                "OpTypesToExcludeOutputQuantization": [*_PRODUCTS],
            },
        )


def _join_biases(model: Any, scratch: Path, rows: Sequence[Sequence[int]]) -> None:
    """Make Gemms of the products of two-dimensional activations and their biases.

    ONNX Runtime would do it itself when it loads the graph, but then the bias is not quantised, and it computes the
    whole in fp32.
    """
    from onnx import helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    names = list(dict.fromkeys(node.input[0] for node in products))
    seen = next(activations(model, names, rows, scratch)) if names and rows else {}
    flat = {name for name, value in seen.items() if value.ndim == 2}
    for product in products:
        following = readers[product.output[0]]
        if product.input[0] not in flat or len(following) != 1 or following[0].op_type != "Add":
            continue
        bias = [name for name in following[0].input if name in constants and len(constants[name].dims) == 1]
        if bias:
            inputs, output = [*product.input, *bias], following[0].output[0]
            joined = helper.make_node("Gemm", inputs, [output], name=product.name)
            graph.node.remove(following[0])
            product.CopyFrom(joined)


class _Typical:
    """Feeds typical texts to ONNX Runtime's calibration, one in a run."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]]) -> None:
        self._feeds: Iterator[Feeds] = inputs(rows, {value.name for value in model.graph.input})

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def _is_table(name: str, model: Any) -> bool:
    """Whether a name is that of a constant of floating-point rows."""
    import onnx

    return any(
        tensor.name == name and len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
        for tensor in model.graph.initializer
    )


def _scalar_lookups(model: Any) -> list[str]:
    """Return the names of the nodes that look up one number per token: it is an exponent, too coarse in 8 bits."""
    narrow = {table.name for table in model.graph.initializer if len(table.dims) == 2 and table.dims[1] == 1}
    return [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in narrow]
