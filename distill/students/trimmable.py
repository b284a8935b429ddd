"""Find out whether the vocabulary of a tokenizer can be trimmed to the tokens of some texts."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from distill.errors import DistillError


def require_trimmable(tokenizer: Tokenizer) -> None:
    """Raise DistillError for a tokenizer other than WordPiece, which splits words otherwise if it lacks tokens."""
    if not isinstance(tokenizer.model, WordPiece):
        kind = type(tokenizer.model).__name__
        raise DistillError(
            f"export.trim_vocabulary: the tokenizer is of the kind {kind}, and only the vocabulary of WordPiece can be "
            "trimmed; remove the key"
        )
