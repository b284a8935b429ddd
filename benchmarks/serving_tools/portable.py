"""The student as others export it: its plain ONNX graph, optimised and quantised by ONNX Runtime's own tools alone.

It becomes a folder with the layout of a bundle, which the servers of others run. What `export` does of its own is not
in it: no packing, no smoothing, no learnt ranges, no head in fp32.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from distill.errors import DistillError
from distill.students.student import load_student
from export.bundle.format import GOLDEN, INT8, MODEL, REFERENCE, TOKENIZER, Bundle, write_bundle
from export.graph.quiet import quiet
from export.graph.variants import fuse, saturates
from export.torch_to_onnx import export_onnx


def portable(bundle: Bundle, student: Path, target: Path) -> None:
    """Write the student of a folder at `target`, with all but the graph as in its bundle.

    Raises DistillError for a folder that holds no student, or that of another bundle.
    """
    trained = load_student(student)
    if (trained.network.family, trained.labels) != (bundle.manifest.family, bundle.manifest.labels):
        raise DistillError(f"{student}: not of the family and labels of {bundle.path}; give the student of that bundle")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_onnx(trained, folder / "plain.onnx")
        fuse(folder / "plain.onnx", folder / "fused.onnx", trained.network.module.config)
        quantise(folder / "fused.onnx", folder / MODEL)
        kept = {name: bundle.path / name for name in (TOKENIZER, REFERENCE, GOLDEN)}
        manifest = replace(bundle.manifest, variant=INT8, gates={}, measured={}, files={}, version="")
        write_bundle(target, {MODEL: folder / MODEL, **kept}, manifest)


def quantise(source: Path, target: Path) -> None:
    """Dynamic int8 by ONNX Runtime, with 7 bits for weights where products saturate, as its documentation advises."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=True,
            reduce_range=saturates(),
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # the fused operators have no known type
        )


def main() -> None:
    """Write what the plan on stdin asks for."""
    plan = json.load(sys.stdin)
    try:
        portable(Bundle.open(plan["bundle"]), Path(plan["student"]), Path(plan["target"]))
    except DistillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
