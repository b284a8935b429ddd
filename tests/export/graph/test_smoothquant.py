"""Smoothing changes nothing in fp32, and makes int8 keep what one large channel would drown."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.bundle.sequence_packing import SequencePacking
from export.bundle.session import create_session
from export.graph.builder import head_nodes
from export.graph.quantise import quantise
from export.graph.smoothquant import factors, smoothquant
from export.graph.unpad import unpad

WIDTH, OUTPUTS, WORDS = 16, 8, 40
LAYERS = 2  # of the encoder


@pytest.fixture(params=["MatMul", "Gemm"])
def graph(request, tmp_path):
    """Words are looked up and go through a product and a head; the first channel is a hundred times the others."""
    generator = np.random.default_rng(0)
    table = generator.normal(size=(WORDS, WIDTH)).astype(np.float32)
    spread = np.ones(WIDTH, np.float32)
    spread[0] = 100
    weights = generator.normal(size=(WIDTH, OUTPUTS)).astype(np.float32)
    weights[0] /= 100
    product = helper.make_node("MatMul", ["words", "weights"], ["hidden"], name="product")
    if request.param == "Gemm":
        weights = np.ascontiguousarray(weights.T)
        product = helper.make_node("Gemm", ["words", "weights"], ["hidden"], name="product", transB=1)
    constants = {"table": table, "spread": spread, "weights": weights, "head": np.eye(OUTPUTS, dtype=np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"], name="lookup"),
        helper.make_node("ReduceMean", ["looked_up", "axis"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "spread"], ["words"]),
        product,
        helper.make_node("MatMul", ["hidden", "head"], ["logits"], name="the head"),
    ]
    path = tmp_path / "plain.onnx"
    made = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", OUTPUTS])],
        [
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture
def rows():
    generator = np.random.default_rng(1)
    return [generator.integers(0, WORDS, size=length).tolist() for length in range(1, 30)]


@pytest.fixture
def unpadded(lively, tmp_path):
    return unpad(lively["encoder"], tmp_path / "unpadded.onnx")


def answers(path, rows):
    session = create_session(path)
    takes = {value.name for value in session.get_inputs()}
    found = []
    for row in rows:
        ids = np.array([row])
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids)} | SequencePacking(len(row)).pack([len(row)])
        found.append(session.run(["logits"], {name: given[name] for name in takes})[0])
    return np.concatenate(found)


def divided(path):
    """What a graph divides by an operator of its own."""
    return [node.input[0] for node in onnx.load(path).graph.node if node.name.endswith("/smooth")]


def shown_too(path, part, target):
    """A graph that also gives a part of its first attention's values: one of their nodes' outputs, or a constant."""
    model = onnx.load(path)
    names = {each for node in model.graph.node for each in [*node.input, *node.output]}
    name = min(each for each in names if each.endswith(part))
    model.graph.node.append(helper.make_node("Identity", [name], ["shown"]))
    model.graph.output.append(helper.make_empty_tensor_value_info("shown"))
    onnx.save(model, target)
    return target


def unchanged(source, target, rows, exclude):
    target.write_bytes(source.read_bytes())
    return target


def test_a_smooth_graph_computes_the_same(graph, rows, tmp_path):
    smoothed = smoothquant(graph, tmp_path / "smooth.onnx", rows, exclude=["the head"])
    np.testing.assert_allclose(answers(smoothed, rows), answers(graph, rows), rtol=1e-4, atol=1e-4)
    products = [node for node in onnx.load(smoothed).graph.node if node.op_type in ("MatMul", "Gemm")]
    assert [node.input[0] for node in products] == ["words/smooth", "hidden"]


def test_int8_after_smoothing_keeps_what_one_large_channel_would_drown(graph, rows, tmp_path, monkeypatch):
    exact = answers(graph, rows)
    errors = {}
    for name, change in {"smooth": smoothquant, "rough": unchanged}.items():
        monkeypatch.setattr("export.graph.quantise.smoothquant", change)
        int8 = quantise(graph, tmp_path / f"{name}.onnx", rows)
        errors[name] = float(np.abs(answers(int8, rows) - exact).mean())
    assert errors["smooth"] < errors["rough"] / 2


def test_large_channels_are_divided_and_the_size_of_all_stays():
    made = factors(np.array([100.0, 1.0, 1.0], np.float32), [np.ones((3, 2), np.float32)])
    assert made.dtype == np.float32
    assert made[0] > 10 * made[1]
    assert made[1] == made[2]
    assert np.exp(np.log(made).mean()) == pytest.approx(1, rel=1e-5)


def test_channels_that_are_never_used_do_no_harm():
    made = factors(np.array([0.0, 1.0], np.float32), [np.zeros((2, 2), np.float32)])
    assert np.isfinite(made).all()
    assert (made > 0).all()


def test_a_graph_without_products_is_left_as_it_is(graph, rows, tmp_path):
    smoothed = smoothquant(graph, tmp_path / "smooth.onnx", rows, exclude=["product", "the head"])
    assert len(onnx.load(smoothed).graph.node) == len(onnx.load(graph).graph.node)


def test_what_attention_gives_is_divided_where_its_values_are_made(unpadded, rows, tmp_path):
    smoothed = smoothquant(unpadded, tmp_path / "smooth.onnx", rows, exclude=head_nodes(onnx.load(unpadded)))
    np.testing.assert_allclose(answers(smoothed, rows), answers(unpadded, rows), rtol=1e-3, atol=1e-4)
    assert len(divided(smoothed)) == 3 * LAYERS


@pytest.mark.parametrize("part", ["/value/product", "/value/projected", "weight/value", "vector2/value"])
def test_values_that_something_else_reads_stay_as_they_are(unpadded, rows, tmp_path, part):
    shown = shown_too(unpadded, part, tmp_path / "shown.onnx")
    smoothed = smoothquant(shown, tmp_path / "smooth.onnx", rows, exclude=head_nodes(onnx.load(unpadded)))
    np.testing.assert_allclose(answers(smoothed, rows), answers(unpadded, rows), rtol=1e-3, atol=1e-4)
    assert len(divided(smoothed)) == 3 * LAYERS + 1
