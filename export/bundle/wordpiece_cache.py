"""Tokenise from a cache of words, where that gives exactly what the tokenizer would give.

BERT's tokenizer splits a text into words and punctuation, and looks up the pieces of each word on its own (WordPiece;
Wu et al. 2016, Google's neural machine translation system, section 4.1). So the pieces of a word hold wherever that
word appears again. Only plain ASCII text is split here; the tokenizer itself handles every other text, and every new
word.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits, punctuation
from typing import Self

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from distill.truncation import truncation_length, truncation_side

_MOST_WORDS = 20_000
_LONGEST_WORD = 32
"""How many words the cache holds, and the length, in characters, above which a word is not cached."""

_WORD = re.compile(rf"[{ascii_letters}{digits}]+|[{re.escape(punctuation)}]")
_SPACES = "\t\n\r "
_PROBE = "a"


class WordPieceCache:
    """Caches the words of one tokenizer, whose truncation is set. Threads may share it.

    The tokenizer adds the ids `before` and `after` every text. `reserved` holds the first characters of tokens that it
    finds in a text before it splits words; a text with one of them is left to the tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, before: list[int], after: list[int], reserved: set[str]) -> None:
        self._tokenizer = tokenizer
        self._lowercase: bool = tokenizer.normalizer.lowercase
        self._before, self._after = before, after
        self._most: int = truncation_length(tokenizer) - len(after)
        self._cut = len(before) if truncation_side(tokenizer) == "left" else self._most
        """Where the surplus ids of a long text begin."""

        plain = {*ascii_letters, *digits, *punctuation, *_SPACES} - reserved
        self._plain = re.compile(f"[{re.escape(''.join(sorted(plain)))}]*")
        self._pieces: dict[str, tuple[int, ...]] = {}

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> Self | None:
        """Return a cache for a tokenizer whose truncation is set; None for one that does not work as BERT's does."""
        parts = (tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer)
        if not all(map(isinstance, parts, (WordPiece, BertNormalizer, BertPreTokenizer))):
            return None
        reserved = {token.content[0] for token in tokenizer.get_added_tokens_decoder().values()}
        if not reserved <= set(punctuation):
            return None
        alone, whole = (tokenizer.encode(_PROBE, add_special_tokens=added).ids for added in (False, True))
        at = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), None)
        if not alone or at is None or len(whole) >= truncation_length(tokenizer):
            return None
        return cls(tokenizer, whole[:at], whole[at + len(alone) :], reserved)

    def encode(self, text: str) -> tuple[list[int], bool] | None:
        """Return the token ids of a text and whether it was truncated; None for a text that the tokenizer must encode.

        That is one that is not plain ASCII, or has a word of more pieces than the graph reads.
        """
        if not text.isascii() or self._plain.fullmatch(text) is None:
            return None
        cached = self._pieces
        ids = self._before.copy()
        for word in _WORD.findall(text.lower() if self._lowercase else text):
            pieces = cached.get(word)
            if pieces is None and (pieces := self._learn(word)) is None:
                return None
            ids += pieces
        surplus = len(ids) - self._most
        if surplus > 0:
            del ids[self._cut : self._cut + surplus]
        ids += self._after
        return ids, surplus > 0

    def _learn(self, word: str) -> tuple[int, ...] | None:
        """Return the pieces of a new word, and cache them; None for a word of more pieces than the graph reads."""
        encoding = self._tokenizer.encode(word, add_special_tokens=False)
        if encoding.overflowing:
            return None
        pieces = tuple(encoding.ids)
        if len(word) <= _LONGEST_WORD:
            if len(self._pieces) >= _MOST_WORDS:
                self._pieces.clear()
            self._pieces[word] = pieces
        return pieces
