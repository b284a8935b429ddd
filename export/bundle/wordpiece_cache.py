"""Tokenising by words that were seen before, where that gives what the tokenizer would give.

BERT's tokenizer cuts a text into words and punctuation, and looks up the pieces of each without regard to the others
(WordPiece; Wu et al. 2016, Google's neural machine translation system, section 4.1). So what it made of a word holds
wherever that word comes again. Only plain ASCII is cut here: every other text, and the pieces of a new word, are the
tokenizer's to say.
"""

from __future__ import annotations

import re
from string import ascii_letters, digits, punctuation
from typing import Self

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from distill.truncation import truncation_side

_MOST_WORDS = 20_000
_LONGEST_WORD = 32
"""Only so many words are kept, and none that is longer."""

_WORD = re.compile(rf"[{ascii_letters}{digits}]+|[{re.escape(punctuation)}]")
_SPACES = "\t\n\r "
_PROBE = "a"


class Words:
    """The words of one tokenizer with its truncation set, which adds tokens `before` and `after` a text.

    `apart` are the characters with which tokens begin that it finds in a text by themselves. Threads may share it.
    """

    def __init__(self, tokenizer: Tokenizer, before: list[int], after: list[int], apart: set[str]) -> None:
        self._tokenizer = tokenizer
        self._lowercase: bool = tokenizer.normalizer.lowercase
        self._before, self._after = before, after
        self._most: int = tokenizer.truncation["max_length"] - len(after)
        self._cut = len(before) if truncation_side(tokenizer) == "left" else self._most
        """Where tokens are left out of a text that has too many."""

        plain = {*ascii_letters, *digits, *punctuation, *_SPACES} - apart
        self._plain = re.compile(f"[{re.escape(''.join(sorted(plain)))}]*")
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """The words of a tokenizer whose truncation is set; None for one that is not as BERT's is."""
        parts = (tokenizer.model, tokenizer.normalizer, tokenizer.pre_tokenizer)
        if not all(map(isinstance, parts, (WordPiece, BertNormalizer, BertPreTokenizer))):
            return None
        apart = {token.content[0] for token in tokenizer.get_added_tokens_decoder().values()}
        if not apart <= set(punctuation):
            return None
        alone, whole = (tokenizer.encode(_PROBE, add_special_tokens=added).ids for added in (False, True))
        at = next((at for at in range(len(whole)) if whole[at : at + len(alone)] == alone), None)
        if not alone or at is None or len(whole) >= tokenizer.truncation["max_length"]:
            return None
        return cls(tokenizer, whole[:at], whole[at + len(alone) :], apart)

    def encode(self, text: str) -> tuple[list[int], bool] | None:
        """The token ids of a text, and whether it had more; None for a text that is not plain, or of endless words."""
        if not text.isascii() or self._plain.fullmatch(text) is None:
            return None
        known = self._known
        ids = self._before.copy()
        for word in _WORD.findall(text.lower() if self._lowercase else text):
            pieces = known.get(word)
            if pieces is None and (pieces := self._learn(word)) is None:
                return None
            ids += pieces
        more = len(ids) - self._most
        if more > 0:
            del ids[self._cut : self._cut + more]
        ids += self._after
        return ids, more > 0

    def _learn(self, word: str) -> tuple[int, ...] | None:
        """The pieces of a word; None for one that has more than the graph reads."""
        encoding = self._tokenizer.encode(word, add_special_tokens=False)
        if encoding.overflowing:
            return None
        pieces = tuple(encoding.ids)
        if len(word) <= _LONGEST_WORD:
            if len(self._known) >= _MOST_WORDS:
                self._known.clear()
            self._known[word] = pieces
        return pieces
