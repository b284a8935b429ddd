"""How many tokens of a text a model of transformers has positions for."""

from __future__ import annotations

from typing import Any

_TABLES = ("position_embeddings", "embed_positions", "position_embedding", "wpe")
_DECLARED = ("max_position_embeddings", "max_seq_len")


def most_tokens(model: Any) -> int | None:
    """The most tokens that a model reads, special tokens included; None where nothing bounds them.

    A table of learned positions has a row for each. Where it has a padding index, as RoBERTa's and MPNet's have, the
    rows up to that are no token's. Models that rotate or count positions read what their configuration declares, for
    which they were trained; DeBERTa without a table sees distances alone, which have no end, and XLNet says -1.
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
