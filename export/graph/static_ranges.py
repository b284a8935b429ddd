"""Static quantisation ranges: take the range of each activation from typical texts, not from the batch at run time.

A dynamically quantised graph scales activations by the largest value of the batch, so the other texts of a run change a
text's answer. With static ranges they do not, and nothing is measured at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.graph.activations import activations

_DYNAMIC = "DynamicQuantizeLinear"
_LEVELS = 255  # steps of uint8


def set_static_ranges(source: Path, target: Path, rows: Sequence[Sequence[int]]) -> Path:
    """Write a dynamically quantised graph with the ranges its activations have on `rows`, token ids of typical texts.

    Larger values in other texts saturate. A graph without dynamic ranges is written unchanged.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == _DYNAMIC))
    lowest, highest = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for seen in activations(model, names, rows, target) if names else ():
        for name, values in seen.items():
            lowest[name] = min(lowest[name], float(values.min()))
            highest[name] = max(highest[name], float(values.max()))
    nodes = []
    for node in model.graph.node:
        if node.op_type == _DYNAMIC:
            (name,), (quantised, scale, zero) = node.input, node.output
            step, origin = uint8_range(lowest[name], highest[name])
            model.graph.initializer.append(numpy_helper.from_array(np.array(step, np.float32), scale))
            model.graph.initializer.append(numpy_helper.from_array(np.array(origin, np.uint8), zero))
            node = helper.make_node("QuantizeLinear", [name, scale, zero], [quantised], name=node.name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(target))
    return target


def uint8_range(lowest: float, highest: float) -> tuple[float, int]:
    """Return the step and the zero point that map [lowest, highest], which includes 0, to 0..255."""
    step = (highest - lowest) / _LEVELS or 1.0
    return step, round(-lowest / step)
