"""Export a trained classifier as an fp32 ONNX graph, whose interface is the same for every family.

Inputs are `input_ids` and `attention_mask`, int64 [batch, tokens]; outputs are `logits` [batch, K], calibrated
`probabilities` [batch, K] (the softmax, or the sigmoid of a multi-label student, is in the graph) and `embedding`
[batch, d]. torch traces the module (`dynamo=False`): ONNX Runtime fuses nothing of the graphs that dynamo writes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import DistillError, one_line
from distill.students.encoder import TransformerModule
from distill.students.student import Student
from distill.students.transformers_versions import set_traceable_attention
from export.bundle.classifier import INPUTS, OUTPUTS
from export.graph.quiet import quiet
from export.optimum_exporter import export_by_optimum, missing_optimum, optimum_exports

OPSET = 18


class NotExportableError(DistillError):
    """An architecture has no ONNX graph, whatever the settings."""


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
    """Write a student's fp32 graph at `path`.

    Raises NotExportableError when its architecture cannot be exported, and OSError when the file cannot be written.
    """
    graph = Graph(student.network.module, student.temperature, multi_label=student.multi_label).eval()
    try:
        with quiet():
            _export(_traceable(graph), path)
    except OSError:
        raise
    except Exception as error:  # many kinds: of torch, and of each architecture
        kind = getattr(graph.config, "model_type", student.network.family)
        raise NotExportableError(
            f"a {kind} model cannot be exported as ONNX ({one_line(error)}); {missing_optimum()}use another "
            "architecture, such as BERT, RoBERTa, GPT-2 or Qwen2"
        ) from error


def _traceable(graph: Graph) -> Graph:
    """Return a copy with the attention to trace. It shares the weights, and the student stays as it is."""
    shared = {id(each): each for each in (*graph.parameters(), *graph.buffers())}
    copied = copy.deepcopy(graph, shared)
    if isinstance(copied.module, TransformerModule):
        set_traceable_attention(copied.module.transformer)
    return copied


def _export(graph: Graph, path: Path) -> None:
    """Export by torch, and where that fails by optimum if it can."""
    try:
        _export_by_torch(graph, path)
    except OSError:
        raise
    except Exception:  # many kinds, as above
        if not optimum_exports(graph.config):
            raise
        export_by_optimum(graph, path, OPSET)


def _export_by_torch(graph: Graph, path: Path) -> None:
    ids = torch.ones(2, 8, dtype=torch.int64)
    axes: dict[str, Any] = {name: {0: "batch", 1: "tokens"} for name in INPUTS}
    axes.update({name: {0: "batch"} for name in OUTPUTS})
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
