"""Compare OpenVINO with ONNX Runtime on the graphs of a student, paired: whether it is worth a provider.

    pip install --target FOLDER openvino
    PYTHONPATH=FOLDER python benchmarks/openvino_pairs.py TASK RUN STUDENT... [--core 1]

Both run in this process on one thread, and take turns on every text of the test split. ONNX Runtime runs the graph that
an export serves on a CPU, int8. OpenVINO runs the graphs that it can read: fp32 in 32 bits and in bfloat16, int8 as
QuantizeLinear and DequantizeLinear, and the portable form of the served graph. A ratio above 1 says that OpenVINO is
faster. Texts are tokenised before. Times are those of the CPU in all threads of this process, so that what else the
machine does is not in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from variants import chosen, load, make

from distill.students.student import Student, load_student
from export.bundle.classifier import INPUTS, OUTPUTS, Encoded
from export.bundle.format import INT8, INT8_QDQ, PLAIN
from export.graph.portable import make_portable
from export.graph.quantise import quantise
from export.selection import evenly_spaced

TEXTS = 100
TYPICAL_TEXTS = 200
ROUNDS = 2
WARM_UP = 20

Logits = npt.NDArray[np.float32]
Answer = Callable[[list[int]], Logits]


def by_openvino(graph: Path, precision: str) -> Answer:
    """Return what answers token ids with a graph that OpenVINO compiled."""
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(core.read_model(str(graph)), "CPU", settings)
    request = compiled.create_infer_request()
    wanted = {name for each in compiled.inputs for name in each.get_names()}
    place = next(at for at, each in enumerate(compiled.outputs) if OUTPUTS[0] in each.get_names())

    def answer(ids: list[int]) -> Logits:
        row = np.array([ids], dtype=np.int64)
        feeds: dict[str, Any] = dict(zip(INPUTS, (row, np.ones_like(row)), strict=True))
        found = request.infer({name: value for name, value in feeds.items() if name in wanted})
        return np.array(found[place][0])

    return answer


def compare(student: Student, typical: Sequence[str], texts: Sequence[str]) -> None:
    """Print a table for a student."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "graphs"
        graphs = make(student, folder, typical)
        served = load(student, {INT8: graphs[INT8]})[INT8]
        rows = [served.encode(text).ids for text in texts]
        qdq = quantise(graphs[PLAIN], folder / "plain-qdq.onnx", student.encode(typical), INT8_QDQ)
        portable = make_portable(graphs[INT8], folder / "portable.onnx")
        contenders: dict[str, Answer] = {
            "ONNX Runtime, int8, as served": lambda ids: served.run([Encoded(ids, truncated=False)])[0].logits,
        }
        for name, graph, precision in (
            ("OpenVINO, fp32", graphs[PLAIN], "f32"),
            ("OpenVINO, bfloat16", graphs[PLAIN], "bf16"),
            ("OpenVINO, int8 (QDQ)", qdq, "f32"),
            ("OpenVINO, int8 (QDQ), the rest bfloat16", qdq, "bf16"),
            ("OpenVINO, int8 (portable graph)", portable, "f32"),
        ):
            try:
                answer = by_openvino(graph, precision)
                answer(rows[0])
            except Exception as error:  # it raises RuntimeError for what it cannot read
                print(f"{name}: {str(error).splitlines()[0]}")
                continue
            contenders[name] = answer
        spent: dict[str, list[float]] = {name: [] for name in contenders}
        choices: dict[str, list[int]] = {name: [] for name in contenders}
        for answer in contenders.values():
            for ids in rows[:WARM_UP]:
                answer(ids)
        for _ in range(ROUNDS):
            for ids in rows:
                for name, answer in contenders.items():
                    start = time.process_time()
                    logits = answer(ids)
                    spent[name].append(time.process_time() - start)
                    choices[name].append(int(logits.argmax()))
    own, *others = spent
    base = np.array(spent[own])
    print("| runtime and graph | CPU ms per text | times as fast as ONNX Runtime (quartiles) | same label |")
    print("|---|---|---|---|")
    print(f"| {own} | {1000 * np.median(base):.3f} | 1 | |")
    for name in others:
        ratios = base / np.array(spent[name])
        low, high = np.quantile(ratios, (0.25, 0.75))
        same = np.mean(np.array(choices[name]) == np.array(choices[own]))
        print(
            f"| {name} | {1000 * np.median(spent[name]):.3f} | {np.median(ratios):.2f} ({low:.2f} to {high:.2f}) "
            f"| {100 * same:.1f} % |"
        )


def main() -> None:
    """Compare the students that are named."""
    run, students = chosen(__doc__)
    splits = run.splits()
    texts = evenly_spaced(splits.test.texts, TEXTS)
    print(f"OpenVINO {openvino.__version__}, {len(texts)} texts, {ROUNDS} rounds, one thread")
    for name in students:
        print(f"\n{name}\n")
        compare(load_student(run.student(name).path), evenly_spaced(splits.validation.texts, TYPICAL_TEXTS), texts)


if __name__ == "__main__":
    main()
