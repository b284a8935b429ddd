"""What flows through a graph while it reads typical texts: what quantisation needs to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import INPUTS, create_session
from export.bundle.sequence_packing import Rows

Floats = npt.NDArray[np.float32]


def activations(
    model: Any, names: Sequence[str], rows: Sequence[Sequence[int]], scratch: Path
) -> Iterator[dict[str, Floats]]:
    """For each row of token ids the named values within the graph of an ONNX model.

    A graph that shows them is written to `scratch`.
    """
    import onnx
    from onnx import helper

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(probed, str(scratch))
    session = create_session(scratch)
    takes = {value.name for value in session.get_inputs()}
    attention = Rows(max(map(len, rows), default=0))
    for row in rows:
        ids = np.array([row], dtype=np.int64)
        given = dict(zip(INPUTS, (ids, np.ones_like(ids)), strict=True)) | attention.of([len(row)])
        feed = {name: value for name, value in given.items() if name in takes}
        yield dict(zip(names, session.run(list(names), feed), strict=True))
