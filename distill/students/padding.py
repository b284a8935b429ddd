"""Padding: put rows of ids into one batch, such that no row changes the output of another.

Models compare ids with their own padding id: classifiers over decoders to find the last token, RoBERTa to count
positions. So a module itself fills in that id wherever the mask is 0 (in training, in inference and in the exported
graph), and a batch may have any id there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from distill.errors import DistillError, one_line
from distill.truncation import longest_row

_SHORT = (1, 6, 20)
"""How many tokens, apart from special ones, the short test rows have."""

_TOLERANCE = 1e-3
"""The largest difference, relative to the largest value, that counts as rounding; in 32 bits it is about 1e-6."""

_REMEDY = "use another architecture, such as BERT, RoBERTa, GPT-2 or Qwen2"


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad rows of ids to a batch: ids and mask, both int64 [B, T], both 0 where there is no token."""
    # Filled in numpy: a tensor for each row would take ten times as long.
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def fill_padding(input_ids: Tensor, attention_mask: Tensor, pad_id: int) -> Tensor:
    """Return the ids [B, T] with `pad_id` where the mask is 0; unchanged if it is 0, since `pad` puts 0 there."""
    return input_ids if pad_id == 0 else input_ids.masked_fill(attention_mask == 0, pad_id)


def pad_id_of(model: Any) -> int | None:
    """Return the padding id of a transformers model; None where it has none, or one outside its embedding table."""
    table = getattr(model.get_input_embeddings(), "weight", None)
    found = getattr(model.config.get_text_config(), "pad_token_id", None)
    return found if found is not None and table is not None and 0 <= found < len(table) else None


def add_pad_id(model: Any) -> None:
    """Add a padding token to a transformers model that has none.

    A token of its vocabulary would not do: a classifier over a decoder skips padding ids at the end of a text.
    """
    size = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    model.config.get_text_config().pad_token_id = size


def check_batching(module: nn.Module, kind: str, tokenizer: Tokenizer, name: str, max_tokens: int) -> None:
    """Raise DistillError when a model of the architecture `kind` gives a text another output in a batch than alone.

    `module` maps ids and mask, int64 [B, T], to logits [B, K] and an embedding [B, d]. Tested are short texts together,
    and a short text with one of `max_tokens`, which changes the positions of all texts in some models.
    """
    short = _short_rows(tokenizer, max_tokens)
    for rows in (short, [short[1], longest_row(tokenizer, max_tokens)]):
        together = _outputs(module, rows)
        for index, row in enumerate(rows[:-1]):  # the last is the longest, which is not padded
            for expected, found in zip(_outputs(module, [row]), together, strict=True):
                difference = float((expected[0] - found[index]).abs().max() / expected.abs().max().clamp_min(1e-9))
                if not difference <= _TOLERANCE:
                    raise DistillError(
                        f"model {name}: a {kind} model answers differently where texts share a batch, here with one of "
                        f"{len(rows[-1])} tokens (values differ by {100 * difference:.1f} %); {_REMEDY}"
                    )


def check_short_text(module: nn.Module, kind: str, tokenizer: Tokenizer, name: str, max_tokens: int) -> None:
    """Raise DistillError when a model of the architecture `kind` fails on short texts."""
    try:
        _outputs(module, _short_rows(tokenizer, max_tokens)[:2])
    except Exception as error:  # many kinds: missing inputs, shapes, ids beyond a table
        raise DistillError(
            f"model {name}: a {kind} model cannot read token ids with a mask ({one_line(error)}); {_REMEDY}"
        ) from error


@torch.inference_mode()
def _outputs(module: nn.Module, rows: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = module.eval()(*pad(rows))
    return outputs


def _short_rows(tokenizer: Tokenizer, max_tokens: int) -> list[list[int]]:
    special = len(tokenizer.encode("").ids)
    return [longest_row(tokenizer, min(special + count, max_tokens)) for count in _SHORT]
