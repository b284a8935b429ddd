"""The student as a peer's code runs it: tokenise, pad, run the graph, take the best label.

It runs in the peers' environments and imports nothing of Reflux.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Student:
    """A bundle's graph and tokenizer on one thread."""

    def __init__(self, bundle: Path) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        self.labels: list[str] = manifest["labels"]
        self._tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self._tokenizer.no_padding()
        side = (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenizer.enable_truncation(manifest["max_tokens"], direction=side)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Return the best label of each text and its probability."""
        rows = [self._tokenizer.encode(text).ids for text in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask} | _one_text_a_row(mask)
        (found,) = self._session.run(["probabilities"], {name: feeds[name] for name in self._inputs})
        best = found.argmax(axis=1)
        return [(self.labels[label], float(row[label])) for label, row in zip(best, found, strict=True)]


def _one_text_a_row(mask: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Return the further inputs of our own graph for a padded batch."""
    bias = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(-10_000))
    return {
        "attention_rows": np.maximum(mask.cumsum().reshape(mask.shape) - 1, 0),
        "attention_places": np.flatnonzero(mask),
        "attention_bias": np.ascontiguousarray(np.broadcast_to(bias, (len(mask), 1, mask.shape[1], mask.shape[1]))),
    }
