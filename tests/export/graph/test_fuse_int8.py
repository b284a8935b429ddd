"""Integer products that take in their scales compute what they did, and others are left as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle.classifier import OUTPUTS
from export.bundle.sequence_packing import SequencePacking
from export.bundle.session import create_session
from export.graph.fuse_int8 import fuse_int8
from export.graph.quantise import quantise
from export.graph.unpad import unpad

INPUTS, UNITS = 6, 5
FUSED = "MatMulIntegerToFloat"
FLOATS = np.random.default_rng(0).normal(size=(3, 2, INPUTS)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    """`source(bias=…, …)`: a graph of one product of `x`, as quantised with fixed ranges.

    `bias` is added to it, `zeros` says how many of the product's zero points are given, `shown` names values that are
    outputs too, `read` those that have a second reader, and `scales` replaces the product of both scales by a constant.
    """

    def make(bias=None, *, bias_first=False, zeros=2, shown=(), read=(), scales=True):
        generator = np.random.default_rng(1)
        constants: dict[str, np.ndarray] = {
            "x_scale": np.array(0.02, np.float32),
            "x_zero": np.array(120 if zeros else 0, np.uint8),
            "weights": generator.integers(-60, 60, size=(INPUTS, UNITS)).astype(np.int8),
            "w_scale": generator.uniform(0.001, 0.01, size=UNITS).astype(np.float32),
            "w_zero": generator.integers(-9, 9, size=UNITS).astype(np.int8),
        }
        points = ["x_zero", "w_zero"][:zeros]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
            helper.make_node("MatMulInteger", ["q", "weights", *points], ["product"], name="the product"),
            helper.make_node("Cast", ["product"], ["cast"], to=TensorProto.FLOAT),
        ]
        if scales:
            nodes.append(helper.make_node("Mul", ["x_scale", "w_scale"], ["scales"]))
        else:
            constants["scales"] = constants["x_scale"] * constants["w_scale"]
        nodes.append(helper.make_node("Mul", ["cast", "scales"], ["scaled"]))
        last = "scaled"
        if bias is not None:
            constants["bias"] = np.asarray(bias, np.float32)
            added = ["bias", "scaled"] if bias_first else ["scaled", "bias"]
            nodes.append(helper.make_node("Add", added, ["biased"]))
            last = "biased"
        nodes.append(helper.make_node("Tanh", [last], ["y"]))
        nodes += [helper.make_node("Neg", [name], [f"{name}/read"]) for name in read]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        outputs += [helper.make_empty_tensor_value_info(name) for name in (*shown, *(f"{name}/read" for name in read))]
        graph = helper.make_graph(
            nodes,
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", INPUTS])],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        path = tmp_path / "source.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return make


@pytest.fixture
def fused(tmp_path):
    """`fused(source)`: what `fuse_int8` makes of a graph."""
    return lambda source: fuse_int8(source, tmp_path / "fused.onnx")


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def node_of(path, kind):
    (node,) = (node for node in onnx.load(path).graph.node if node.op_type == kind)
    return node


def assert_same_answers(source, target):
    before, after = create_session(source), create_session(target)
    names = [value.name for value in before.get_outputs()]
    assert [value.name for value in after.get_outputs()] == names
    for name, one, other in zip(names, before.run(names, {"x": FLOATS}), after.run(names, {"x": FLOATS}), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6, err_msg=name)


def dead(path):
    """Nodes whose outputs nobody reads."""
    graph = onnx.load(path).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return [node.output[0] for node in graph.node if not set(node.output) & read]


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_a_product_takes_in_its_scales(source, fused, zeros):
    path = source(zeros=zeros)
    assert kinds(fused(path)) == ["QuantizeLinear", FUSED, "Tanh"]
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("bias_first", [False, True])
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_a_bias_that_is_a_vector_is_fused_too(source, fused, zeros, bias_first):
    path = source(np.linspace(-1, 1, UNITS), zeros=zeros, bias_first=bias_first)
    assert kinds(fused(path)) == ["QuantizeLinear", FUSED, "Tanh"]
    assert node_of(fused(path), FUSED).input[6] == "bias"
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("shape", [(), (1,), (1, UNITS), (2, UNITS), (2, 1)])
def test_a_bias_of_another_shape_stays(source, fused, shape):
    path = source(np.random.default_rng(2).normal(size=shape))
    assert kinds(fused(path)) == ["QuantizeLinear", FUSED, "Add", "Tanh"]
    assert_same_answers(path, fused(path))


def test_a_bias_that_is_computed_stays(source, fused):
    path = source(np.linspace(-1, 1, UNITS))
    model = onnx.load(path)
    next(tensor for tensor in model.graph.initializer if tensor.name == "bias").name = "given"
    model.graph.node.insert(0, helper.make_node("Neg", ["given"], ["bias"]))
    onnx.save(model, path)
    assert kinds(fused(path)) == ["Neg", "QuantizeLinear", FUSED, "Add", "Tanh"]
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("name", ["product", "cast"])
@pytest.mark.parametrize("how", ["shown", "read"])
def test_a_product_whose_steps_are_of_use_elsewhere_is_left_as_it_is(source, fused, name, how):
    path = source(np.linspace(-1, 1, UNITS), **{how: (name,)})
    assert onnx.load(fused(path)).graph == onnx.load(path).graph
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("how", ["shown", "read"])
def test_a_bias_is_left_where_the_scaled_product_is_of_use_elsewhere(source, fused, how):
    path = source(np.linspace(-1, 1, UNITS), **{how: ("scaled",)})
    made = kinds(fused(path))
    assert [kind for kind in made if kind != "Neg"] == ["QuantizeLinear", FUSED, "Add", "Tanh"]
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("bias", [None, np.linspace(-1, 1, UNITS)])
def test_the_end_of_a_product_may_be_an_output(source, fused, bias):
    path = source(bias, shown=("scaled" if bias is None else "biased",))
    assert kinds(fused(path)) == ["QuantizeLinear", FUSED, "Tanh"]
    assert_same_answers(path, fused(path))


@pytest.mark.parametrize("how", ["shown", "read"])
def test_scales_that_are_of_use_elsewhere_stay(source, fused, how):
    path = source(**{how: ("scales",)})
    made = kinds(fused(path))
    assert FUSED in made
    assert made.count("Mul") == 1
    assert_same_answers(path, fused(path))


def test_a_product_whose_scales_are_folded_is_left_as_it_is(source, fused):
    path = source(np.linspace(-1, 1, UNITS), scales=False)
    assert onnx.load(fused(path)).graph == onnx.load(path).graph


def test_the_product_keeps_its_name(source, fused):
    assert node_of(fused(source()), FUSED).name == "the product"


def test_the_domain_of_the_new_operator_is_imported_once(source, fused, tmp_path):
    once = fused(source())
    twice = fuse_int8(once, tmp_path / "twice.onnx")
    for path in (once, twice):
        assert [entry.domain for entry in onnx.load(path).opset_import] == ["", "com.microsoft"]


def test_a_graph_may_be_written_over_its_source(source, fused):
    path = source(np.linspace(-1, 1, UNITS))
    elsewhere = onnx.load(fused(path))
    assert fuse_int8(path, path) == path
    assert onnx.load(path) == elsewhere


def test_the_source_is_left_as_it_was(source, fused):
    path = source(np.linspace(-1, 1, UNITS))
    before = path.read_bytes()
    fused(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("family", ["encoder", "static"])
def test_a_graph_without_integer_products_is_left_as_it_is(graphs, fused, family):
    assert onnx.load(fused(graphs[family])) == onnx.load(graphs[family])


@pytest.mark.parametrize(("family", "products"), [("encoder", 2 * 6), ("sequence-classifier", 3 * 6 + 1)])
def test_an_int8_encoder_computes_the_same(
    students, lively, validation, tmp_path, monkeypatch, fused, family, products
):
    rows = students[family].encode(validation.texts)
    monkeypatch.setattr("export.graph.quantise.fuse_int8", lambda source, target: source)
    before = quantise(unpad(lively[family], tmp_path / "unpadded.onnx"), tmp_path / "int8.onnx", rows)
    after = fused(before)

    assert kinds(before).count("MatMulInteger") == products
    assert kinds(after).count(FUSED) == products
    assert "MatMulInteger" not in kinds(after)
    # Each has its bias: the projections, what the two norms add to, what GELU gets, and the pooler.
    assert sum(len(node.input) == 7 for node in onnx.load(after).graph.node if node.op_type == FUSED) == products
    assert not dead(after)
    sessions = [create_session(path) for path in (before, after)]
    for row in rows[:8]:
        ids = np.array([row], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)} | SequencePacking(len(row)).pack([len(row)])
        for one, other in zip(*(session.run(list(OUTPUTS), feeds) for session in sessions), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
