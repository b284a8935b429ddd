"""A tokenizer that breaks on a word, as a library written in Rust may."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer

from export.bundle import classifier


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust: no Exception, and known by its name alone."""


class FragileTokenizer:
    """The real tokenizer, but that it raises `kind`, with a message that repeats the text, for a text with `word`."""

    real = Tokenizer
    word = ""
    kind: type[BaseException] = PanicException

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    @classmethod
    def from_file(cls, path: str) -> FragileTokenizer:
        """Load a tokenizer as the real one is loaded."""
        return cls(cls.real.from_file(path))

    def encode(self, text: str, **options: Any) -> Any:
        """Encode a text without the word."""
        if self.word in text:
            raise self.kind(f"byte index 3 is not a char boundary of `{text}`")
        return self._tokenizer.encode(text, **options)


def break_tokenizers(patch: pytest.MonkeyPatch, word: str, kind: type[BaseException] = PanicException) -> None:
    """Let the tokenizers that are loaded from now on break on a word."""
    patch.setattr(classifier, "Tokenizer", type("Fragile", (FragileTokenizer,), {"word": word, "kind": kind}))
