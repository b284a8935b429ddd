"""Convert the values of a file's cells to text, in the same spelling for every kind of file."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

_MOST_DIGITS = 76  # those of a 256-bit decimal
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # invisible letters and marks


def spelled(value: Any) -> str | None:
    """Convert a cell to text; null and NaN become None.

    Numbers are written in the shortest way, so that 1, 1.0 and 1e0 are `1`; booleans are `true` or `false`; bytes are
    decoded as UTF-8. Raises ValueError, saying what the value is, for other types, and for floats above 2^53 (in
    float64), which stand for several whole numbers.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return _float(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError("bytes that are not UTF-8") from error
    if isinstance(value, UUID):
        return str(value)
    raise ValueError(f"a value of type {type(value).__name__}")


def label_of(text: str | None) -> str | None:
    """Strip a label, or return None if it is blank."""
    return None if text is None or is_blank(text) else text.strip()


def is_blank(text: str) -> bool:
    """Whether a text is empty, or has only spaces and invisible characters."""
    first = text[:1]
    if first.isascii() and first.isalnum():  # nearly every text
        return False
    return all(is_invisible(character) for character in text)


def is_invisible(character: str) -> bool:
    """Whether a character is invisible: white space, control and format characters such as a zero-width space."""
    return (
        character.isspace()
        or unicodedata.category(character) in ("Cc", "Cf")
        or character in _BLANK
        or "\ufe00" <= character <= "\ufe0f"  # variation selectors
    )


def _float(value: float | np.floating[Any]) -> str | None:
    if math.isnan(value):
        return None
    bits = np.finfo(type(value)).nmant + 1
    if math.isfinite(value) and abs(value) >= 2**bits:
        raise ValueError(
            f"the float {value}, which may stand for several whole numbers; write it as text or an integer"
        )
    return _decimal(Decimal(str(value)))


def _decimal(value: Decimal) -> str | None:
    if value.is_nan():
        return None
    if not value.is_finite() or abs(value.adjusted()) > _MOST_DIGITS:
        raise ValueError(f"the number {value:.5g}, which is out of range; write it as text")
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
