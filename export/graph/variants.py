"""Make the variants of one graph (plain fp32, fused fp32, int8, fp16) and measure how fast each runs on this machine.

Whether a variant is good enough is decided in `gates`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle.classifier import Classifier, GraphTokenizer
from export.bundle.format import FP16, FUSED, INT8, PLAIN, cpu_features
from export.bundle.session import create_session
from export.graph.builder import head_nodes
from export.graph.float16 import to_float16
from export.graph.fuse_int8 import fuse_int8
from export.graph.quiet import quiet
from export.graph.smoothquant import smoothquant
from export.graph.static_ranges import set_static_ranges
from export.graph.unpad import unpad

REDUCED = (INT8, FP16)
"""The variants that compute with less than 32 bits, and so only approximately the same."""

_FUSIONS = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "distilbert": "bert",
    "mpnet": "bert",
    "electra": "bert",
}
ROUNDS = 5
"""How many times `measure` goes over its texts."""


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
    of typical texts, from which int8 takes its ranges. `reduced` says which of `REDUCED` to make. On a GPU, computing
    padding costs less than avoiding it: with `gpu` the fused variant keeps it, and fp16 always does.
    """
    paths, fused, unpadded = {PLAIN: plain}, plain, plain
    if config is not None and config.model_type in _FUSIONS:
        fused = fuse(plain, folder / "fused.onnx", config)
        unpadded = unpad(fused, folder / "unpadded.onnx")
        paths[FUSED] = fused if gpu else unpadded
    if INT8 in reduced:
        paths[INT8] = quantise(unpadded, folder / "int8.onnx", rows)
    if FP16 in reduced:
        paths[FP16] = to_float16(fused, folder / "fp16.onnx")
    return paths


def fuse(source: Path, target: Path, config: Any) -> Path:
    """Fuse attention, layer norm and GELU into ONNX Runtime's own operators. Exact up to rounding."""
    from onnxruntime.transformers.optimizer import optimize_model

    with quiet():
        model = optimize_model(
            str(source),
            model_type=_FUSIONS[config.model_type],
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            opt_level=1,
        )
        model.save_model_to_file(str(target))
    return target


def quantise(source: Path, target: Path, rows: Sequence[Sequence[int]]) -> Path:
    """Apply SmoothQuant, then quantise to int8 with the static ranges of `rows`. The head, which decides, stays fp32.

    Without VNNI, sums of uint8 and int8 products saturate at 16 bits, so weights get 7 bits there.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    exclude = [*head_nodes(model), *_scalar_lookups(model)]
    smoothed = smoothquant(source, target.with_name(f"smooth-{target.name}"), rows, exclude)
    with quiet():
        quantize_dynamic(
            str(smoothed),
            str(target),
            per_channel=True,
            reduce_range=saturates(),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=exclude,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    smoothed.unlink()
    set_static_ranges(target, target, rows)
    return fuse_int8(target, target)


def saturates() -> bool:
    """Whether sums of uint8 and int8 products saturate at 16 bits on this machine."""
    features = cpu_features()["features"]
    return not any("vnni" in name or name in ("amx_int8", "asimddp", "i8mm") for name in features)


def _scalar_lookups(model: Any) -> list[str]:
    """Return the names of the nodes that look up one number per token: it is an exponent, too coarse in 8 bits."""
    narrow = {table.name for table in model.graph.initializer if len(table.dims) == 2 and table.dims[1] == 1}
    return [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in narrow]


def load_variants(paths: dict[str, Path], tokenizer: Path, max_tokens: int, classes: int) -> dict[str, Classifier]:
    """Load a classifier, on one thread, for each variant."""
    shared = GraphTokenizer(tokenizer, max_tokens)
    return {
        name: Classifier(create_session(path, max_tokens=max_tokens), shared, classes) for name, path in paths.items()
    }


def measure(
    classifiers: dict[str, Classifier],
    texts: Sequence[str],
    advance: Callable[[int], None] = lambda count: None,
    *,
    rows: int = 1,
) -> dict[str, float]:
    """Measure the median milliseconds per text of each variant, tokenising included, in runs of `rows` texts.

    Variants take turns on every run, so that a slow moment of the machine slows them alike.
    """
    spent: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(ROUNDS):
        for begin in range(0, len(texts), rows):
            batch = texts[begin : begin + rows]
            for name, classifier in classifiers.items():
                start = time.perf_counter()
                classifier.run([classifier.encode(text) for text in batch])
                spent[name].append((time.perf_counter() - start) / len(batch))
            advance(len(batch))
    return {name: float(np.median(times) * 1000) for name, times in spent.items()}
