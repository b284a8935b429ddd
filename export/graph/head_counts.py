"""Write the number of heads into the shapes of a graph, where the traced model left it to be computed.

transformers 5 reshapes queries, keys and values to [batch, tokens, -1, head size]. ONNX Runtime then takes the number
of heads from the configuration for every layer, which is wrong for a layer of a pruned student.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_head_counts(source: Path, target: Path) -> Path:
    """Write the graph at `source` with its numbers of heads to `target`, and return `target`."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in constants:  # equal weights are stored once
            constants[node.output[0]] = constants[node.input[0]]
    producers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        projected, shape = producers.get(node.input[0]), producers.get(node.input[1])
        if projected is None or projected.op_type != "Add" or shape is None or shape.op_type != "Concat":
            continue
        bias = [constants[name] for name in projected.input if name in constants]
        parts = [constants.get(name) for name in shape.input]
        if len(bias) != 1 or len(parts) != 4 or parts[2] is None or parts[3] is None or parts[2].tolist() != [-1]:
            continue
        heads = f"{node.output[0]}/heads"
        count = np.array([bias[0].shape[-1] // int(parts[3].item())], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(count, heads))
        whole = onnx.NodeProto()
        whole.CopyFrom(shape)
        whole.name, whole.output[0], whole.input[2] = f"{heads}/concat", f"{heads}/shape", heads
        node.input[1] = whole.output[0]
        graph.node.insert(list(graph.node).index(node), whole)
    onnx.save(model, str(target))
    return target
