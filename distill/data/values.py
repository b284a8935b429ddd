"""Values of a file's cells as text, spelled the same whatever kind of file they come from."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

_MOST_DIGITS = 76  # those of a 256-bit decimal
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that show nothing


def spelled(value: Any) -> str | None:
    """A cell as text, or None where it holds nothing: null and NaN.

    A number is written in the shortest way, so that 1, 1.0 and 1e0 are `1`; a boolean as `true` or `false`; bytes are
    read as UTF-8. Raises ValueError, saying what the value is, for one that is no text or stands for several numbers.
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
    """A label without spaces around it, or None where nothing would be left to see."""
    return None if text is None or is_blank(text) else text.strip()


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or of spaces and invisible characters alone."""
    first = text[:1]
    if first.isascii() and first.isalnum():  # nearly every text
        return False
    return all(is_invisible(character) for character in text)


def is_invisible(character: str) -> bool:
    """Whether a character shows nothing: white space, control and format characters such as a zero-width space."""
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
