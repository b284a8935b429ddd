"""Export a trained classifier as an fp32 ONNX graph, whose interface is the same for every family.

Inputs are `input_ids` and `attention_mask`, int64 [batch, tokens]; outputs are `logits` [batch, K], calibrated
`probabilities` [batch, K] (the softmax, or the sigmoid of a multi-label student, is in the graph) and `embedding`
[batch, d]. Optimum exports the architectures it knows, `torch.onnx` the others. Both trace: optimum-onnx 0.1.0 does not
support dynamo.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import DistillError, one_line
from distill.students.student import Student
from export.bundle.classifier import INPUTS, OUTPUTS
from export.graph.quiet import quiet

OPSET = 18
_BATCH_TOKENS = {0: "batch", 1: "tokens"}


class Graph(nn.Module):
    """The exported module: a classifier with its temperature and its softmax, or sigmoids if it is multi-label."""

    def __init__(self, module: nn.Module, temperature: float, *, multi_label: bool = False) -> None:
        super().__init__()
        self.module = module
        self.multi_label = multi_label
        self.config = getattr(module, "config", None)
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Compute the three outputs of every bundle."""
        logits, embedding = self.module(input_ids, attention_mask)
        scaled = logits / self.temperature
        probabilities = torch.sigmoid(scaled) if self.multi_label else torch.softmax(scaled, dim=-1)
        return {"logits": logits, "probabilities": probabilities, "embedding": embedding}


def export_onnx(student: Student, path: Path) -> None:
    """Write a student's fp32 graph at `path`, with the exporter for its family.

    Raises DistillError when its architecture cannot be exported, and OSError when the file cannot be written.
    """
    graph = Graph(student.network.module, student.temperature, multi_label=student.multi_label).eval()
    try:
        export = export_by_optimum if optimum_knows(graph) else export_by_torch
        export(graph, path)
    except OSError:
        raise
    except Exception as error:  # many kinds: torch and optimum have their own
        kind = getattr(graph.config, "model_type", student.network.family)
        raise DistillError(
            f"a {kind} model cannot be exported as ONNX ({one_line(error)}); use another architecture, such as BERT, "
            "RoBERTa, GPT-2 or Qwen2"
        ) from error


def optimum_knows(graph: Graph) -> bool:
    """Whether optimum exports the architecture of the encoder."""
    from optimum.exporters.tasks import TasksManager

    import_module("optimum.exporters.onnx.model_configs")  # registers the architectures with the TasksManager
    kind = getattr(graph.config, "model_type", "")
    try:
        TasksManager.get_supported_tasks_for_model_type(kind, exporter="onnx", library_name="transformers")
    except KeyError:
        return False
    return True


def export_by_optimum(graph: Graph, path: Path) -> None:
    """Write the graph through optimum, which patches transformers' attention."""
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.utils import NormalizedTextConfig

    class ClassifierOnnxConfig(TextEncoderOnnxConfig):  # type: ignore[misc]
        """Our inputs and outputs, for any encoder."""

        NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return dict.fromkeys(INPUTS, _BATCH_TOKENS)

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "batch"} for name in OUTPUTS}

    with quiet():
        export(
            model=graph,
            config=ClassifierOnnxConfig(graph.config, task="feature-extraction"),
            output=path,
            opset=OPSET,
            disable_dynamic_axes_fix=True,
        )


def export_by_torch(graph: Graph, path: Path) -> None:
    """Write the graph through torch alone."""
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes: dict[str, Any] = dict.fromkeys(INPUTS, _BATCH_TOKENS)
    axes.update({name: {0: "batch"} for name in OUTPUTS})
    with quiet():
        torch.onnx.export(
            graph,
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
