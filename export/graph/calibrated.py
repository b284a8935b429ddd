"""A graph whose only output is calibrated logits: their softmax (or sigmoid) is the bundle's probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.graph.builder import drop_unread

_LOGITS = "logits"
_UNCALIBRATED = "uncalibrated logits"


def calibrate_logits(source: Path, target: Path, temperature: float) -> Path:
    """Write a graph with its `logits` divided by the temperature, and without the other outputs."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_UNCALIBRATED if name == _LOGITS else name for name in names]
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "calibration temperature"))
    graph.node.append(helper.make_node("Div", [_UNCALIBRATED, "calibration temperature"], [_LOGITS], name="calibrate"))
    kept = [value for value in graph.output if value.name == _LOGITS]
    del graph.output[:]
    graph.output.extend(kept)
    drop_unread(graph)
    onnx.save(model, str(target))
    return target
