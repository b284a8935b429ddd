"""Which execution providers of ONNX Runtime a graph gets, and with which options. It makes no session; `runtime` does.

A device that was asked for is had, or there is an error: ONNX Runtime itself would go on without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from export.bundle.format import PLAIN, BundleError, Manifest

Kind = Literal["auto", "cpu", "cuda", "tensorrt"]
Options = dict[str, str]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

MOST_ROWS = 256
"""Of a run on a GPU, for which TensorRT builds its engines."""

_TYPICAL_ROWS, _TYPICAL_TOKENS = 32, 64


@dataclass(frozen=True, slots=True)
class Device:
    """Where a graph is to run; `auto` is CUDA where this build of ONNX Runtime has it, and otherwise the CPU.

    `index` counts the GPUs that this process sees. The others are TensorRT's: `cache`, a folder in which it keeps its
    engines, and `fp16`, whether it may compute in 16 bits what the graph has in 32.
    """

    kind: Kind = "auto"
    index: int = 0
    cache: Path | None = None
    fp16: bool = False

    def among(self, available: Sequence[str]) -> Device:
        """The same with `auto` decided, by the names of the providers that there are."""
        return replace(self, kind="cuda" if CUDA in available else "cpu") if self.kind == "auto" else self

    def for_bundle(self, manifest: Manifest) -> Device:
        """The same with a cache for this bundle alone: TensorRT names engines after the graph, not its weights.

        Raises BundleError for a graph that TensorRT cannot take whole, since it has operators of ONNX Runtime's own.
        """
        if self.kind == "tensorrt" and manifest.variant != PLAIN:
            raise BundleError(
                f"{manifest.name}: TensorRT serves the graph variant `{PLAIN}`, this bundle's is `{manifest.variant}`; "
                f"export it with `variant: {PLAIN}`, or run it on cuda"
            )
        return self if self.cache is None else replace(self, cache=self.cache / manifest.version)


AUTO = Device()


def providers(device: Device, available: Sequence[str], *, max_tokens: int) -> list[tuple[str, Options]]:
    """The providers of a session, best first, each with its options; `available` are those that there are.

    `max_tokens` is the most that the graph reads of a text. Raises BundleError when what was asked for is not there.
    """
    device = device.among(available)
    index = {"device_id": str(device.index)}
    # TF32 would round the products of an fp32 graph to 10 bits, and be neither what was exported nor told to anyone.
    cuda = (CUDA, {**index, "use_tf32": "0"})
    wanted: list[tuple[str, Options]] = {
        "cpu": [],
        "cuda": [cuda],
        "tensorrt": [(TENSORRT, index | _tensorrt(device, max_tokens)), cuda],
    }[device.kind]
    if missing := [name for name, _ in wanted if name not in available]:
        raise BundleError(
            f"device {device.kind}: this build of ONNX Runtime has no {missing[0]}, only {', '.join(available)}; "
            "pip install 'reflux[gpu]' in the place of 'reflux[cpu]', or ask for the device cpu"
        )
    return [*wanted, (CPU, {})]


def _tensorrt(device: Device, max_tokens: int) -> Options:
    """TensorRT's options: its precision, one optimisation profile over all buckets, and where engines are kept."""
    options = {"trt_fp16_enable": str(int(device.fp16))}
    shapes = {
        "min": (1, 1),
        "opt": (_TYPICAL_ROWS, min(_TYPICAL_TOKENS, max_tokens)),
        "max": (MOST_ROWS, max_tokens),
    }
    for name, (rows, tokens) in shapes.items():
        # A graph that does not take the mask has no use for its shape, and TensorRT looks up those of its inputs alone.
        options[f"trt_profile_{name}_shapes"] = f"input_ids:{rows}x{tokens},attention_mask:{rows}x{tokens}"
    if device.cache is not None:
        for cache in ("engine", "timing"):
            options |= {f"trt_{cache}_cache_enable": "1", f"trt_{cache}_cache_path": str(device.cache)}
    return options
