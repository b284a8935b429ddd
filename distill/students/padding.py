"""Padding: rows of ids as a batch in which no row's answer depends on the others.

Models compare ids with their own padding id: classifiers over decoders to find the last token, RoBERTa to count
positions. So a module puts that id wherever the mask is 0, in training, in torch and in the exported graph alike, and
whoever makes a batch may put any id there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from distill.errors import DistillError
from distill.truncation import longest_row

_SHORT = (1, 6, 20)
"""Tokens between the special ones of the short rows that are tried."""

_TOLERANCE = 1e-3
"""The largest difference that is taken for rounding, relative to the largest value; in 32 bits it is about 1e-6."""

_REMEDY = "use another architecture, such as BERT, RoBERTa, GPT-2 or Qwen2"


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of ids as a batch: ids and mask, both int64 [B, T], both 0 where there is no token."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask


def fill(input_ids: Tensor, attention_mask: Tensor, pad_id: int) -> Tensor:
    """The ids [B, T] with `pad_id` where the mask is 0. If that is 0, which `pad` puts there, they stay as they are."""
    return input_ids if pad_id == 0 else input_ids.masked_fill(attention_mask == 0, pad_id)


def pad_id_of(model: Any) -> int | None:
    """The padding id of a transformers model; None where it has none, or one that is not in its table of tokens."""
    table = getattr(model.get_input_embeddings(), "weight", None)
    found = getattr(model.config.get_text_config(), "pad_token_id", None)
    return found if found is not None and table is not None and 0 <= found < len(table) else None


def add_pad_id(model: Any) -> None:
    """Give a transformers model that has no padding id a token of its own for it.

    No token of its vocabulary would do: a classifier over a decoder passes over padding ids at the end of a text.
    """
    size = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(size + 1, mean_resizing=False)
    model.config.get_text_config().pad_token_id = size


def check_batches(module: nn.Module, kind: str, tokenizer: Tokenizer, name: str, max_tokens: int) -> None:
    """Raise DistillError when a model, whose architecture is `kind`, answers otherwise alone than in a batch.

    `module` maps ids and mask, int64 [B, T], to logits [B, K] and an embedding [B, d]. Short texts are tried, and one
    beside a text of `max_tokens`: there some models compute the positions of all texts in another way.
    """
    short = _short_rows(tokenizer, max_tokens)
    for rows in (short, [short[1], longest_row(tokenizer, max_tokens)]):
        together = _outputs(module, rows)
        for index, row in enumerate(rows[:-1]):  # the longest is not padded
            for expected, found in zip(_outputs(module, [row]), together, strict=True):
                difference = float((expected[0] - found[index]).abs().max() / expected.abs().max().clamp_min(1e-9))
                if not difference <= _TOLERANCE:
                    raise DistillError(
                        f"model {name}: a {kind} model answers otherwise where texts share a batch, here with one of "
                        f"{len(rows[-1])} tokens (values differ by {difference:.1%}); {_REMEDY}"
                    )


def try_out(module: nn.Module, kind: str, tokenizer: Tokenizer, name: str, max_tokens: int) -> None:
    """Raise DistillError when a model, whose architecture is `kind`, cannot read a short text."""
    try:
        _outputs(module, _short_rows(tokenizer, max_tokens)[:2])
    except Exception as error:  # of many kinds: inputs that it lacks, shapes, tables that end
        reason = " ".join(str(error).split())
        raise DistillError(
            f"model {name}: a {kind} model cannot read token ids with a mask ({reason}); {_REMEDY}"
        ) from error


@torch.inference_mode()
def _outputs(module: nn.Module, rows: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = module.eval()(*pad(rows))
    return outputs


def _short_rows(tokenizer: Tokenizer, max_tokens: int) -> list[list[int]]:
    special = len(tokenizer.encode("").ids)
    return [longest_row(tokenizer, min(special + count, max_tokens)) for count in _SHORT]
