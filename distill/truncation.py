"""How a text is cut to what a model reads: at `max_tokens`, on the side that the model's tokenizer says.

The side is kept where the `tokenizers` library keeps it, in `tokenizer.json`, so that it goes from the model to the
student, its folder and its bundle.
"""

from __future__ import annotations

from collections.abc import Callable
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


def longest_row(tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    """Token ids of a made-up text of exactly `max_tokens`, to try a model with.

    The special tokens of every text stand around tokens from all over the vocabulary.
    """
    empty, word = (tokenizer.encode(text).ids for text in ("", "a"))
    at = next((at for at, (one, other) in enumerate(zip(empty, word, strict=False)) if one != other), len(empty))
    ordinary = sorted(set(tokenizer.get_vocab(with_added_tokens=False).values()) - _special(tokenizer)) or [0]
    count = max(0, max_tokens - len(empty))
    middle = [ordinary[index * len(ordinary) // count % len(ordinary)] for index in range(count)]
    return [*empty[:at], *middle, *empty[at:]][:max_tokens]


def most_that_runs(run: Callable[[int], object], most: int) -> int:
    """The greatest length of at most `most` that `run` takes without raising, 0 where there is none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            run(middle)
        except Exception:  # whatever the library raises that computes
            high = middle
        else:
            low = middle
    return low


def _special(tokenizer: Tokenizer) -> set[int]:
    return {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
