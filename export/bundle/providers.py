"""Choose the execution providers of ONNX Runtime for a device, and their options. `session` makes the session.

A device that was asked for is used, or there is an error; ONNX Runtime itself would silently use another one.
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
"""The most texts of a run on a GPU; TensorRT builds its engines for up to so many."""

_TYPICAL_ROWS, _TYPICAL_TOKENS = 32, 64


@dataclass(frozen=True, slots=True)
class Device:
    """Where a graph runs; `auto` is CUDA if this build of ONNX Runtime has it and there is a GPU, otherwise the CPU.

    `index` counts the GPUs that this process sees. `cache` and `fp16` are for TensorRT: a folder for its engines, and
    whether it may compute in 16 bits what the graph has in 32.
    """

    kind: Kind = "auto"
    index: int = 0
    cache: Path | None = None
    fp16: bool = False

    def resolve(self, gpus: int) -> Device:
        """Return this device with `auto` decided by the number of GPUs that ONNX Runtime can use."""
        return replace(self, kind="cuda" if gpus else "cpu") if self.kind == "auto" else self

    def for_bundle(self, manifest: Manifest) -> Device:
        """Return this device with a cache for one bundle: TensorRT names engines after the graph, not its weights.

        Raises BundleError for a variant with operators of ONNX Runtime's own, which TensorRT does not know.
        """
        if self.kind == "tensorrt" and manifest.kind != PLAIN:
            raise BundleError(
                f"{manifest.name}: TensorRT serves the graph variant `{PLAIN}`, this bundle's is `{manifest.variant}`; "
                f"export it with `variant: {PLAIN}`, or run it on cuda"
            )
        return self if self.cache is None else replace(self, cache=self.cache / manifest.version)


AUTO = Device()


def providers(device: Device, available: Sequence[str], *, gpus: int, max_tokens: int) -> list[tuple[str, Options]]:
    """Return the providers of a session with their options, the best first, chosen from the `available` ones.

    `gpus` is the number of GPUs that it can use, `max_tokens` the most tokens of a text that the graph reads. Raises
    BundleError when this build of ONNX Runtime does not have the device.
    """
    device = device.resolve(gpus)
    index = {"device_id": str(device.index)}
    # TF32 would round the products of an fp32 graph to 10 bits, which is not what was exported.
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
    """Return TensorRT's options: its precision, one optimisation profile over all buckets, and its caches."""
    options = {"trt_fp16_enable": str(int(device.fp16))}
    shapes = {
        "min": (1, 1),
        "opt": (_TYPICAL_ROWS, min(_TYPICAL_TOKENS, max_tokens)),
        "max": (MOST_ROWS, max_tokens),
    }
    for name, (rows, tokens) in shapes.items():
        # The mask's shape does no harm to a graph without a mask: TensorRT looks up the shapes of its inputs only.
        options[f"trt_profile_{name}_shapes"] = f"input_ids:{rows}x{tokens},attention_mask:{rows}x{tokens}"
    if device.cache is not None:
        for cache in ("engine", "timing"):
            options |= {f"trt_{cache}_cache_enable": "1", f"trt_{cache}_cache_path": str(device.cache)}
    return options
