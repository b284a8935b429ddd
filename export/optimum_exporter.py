"""Export decoders beside transformers 4.57: torch alone cannot trace how that version makes their masks.

optimum-onnx replaces the functions that torch cannot trace. Its last release does not import beside transformers 5,
which needs no help.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.students.transformers_versions import FIVE
from export.bundle.classifier import INPUTS, OUTPUTS


def missing_optimum() -> str:
    """Say how to export more architectures; an empty text where optimum-onnx is installed or not needed."""
    if FIVE or find_spec("optimum") is not None:
        return ""
    return "install transformers 5, or `pip install 'reflux[optimum]'` beside 4.57, or "


def optimum_exports(config: Any | None) -> bool:
    """Whether optimum-onnx is installed, imports beside this version of transformers and knows an architecture."""
    if FIVE or config is None:
        return False
    try:
        from optimum.exporters.tasks import TasksManager

        import_module("optimum.exporters.onnx.model_configs")  # registers the architectures with the TasksManager
        TasksManager.get_supported_tasks_for_model_type(config.model_type, exporter="onnx", library_name="transformers")
    except (ImportError, KeyError):
        return False
    return True


def export_by_optimum(graph: Any, path: Path, opset: int) -> None:
    """Write a graph, a module with the `config` of a model of transformers, with our inputs and outputs."""
    from optimum.exporters.onnx import export
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.utils import NormalizedTextConfig

    class ClassifierOnnxConfig(TextEncoderOnnxConfig):  # type: ignore[misc]
        """Our inputs and outputs, for any model."""

        NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "batch", 1: "tokens"} for name in INPUTS}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "batch"} for name in OUTPUTS}

    export(
        model=graph,
        config=ClassifierOnnxConfig(graph.config, task="feature-extraction"),
        output=path,
        opset=opset,
        disable_dynamic_axes_fix=True,
    )
