"""Run a graph on a GPU: few shapes, inputs and outputs in its memory, and one copy back.

CUDA plans memory, and TensorRT builds an engine, for each new shape, so batches are padded to a few shapes (buckets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.bundle.sequence_packing import Array

Floats = npt.NDArray[np.float32]
Feeds = Mapping[str, Array]

_MASK = "attention_mask"
_STEP = 8  # tokens; the width of the fp16 products of tensor cores


def bucket(rows: int, tokens: int, max_tokens: int) -> tuple[int, int]:
    """Return the smallest bucket, (rows, tokens), that holds a batch.

    Rows are a power of two; tokens have four steps to each doubling, are a multiple of 8, and at most `max_tokens`.
    """
    step = max(_STEP, _power_of_two(tokens) // 8)
    return _power_of_two(rows), max(tokens, min(-(-tokens // step) * step, max_tokens))


def padded(feeds: Feeds, max_tokens: int) -> dict[str, Array]:
    """Pad inputs [rows, tokens] to their bucket; if the graph takes no mask, only rows are added.

    Padding has the id 0 and is masked, except for the first token of an added row: a mean over no token at all would
    divide by 0.
    """
    rows, tokens = next(iter(feeds.values())).shape
    height, width = bucket(rows, tokens, max_tokens)
    if _MASK not in feeds:
        width = tokens
    if (height, width) == (rows, tokens):
        return dict(feeds)
    larger = {name: np.pad(values, ((0, height - rows), (0, width - tokens))) for name, values in feeds.items()}
    if _MASK in feeds:
        larger[_MASK][rows:, 0] = 1
    return larger


class BoundRun:
    """Runs a session with I/O binding, in the memory of `device` (`cuda` or `cpu`). Threads may share it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        *,
        max_tokens: int,
        device: str,
        index: int = 0,
    ) -> None:
        self._session = session
        self._outputs = outputs
        self._max_tokens = max_tokens
        self._device = device
        self._index = index

    def __call__(self, feeds: Feeds) -> list[Floats]:
        """Return the outputs for inputs [rows, tokens], each [rows, …], in host memory."""
        rows = len(next(iter(feeds.values())))
        binding = self._session.io_binding()  # a new one, since it holds the inputs and outputs of one run
        for name, values in padded(feeds, self._max_tokens).items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(values, self._device, self._index)
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device, self._index)
        self._session.run_with_iobinding(binding)
        return [values[:rows] for values in binding.copy_outputs_to_cpu()]


def _power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()
