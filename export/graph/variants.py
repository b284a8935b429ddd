"""Make the variants of one graph: plain fp32, fused fp32, three kinds of int8, fp16.

How fast they are is measured in `speed`; whether one is good enough is decided in `export.gates`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from export.bundle.classifier import Classifier, GraphTokenizer
from export.bundle.format import FP16, FUSED, INT8, PLAIN
from export.bundle.session import create_session
from export.graph.float16 import to_float16
from export.graph.head_counts import write_head_counts
from export.graph.quantise import KINDS, quantise
from export.graph.quiet import quiet
from export.graph.unpad import unpad

REDUCED = (*KINDS, FP16)
"""The variants that compute with less than 32 bits, and so only approximately the same."""

_FUSIONS = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "distilbert": "bert",
    "mpnet": "bert",
    "electra": "bert",
}


def make_variants(
    plain: Path,
    folder: Path,
    config: Any | None,
    rows: Sequence[Sequence[int]],
    reduced: Collection[str] = (INT8,),
    *,
    gpu: bool = False,
) -> dict[str, Path]:
    """Write the variants of an fp32 graph into a folder and return their paths: `plain` first, those of `REDUCED` last.

    `config` is the encoder's, or None for a graph without attention, which has nothing to fuse. `rows` are token ids
    of typical texts, from which int8 takes its fixed ranges. `reduced` says which of `REDUCED` to make. On a GPU,
    computing padding costs less than avoiding it: with `gpu` the fused variant keeps it, and fp16 always does.
    """
    paths, fused, unpadded = {PLAIN: plain}, plain, plain
    if config is not None and config.model_type in _FUSIONS:
        fused = fuse(plain, folder / "fused.onnx", config)
        unpadded = unpad(fused, folder / "unpadded.onnx")
        paths[FUSED] = fused if gpu else unpadded
    for kind in (kind for kind in KINDS if kind in reduced):
        paths[kind] = quantise(unpadded, folder / f"{kind}.onnx", rows, kind)
    if FP16 in reduced:
        paths[FP16] = to_float16(fused, folder / "fp16.onnx")
    return paths


def fuse(source: Path, target: Path, config: Any) -> Path:
    """Fuse attention, layer norm and GELU into ONNX Runtime's own operators. Exact up to rounding."""
    from onnxruntime.transformers.optimizer import optimize_model

    counted = write_head_counts(source, target.with_name(f"counted-{target.name}"))
    with quiet():
        model = optimize_model(
            str(counted),
            model_type=_FUSIONS[config.model_type],
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            opt_level=1,
        )
        model.save_model_to_file(str(target))
    counted.unlink()
    return target


def load_variants(paths: dict[str, Path], tokenizer: Path, max_tokens: int, classes: int) -> dict[str, Classifier]:
    """Load a classifier, on one thread, for each variant."""
    shared = GraphTokenizer(tokenizer, max_tokens)
    return {
        name: Classifier(create_session(path, max_tokens=max_tokens), shared, classes) for name, path in paths.items()
    }
