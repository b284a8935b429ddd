"""Count the layers of a graph whose attention is one operator of ONNX Runtime, and say what it means if it is not.

ONNX Runtime recognises the attention of BERT and its kin; any other keeps its plain operators. Padding is left out of a
fused graph whose embedding is that of BERT. Any other graph computes it where texts share a run: 16 texts of 4 to 20
tokens took 1.7 to 2.5 times as long in RoBERTa, MPNet and ModernBERT as in BERT (3 layers of 384, int8, one core).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.bundle.sequence_packing import NAMES
from export.gates import Gate

ALWAYS_FUSED = ("bert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Architectures whose attention ONNX Runtime fuses in every layer, unless positions are relative."""

_FUSED = ("Attention", "MultiHeadAttention", "QAttention")


@dataclass(frozen=True, slots=True)
class AttentionFusion:
    """How many of a graph's `layers` have their attention `fused`, and whether padding is left out (`unpadded`).

    `relative` says whether positions are relative, which transformers before 5 had for BERT and its kin.
    """

    architecture: str
    layers: int
    fused: int
    unpadded: bool
    relative: bool = False

    @classmethod
    def of(cls, graph: Path, config: Any | None) -> AttentionFusion | None:
        """Inspect a graph of a model with a configuration of transformers; None without one, or without layers."""
        layers = getattr(config, "num_hidden_layers", None)
        if config is None or not isinstance(layers, int):
            return None
        import onnx

        found = onnx.load(str(graph), load_external_data=False).graph
        fused = sum(node.op_type in _FUSED for node in found.node)
        unpadded = set(NAMES) <= {value.name for value in found.input}
        relative = getattr(config, "position_embedding_type", "absolute") != "absolute"
        return cls(config.model_type, layers, fused, unpadded, relative)

    def gates(self) -> list[Gate]:
        """Check, for an architecture that is always fused, that every layer is: a slow graph is not let through."""
        if self.architecture not in ALWAYS_FUSED or self.relative:
            return []
        return [Gate("fused: layers with fused attention", self.fused, self.layers, self.fused == self.layers)]

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "relative"}

    def caveat(self) -> str | None:
        """Say why the graph is slower than that of a BERT of its size; None if it is not."""
        if self.fused < self.layers:
            return (
                f"ONNX Runtime fuses the attention of {self.fused} of the {self.layers} layers of this "
                f"{self.architecture} model, and padding is computed: it is slower than a BERT of its size, mostly "
                "where texts share a run"
            )
        if not self.unpadded:
            return (
                f"padding is computed for this {self.architecture} model: it is slower than a BERT of its size where "
                "texts share a run"
            )
        return None
