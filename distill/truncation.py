"""How a text is cut to what a model reads: at `max_tokens`, on the side that the model's tokenizer says.

The side is kept where the `tokenizers` library keeps it, in `tokenizer.json`, so that it goes from the model to the
student, its folder and its bundle.
"""

from __future__ import annotations

from typing import Literal

from tokenizers import Tokenizer

Side = Literal["left", "right"]


def truncation_side(tokenizer: Tokenizer) -> Side:
    """The end of a long text that a tokenizer leaves out: the right, unless it was told the left."""
    return "left" if (tokenizer.truncation or {}).get("direction") == "left" else "right"


def truncate_at(tokenizer: Tokenizer, max_tokens: int) -> None:
    """Let a tokenizer cut texts at `max_tokens`, special tokens included, on the side on which it cuts now.

    Of a tokenizer's own truncation nothing else is kept: its length is another model's or none, and its stride and
    strategy are about several windows and about pairs.
    """
    tokenizer.enable_truncation(max_tokens, direction=truncation_side(tokenizer))
