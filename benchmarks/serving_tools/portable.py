"""Export the student with public tools alone: its plain ONNX graph, optimised and quantised by ONNX Runtime.

The servers of others run it, from a folder with the layout of a bundle. It has none of our own optimisations: no
unpadding, no SmoothQuant, no static ranges, no head in fp32.
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
    """Write the student of a folder to `target`; all files but the graph are those of its bundle.

    Raises DistillError if the folder holds no student, or the student of another bundle.
    """
    trained = load_student(student)
    if (trained.network.family, trained.labels) != (bundle.manifest.family, bundle.manifest.labels):
        raise DistillError(f"{student}: not the student of {bundle.path} (family or labels differ)")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_onnx(trained, folder / "plain.onnx")
        fuse(folder / "plain.onnx", folder / "fused.onnx", trained.network.module.config)
        quantise(folder / "fused.onnx", folder / MODEL)
        kept = {name: bundle.path / name for name in (TOKENIZER, REFERENCE, GOLDEN)}
        manifest = replace(bundle.manifest, variant=INT8, gates={}, measured={}, files={}, version="")
        write_bundle(target, {MODEL: folder / MODEL, **kept}, manifest)


def quantise(source: Path, target: Path) -> None:
    """Quantise dynamically to int8, with 7-bit weights where products saturate, as ONNX Runtime advises."""
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
    """Export as the plan on stdin says."""
    plan = json.load(sys.stdin)
    try:
        portable(Bundle.open(plan["bundle"]), Path(plan["student"]), Path(plan["target"]))
    except DistillError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
