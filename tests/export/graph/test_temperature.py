"""The temperature of a graph can be changed without changing anything else."""

import numpy as np
import onnx
import pytest
from scipy.special import softmax

from export.bundle.session import create_session
from export.graph.float16 import to_float16
from export.graph.temperature import set_temperature
from export.torch_to_onnx import export_onnx

IDS = np.array([[1, 5, 6, 2], [1, 9, 8, 2]], dtype=np.int64)


def run(path):
    feeds = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
    return create_session(path).run(["logits", "probabilities", "embedding"], feeds)


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_logits_and_embedding_stay_and_probabilities_follow(graphs, student, tmp_path, temperature, float16):
    source = graphs[student.network.family]
    source = to_float16(source, tmp_path / "fp16.onnx") if float16 else source
    target = set_temperature(source, tmp_path / "changed.onnx", temperature)
    before, after = run(source), run(target)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[2], before[2])
    np.testing.assert_allclose(after[1], softmax(before[0] / temperature, axis=1), rtol=1e-4, atol=1e-7)
    assert len(onnx.load(target).graph.initializer) == len(onnx.load(source).graph.initializer)


def test_a_graph_without_a_division_gets_one(students, tmp_path):
    """Optimisers remove a division by 1."""
    export_onnx(students["static"].with_temperature(1.0), tmp_path / "plain.onnx")
    model = onnx.load(tmp_path / "plain.onnx")
    (activation,) = (node for node in model.graph.node if "probabilities" in node.output)
    (division,) = (node for node in model.graph.node if activation.input[0] in node.output)
    activation.input[0] = division.input[0]
    model.graph.node.remove(division)
    onnx.save(model, tmp_path / "plain.onnx")
    logits, probabilities, _ = run(set_temperature(tmp_path / "plain.onnx", tmp_path / "changed.onnx", 2.0))
    np.testing.assert_allclose(probabilities, softmax(logits / 2, axis=1), rtol=1e-4)
