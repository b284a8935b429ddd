"""Truncation of texts at `max_tokens`, on the side that the model's tokenizer sets.

The `tokenizers` library keeps the side in `tokenizer.json`, so it goes from the model to the student and its bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tokenizers import Tokenizer

Side = Literal["left", "right"]


def truncation_side(tokenizer: Tokenizer) -> Side:
    """Return the side on which a tokenizer truncates long texts: the right, unless it is set to the left."""
    return "left" if (tokenizer.truncation or {}).get("direction") == "left" else "right"


def truncation_length(tokenizer: Tokenizer) -> int:
    """Return the length, in tokens, at which a tokenizer truncates texts.

    Raises ValueError if it does not truncate: whoever asks has set it with `truncate_at`, or read one that does.
    """
    if tokenizer.truncation is None:
        raise ValueError("the tokenizer does not truncate")
    length: int = tokenizer.truncation["max_length"]
    return length


def truncate_at(tokenizer: Tokenizer, max_tokens: int) -> None:
    """Make a tokenizer truncate texts at `max_tokens`, special tokens included, and keep its side.

    Its own length, stride and strategy are dropped: they are for another model, for several windows and for pairs.
    """
    tokenizer.enable_truncation(max_tokens, direction=truncation_side(tokenizer))


def longest_row(tokenizer: Tokenizer, max_tokens: int) -> list[int]:
    """Return the token ids of an artificial text of exactly `max_tokens` tokens, to try a model with.

    It has the usual special tokens, and between them tokens from all over the vocabulary.
    """
    empty, word = (tokenizer.encode(text).ids for text in ("", "a"))
    at = next((at for at, (one, other) in enumerate(zip(empty, word, strict=False)) if one != other), len(empty))
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = sorted(set(tokenizer.get_vocab(with_added_tokens=False).values()) - special) or [0]
    count = max(0, max_tokens - len(empty))
    middle = [ordinary[index * len(ordinary) // count % len(ordinary)] for index in range(count)]
    return [*empty[:at], *middle, *empty[at:]][:max_tokens]


def most_that_runs(run: Callable[[int], object], most: int) -> int:
    """Find by bisection the greatest length up to `most` for which `run` does not raise, or 0."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            run(middle)
        except Exception:  # the computing library may raise anything
            high = middle
        else:
            low = middle
    return low
