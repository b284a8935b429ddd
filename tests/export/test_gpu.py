"""What only a machine with a GPU can tell: there a graph answers what it answers on the CPU, in every shape.

Skipped without one. `docs/gpu.md` says how to run it.
"""

import ctypes

import numpy as np
import onnxruntime
import pytest

from distill.students.student import TOKENIZER
from export.bundle.classifier import Classifier, GraphTokenizer
from export.bundle.format import FP16, FUSED, PLAIN
from export.bundle.providers import CPU, CUDA, TENSORRT, Device
from export.bundle.session import create_session, has_gpu
from export.graph.variants import make_variants

pytestmark = pytest.mark.skipif(not has_gpu(), reason="needs a GPU and reflux[gpu]")


def has_tensorrt():
    """A build of ONNX Runtime with TensorRT's provider names it, whether the library is there or not."""
    if TENSORRT not in onnxruntime.get_available_providers():
        return False
    try:
        ctypes.CDLL("libnvinfer.so.10")
    except OSError:
        return False
    return True


TOLERANCES = {PLAIN: 1e-3, FUSED: 1e-3, FP16: 0.02}
ON_CUDA = [(CUDA, Device("cuda"), variant) for variant in TOLERANCES]
ON_TENSORRT = [(TENSORRT, Device("tensorrt"), PLAIN), (TENSORRT, Device("tensorrt", fp16=True), PLAIN)]


@pytest.fixture(scope="module")
def load(students, graphs, tmp_path_factory):
    """`load(variant, device)`: the encoder's classifier."""
    student, folder = students["encoder"], tmp_path_factory.mktemp("gpu")
    rows = student.encode(["my invoice is late"])
    paths = make_variants(graphs["encoder"], folder, student.network.module.config, rows, (FP16,))
    student.tokenizer.save(str(folder / TOKENIZER))
    tokenizer = GraphTokenizer(folder / TOKENIZER, student.max_tokens)

    def make(variant, device):
        session = create_session(paths[variant], device=device, max_tokens=student.max_tokens)
        return Classifier(session, tokenizer, len(student.labels))

    return make


@pytest.mark.parametrize(("provider", "device", "variant"), [*ON_CUDA, *ON_TENSORRT])
def test_a_graph_answers_on_a_gpu_what_it_does_on_the_cpu(load, validation, provider, device, variant):
    if provider == TENSORRT and not has_tensorrt():
        pytest.skip("needs TensorRT's libraries")
    gpu, cpu = load(variant, device), load(PLAIN, Device("cpu"))
    assert (gpu.provider, cpu.provider) == (provider, CPU)
    tolerance = 0.02 if provider == TENSORRT else TOLERANCES[variant]
    rows = [cpu.encode(text) for text in validation.texts]
    expected = np.stack([cpu.run([row])[0].probabilities for row in rows])
    for count in (1, 2, 3, 7, 40, len(rows)):
        batches = [rows[start : start + count] for start in range(0, len(rows), count)]
        found = np.stack([answer.probabilities for batch in batches for answer in gpu.run(batch)])
        np.testing.assert_allclose(found, expected, atol=tolerance)
