"""The folders that peers load: a Hugging Face model, heartcut's export, MLServer's settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from export.bundle.format import MODEL, TOKENIZER, Bundle


def hugging_face(bundle: Path, student: Path | None, folder: Path) -> None:
    """Write a folder that optimum loads as a BERT classifier on ONNX Runtime; the graph's only output is `logits`.

    `config.json` is the student's if there is one. The graph alone computes, whatever `config.json` says about layers.
    """
    opened = Bundle.open(bundle)
    labels = opened.manifest.labels
    config: dict[str, Any] = {"model_type": "bert"}
    if student is not None:
        config = json.loads((student / "encoder" / "config.json").read_text())
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    _write(folder / "config.json", config)
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": opened.manifest.max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    _write(folder / "tokenizer_config.json", tokenizer)
    shutil.copyfile(bundle / TOKENIZER, folder / TOKENIZER)
    model = onnx.load(str(bundle / MODEL))
    for output in list(model.graph.output):
        if output.name != "logits":
            model.graph.output.remove(output)
    onnx.save(model, str(folder / MODEL))


def heartcut(bundle: Path, folder: Path) -> None:
    """Write a folder as `heartcut export` does."""
    manifest = Bundle.open(bundle).manifest
    for name in (MODEL, TOKENIZER):
        shutil.copyfile(bundle / name, folder / name)
    meta = {
        "format": "onnx",
        "kind": manifest.family,
        "name": manifest.name,
        "labels": list(manifest.labels),
        "files": {"fp32": MODEL, "int8": MODEL, "tokenizer": TOKENIZER},
        "max_length": manifest.max_tokens,
        "pad_token_id": 0,
        "pad_token": "[PAD]",
    }
    _write(folder / "export.json", meta)


def mlserver(bundle: Path, folder: Path, ports: tuple[int, int, int], batch: int) -> None:
    """Write MLServer's settings and those of one model with our runtime. `ports` are HTTP, gRPC and metrics."""
    http, grpc, metrics = ports
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    _write(folder / "settings.json", settings)
    model: dict[str, Any] = {
        "name": "student",
        "implementation": "mlserver_runtime.Runtime",
        "parameters": {"uri": str(bundle)},
    }
    if batch > 1:
        model |= {"max_batch_size": batch, "max_batch_time": 0.005}
    _write(folder / "model-settings.json", model)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False))
