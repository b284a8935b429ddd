"""Where the attention heads and the feed-forward neurons of an encoder are, and how to remove some.

A head is as many rows of the weights of query, key and value as it is wide, and as many columns of the product behind
the attention. A neuron is a row of the first feed-forward product and a column of the second. Which of them matter is
decided in `export.pruning.importance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.students.layers import layers_of


@dataclass(frozen=True, slots=True)
class _Names:
    """The names, in a layer of an architecture, of its attention, its products, and its counts of heads and widths."""

    attention: str
    inputs: tuple[str, str, str]
    output: str
    heads: str
    width: str
    first: str
    second: str


_BERT = _Names(
    attention="attention.self",
    inputs=("attention.self.query", "attention.self.key", "attention.self.value"),
    output="attention.output.dense",
    heads="num_attention_heads",
    width="all_head_size",
    first="intermediate.dense",
    second="output.dense",
)
_DISTILBERT = _Names(
    attention="attention",
    inputs=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    output="attention.out_lin",
    heads="n_heads",
    width="dim",
    first="ffn.lin1",
    second="ffn.lin2",
)
_ARCHITECTURES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
}
"""Those whose attention ONNX Runtime fuses with any number of heads."""


@dataclass(frozen=True, slots=True)
class PrunableLayer:
    """A layer of an encoder of transformers, by the names that its architecture gives its parts."""

    layer: nn.Module
    names: _Names

    @property
    def heads(self) -> int:
        """The number of heads."""
        return int(getattr(self.layer.get_submodule(self.names.attention), self.names.heads))

    @property
    def neurons(self) -> int:
        """The number of neurons between the two feed-forward products."""
        return self._product(self.names.first).out_features

    @property
    def behind_attention(self) -> nn.Linear:
        """The product that reads all heads, one beside the other."""
        return self._product(self.names.output)

    @property
    def behind_neurons(self) -> nn.Linear:
        """The product that reads the neurons."""
        return self._product(self.names.second)

    def keep_heads(self, kept: Sequence[int]) -> None:
        """Remove all heads but those of the indices `kept`, ascending."""
        attention, size = (
            self.layer.get_submodule(self.names.attention),
            self.behind_attention.in_features // self.heads,
        )
        rows = torch.tensor([head * size + place for head in kept for place in range(size)])
        for name in self.names.inputs:
            _keep_outputs(self._product(name), rows)
        _keep_inputs(self.behind_attention, rows)
        counts: dict[str, Any] = {self.names.heads: len(kept), self.names.width: len(rows)}
        for name, count in counts.items():
            setattr(attention, name, count)

    def keep_neurons(self, kept: Sequence[int]) -> None:
        """Remove all neurons but those of the indices `kept`, ascending."""
        rows = torch.tensor(kept)
        _keep_outputs(self._product(self.names.first), rows)
        _keep_inputs(self.behind_neurons, rows)

    def _product(self, name: str) -> nn.Linear:
        found = self.layer.get_submodule(name)
        if not isinstance(found, nn.Linear):
            raise TypeError(f"{name} is a {type(found).__name__}, not a product")
        return found


def prunable_layers(encoder: Any) -> list[PrunableLayer]:
    """Return the layers of an encoder. Raises DistillError for an architecture whose parts have no known names."""
    kind = encoder.config.model_type
    if kind not in _ARCHITECTURES:
        raise DistillError(
            f"export.prune: cannot prune a {kind} model, only {', '.join(_ARCHITECTURES)}; remove the key, or use "
            "another model"
        )
    return [PrunableLayer(layer, _ARCHITECTURES[kind]) for layer in layers_of(encoder)]


def require_shares(layers: Sequence[PrunableLayer], heads: float | None, feed_forward: float | None) -> None:
    """Raise DistillError for a share of heads or neurons that rounds to none of them, or leaves a layer without one.

    None removes nothing. The message names the least share that removes one, or the greatest.
    """
    if heads is not None:
        count = sum(layer.heads for layer in layers)
        _require_share("heads", heads, count, count - len(layers))
    if feed_forward is not None:
        for count in sorted({layer.neurons for layer in layers}):
            _require_share("feed_forward", feed_forward, count, count - 1)


def _require_share(key: str, share: float, whole: int, most: int) -> None:
    """Check a share of `whole` heads or neurons, `most` of which may be removed."""
    removed = round(share * whole)
    if 1 <= removed <= most:
        return
    where = f"export.prune: {key}: {share:g} of {whole:,} is {removed:,}"
    if most < 1:
        raise DistillError(f"{where}, and each layer has and keeps one; leave out {key}")
    if removed < 1:
        raise DistillError(f"{where}; the fewest to remove are 1, a share of {_shortest(1, whole)}")
    where = f"{where}, but each layer keeps one"
    raise DistillError(f"{where}; the most to remove are {most:,}, a share of {_shortest(most, whole)}")


def _shortest(count: int, whole: int) -> str:
    """Return the share, in as few digits as will do, that rounds to `count` of `whole`."""
    texts = (f"{count / whole:.{digits}g}" for digits in range(1, 18))
    return next(text for text in texts if round(float(text) * whole) == count)


def _keep_outputs(product: nn.Linear, rows: Tensor) -> None:
    product.weight = nn.Parameter(product.weight.detach()[rows].clone())
    if product.bias is not None:
        product.bias = nn.Parameter(product.bias.detach()[rows].clone())
    product.out_features = len(rows)


def _keep_inputs(product: nn.Linear, columns: Tensor) -> None:
    product.weight = nn.Parameter(product.weight.detach()[:, columns].clone())
    product.in_features = len(columns)
