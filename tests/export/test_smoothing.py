"""Smoothing changes nothing in fp32, and makes int8 keep what one large channel would drown."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import variants
from export.runtime import create_session
from export.smoothing import factors, smooth

WIDTH, OUTPUTS, WORDS = 16, 8, 40


@pytest.fixture
def graph(tmp_path):
    """Words are looked up and go through a product and a head; the first channel is a hundred times the others."""
    generator = np.random.default_rng(0)
    table = generator.normal(size=(WORDS, WIDTH)).astype(np.float32)
    spread = np.ones(WIDTH, np.float32)
    spread[0] = 100
    weights = generator.normal(size=(WIDTH, OUTPUTS)).astype(np.float32)
    weights[0] /= 100
    constants = {"table": table, "spread": spread, "weights": weights, "head": np.eye(OUTPUTS, dtype=np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"], name="lookup"),
        helper.make_node("Mul", ["looked_up", "spread"], ["words"]),
        helper.make_node("MatMul", ["words", "weights"], ["hidden"], name="product"),
        helper.make_node("ReduceMean", ["hidden", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"], name="the head"),
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


def answers(path, rows):
    session = create_session(path)
    return np.concatenate([session.run(["logits"], {"input_ids": np.array([row])})[0] for row in rows])


def unchanged(source, target, rows, exclude):
    target.write_bytes(source.read_bytes())
    return target


def test_a_smooth_graph_computes_the_same(graph, rows, tmp_path):
    smoothed = smooth(graph, tmp_path / "smooth.onnx", rows, exclude=["the head"])
    np.testing.assert_allclose(answers(smoothed, rows), answers(graph, rows), rtol=1e-4, atol=1e-4)
    products = [node for node in onnx.load(smoothed).graph.node if node.op_type == "MatMul"]
    assert [node.input[0] for node in products] == ["words/smooth", "mean"]


def test_int8_after_smoothing_keeps_what_one_large_channel_would_drown(graph, rows, tmp_path, monkeypatch):
    exact = answers(graph, rows)
    errors = {}
    for name, change in {"smooth": smooth, "rough": unchanged}.items():
        monkeypatch.setattr(variants, "smooth", change)
        int8 = variants.quantise(graph, tmp_path / f"{name}.onnx", rows)
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
    smoothed = smooth(graph, tmp_path / "smooth.onnx", rows, exclude=["product", "the head"])
    assert len(onnx.load(smoothed).graph.node) == len(onnx.load(graph).graph.node)
