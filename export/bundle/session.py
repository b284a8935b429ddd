"""Make inference sessions of ONNX Runtime. No other module does, so all have telemetry off and no spinning threads."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import onnxruntime

from distill.errors import one_line
from export.bundle.format import BundleError
from export.bundle.providers import AUTO, CPU, CUDA, TENSORRT, Device, providers

_ERROR = 3
"""The log severity of errors: ONNX Runtime writes milder lines to stderr past our log."""

_REMEDIES = {
    CPU: "export the bundle again",
    CUDA: "see that a GPU, its driver, CUDA and cuDNN fit this build of ONNX Runtime, or ask for the device cpu",
    TENSORRT: "see that the TensorRT that this build of ONNX Runtime needs is on LD_LIBRARY_PATH, or ask for cuda",
}

onnxruntime.disable_telemetry_events()  # of builds for Windows; for others see `export/__init__.py`
onnxruntime.set_default_logger_severity(_ERROR)


def create_session(
    path: Path, *, threads: int = 1, device: Device = AUTO, max_tokens: int = 512
) -> onnxruntime.InferenceSession:
    """Load a graph on a device. Raises BundleError when the graph cannot be loaded, or not on that device.

    `threads` is the size of the intra-op pool. Idle threads do not spin: that would burn the core that the server
    needs. `max_tokens` is the most tokens of a text that the graph reads.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERROR
    wanted = providers(device, onnxruntime.get_available_providers(), gpus=_gpus(), max_tokens=max_tokens)
    first = wanted[0][0]
    if first != CPU:
        onnxruntime.preload_dlls()  # CUDA's libraries, where they were installed as Python packages
    if first == TENSORRT and device.cache is not None:
        _make_cache(device.cache)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises many classes with no common base
        raise BundleError(
            f"{path}: ONNX Runtime cannot load this graph ({one_line(error)}); {_REMEDIES[first]}"
        ) from error
    # ONNX Runtime leaves out a provider that it cannot start, with no more than a log line.
    if session.get_providers()[0] != first:
        raise BundleError(f"{path}: ONNX Runtime could not start its {first}; {_REMEDIES[first]}")
    return session


def has_gpu() -> bool:
    """Whether the device `auto` is a GPU on this machine."""
    return _gpus() > 0


def lacks_gpu() -> bool:
    """Whether the device `auto` is the CPU for want of a GPU, although this build of ONNX Runtime is one for GPUs."""
    return CUDA in onnxruntime.get_available_providers() and not has_gpu()


def _gpus() -> int:
    """Return how many GPUs ONNX Runtime can use: those that this process sees, none if it is built for CPUs."""
    return _gpus_of_driver() if CUDA in onnxruntime.get_available_providers() else 0


@cache
def _gpus_of_driver() -> int:
    """Return how many GPUs NVIDIA's driver shows to this process; 0 without a driver, or with one that fails."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _make_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(
            f"{folder}: cannot be made ({error}); give TensorRT's cache a directory to write to"
        ) from error
