"""Ranges of activations are those of typical texts, so that a text's answer does not depend on its neighbours."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.bundle.session import create_session
from export.graph.static_ranges import set_static_ranges, uint8_range

CALM, LOUD = 1, 2
"""Token ids whose embeddings are small, and large."""


@pytest.fixture
def dynamic(tmp_path):
    """A graph that looks up token ids and quantises what it found by the range that it has there."""
    table = np.array([[0.0, 0.0], [-1.0, 0.5], [-50.0, 100.0]], np.float32)
    weights = np.array([[100, -20], [7, 90]], np.int8)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("DynamicQuantizeLinear", ["found"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "weights", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "tokens", 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def answer(path, *rows):
    return create_session(path).run(["out"], {"input_ids": np.array(rows, np.int64)})[0]


def test_an_answer_depends_on_neighbours_with_dynamic_ranges_and_not_with_fixed_ones(dynamic, tmp_path):
    fixed = set_static_ranges(dynamic, tmp_path / "fixed.onnx", [[CALM, LOUD]])
    changed = [
        np.abs(answer(path, [CALM, 0], [LOUD, LOUD])[0] - answer(path, [CALM, 0])[0]).max() for path in (dynamic, fixed)
    ]
    assert changed[0] > 1
    assert changed[1] == 0


def test_the_ranges_are_those_of_the_typical_rows(dynamic, tmp_path):
    path = set_static_ranges(dynamic, tmp_path / "fixed.onnx", [[CALM], [CALM, 0]])
    constants = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    assert constants["scale"] == pytest.approx(1.5 / 255)
    assert constants["zero"] == 170


def test_the_fixed_graph_computes_the_same_within_its_ranges_and_cuts_off_beyond(dynamic, tmp_path):
    calm = set_static_ranges(dynamic, tmp_path / "calm.onnx", [[CALM]])
    np.testing.assert_allclose(answer(calm, [CALM]), answer(dynamic, [CALM]), rtol=1e-5)
    np.testing.assert_allclose(answer(calm, [LOUD]), answer(calm, [CALM]), rtol=1e-5)


def test_a_graph_without_dynamic_ranges_is_left_as_it_is(dynamic, tmp_path):
    once = set_static_ranges(dynamic, tmp_path / "once.onnx", [[CALM, LOUD]])
    twice = set_static_ranges(once, tmp_path / "twice.onnx", [[CALM]])
    assert twice.read_bytes() == once.read_bytes()


def test_a_graph_may_be_written_over_its_source(dynamic):
    set_static_ranges(dynamic, dynamic, [[CALM, LOUD]])
    assert "DynamicQuantizeLinear" not in {node.op_type for node in onnx.load(dynamic).graph.node}
    assert [value.name for value in onnx.load(dynamic).graph.output] == ["out"]


@given(st.floats(-1e4, 0), st.floats(0, 1e4))
def test_a_step_and_its_zero_point_cover_the_range_with_0_exact(lowest, highest):
    step, zero = uint8_range(lowest, highest)
    assert 0 <= zero <= 255
    assert -zero * step <= lowest + step / 2 + 1e-9
    assert (255 - zero) * step >= highest - step / 2 - 1e-9
