"""Find how many positions, and so tokens of a text, a model of transformers has."""

from __future__ import annotations

from typing import Any

_TABLES = ("position_embeddings", "embed_positions", "position_embedding", "wpe")
_DECLARED = ("max_position_embeddings", "max_seq_len")


def max_positions(model: Any) -> int | None:
    """Return the most tokens that a model reads, special tokens included; None where there is no limit.

    A table of learned positions has a row for each position; where it has a padding index, as in RoBERTa and MPNet, the
    rows up to that belong to no token. Models with rotary or computed positions have the limit that their configuration
    declares. DeBERTa without a table has relative positions only, so no limit; XLNet declares -1, which means none.
    """
    tables = [
        module.weight.shape[0] - (-1 if module.padding_idx is None else module.padding_idx) - 1
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _TABLES and hasattr(module, "padding_idx")
    ]
    if not tables and getattr(model.config, "relative_attention", False):
        return None
    declared = (getattr(model.config, name, None) for name in _DECLARED)
    return min([*tables, *(value for value in declared if value is not None and value > 0)], default=None)
