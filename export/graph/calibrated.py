"""A graph whose only output is calibrated logits: who computes their softmax, or sigmoids, gets our probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_LOGITS = "logits"
_BEFORE = "uncalibrated logits"


def calibrate_logits(source: Path, target: Path, temperature: float) -> Path:
    """Write a graph with its `logits` divided by the temperature, and without what makes other outputs."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        _rename(node.input)
        _rename(node.output)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "calibration temperature"))
    graph.node.append(helper.make_node("Div", [_BEFORE, "calibration temperature"], [_LOGITS], name="calibrate"))
    kept = [value for value in graph.output if value.name == _LOGITS]
    del graph.output[:]
    graph.output.extend(kept)
    _drop_unread(graph)
    onnx.save(model, str(target))
    return target


def _rename(names: Any) -> None:
    for place, name in enumerate(names):
        if name == _LOGITS:
            names[place] = _BEFORE


def _drop_unread(graph: Any) -> None:
    """Remove the nodes and constants that no output needs."""
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            nodes.append(node)
            read.update(node.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(constants)
