"""Record activations: the values inside a graph while it reads typical texts, from which quantisation learns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import INPUTS
from export.bundle.sequence_packing import SequencePacking
from export.bundle.session import create_session

Floats = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]


def activations(
    model: Any, names: Sequence[str], rows: Sequence[Sequence[int]], scratch: Path
) -> Iterator[dict[str, Floats]]:
    """Yield, for each row of token ids, the named inner values of an ONNX model.

    A copy of the model that has them as outputs is written to `scratch`.
    """
    import onnx
    from onnx import helper

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(probed, str(scratch))
    session = create_session(scratch)
    wanted = {value.name for value in session.get_inputs()}
    for feeds in inputs(rows, wanted):
        yield dict(zip(names, session.run(list(names), feeds), strict=True))


def inputs(rows: Sequence[Sequence[int]], wanted: Collection[str]) -> Iterator[Feeds]:
    """Yield, for each row of token ids, the inputs of a graph that takes those of the names `wanted`."""
    packing = SequencePacking(max(map(len, rows), default=0))
    for row in rows:
        ids = np.array([row], dtype=np.int64)
        every = dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True)) | packing.pack([len(row)])
        yield {name: value for name, value in every.items() if name in wanted}
