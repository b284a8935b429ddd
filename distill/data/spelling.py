"""Spellings of labels: which labels differ in spelling only, and how to show one unambiguously."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from distill.data.values import is_invisible

_MISSING = frozenset(("nan", "null", "<na>", "nat", "#n/a"))
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?", re.ASCII)
_MARKS = str.maketrans(
    {
        **dict.fromkeys(
            '\u2018\u2019\u201a\u201b\u2032\u00b4`\u02bc"\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u2039\u203a', "'"
        ),
        "\u2212": "-",
        "_": " ",
    }
)


@dataclass(frozen=True, slots=True)
class SpellingVariants:
    """Sorted labels that differ in spelling only. `is_value` is true if they are spellings of one number or boolean."""

    labels: tuple[str, ...]
    is_value: bool


def spelling_variants(labels: Iterable[str]) -> list[SpellingVariants]:
    """Group the labels that differ in spelling only.

    They are the same number or boolean, or differ only in case, spacing, invisible characters, Unicode normalisation,
    the form of dashes and quotes, or quotes around them.
    """
    groups: dict[Decimal | str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_key(label), []).append(label)
    return [
        SpellingVariants(tuple(group), isinstance(key, Decimal) or key in ("true", "false"))
        for key, group in groups.items()
        if len(group) > 1
    ]


def same_spelling(label: str, labels: Iterable[str]) -> str | None:
    """Return the first of the labels that differs from this one in spelling only, or None."""
    key = _key(label)
    return next((other for other in labels if _key(other) == key), None)


def reads_as_missing(text: str) -> bool:
    """Whether a text or label is what programs write for a missing value, such as `nan`."""
    return text.strip().casefold() in _MISSING


def shown(label: str) -> str:
    """Quote a label, with escapes for characters that are invisible or look like others."""
    composed = unicodedata.is_normalized("NFC", label)
    return "'" + "".join(_shown(character, composed) for character in label) + "'"


def plain(label: str) -> str:
    """Return a label as it is, or as `shown` if it has invisible characters."""
    hidden = any(is_invisible(character) and character != " " for character in label) or "  " in label
    return shown(label) if hidden else label


def _shown(character: str, composed: bool) -> str:
    if character == " " or (character.isascii() and character.isprintable()):
        return character
    category = unicodedata.category(character)
    hidden = (
        is_invisible(character)
        or ord(character) in _MARKS
        or category[0] in "ZC"
        or category in ("Pd", "Pi", "Pf")
        or (category[0] == "M" and not composed)
        or unicodedata.normalize("NFKC", character) != character
    )
    return character.encode("unicode_escape").decode() if hidden else character


def _key(label: str) -> Decimal | str:
    """Return the key that all spellings of a label share."""
    text = "".join(character for character in label if character.isspace() or not is_invisible(character))
    text = unicodedata.normalize("NFKC", text.translate(_MARKS)).casefold().replace("i\u0307", "i")  # from a dotted İ
    text = "".join("-" if unicodedata.category(character) == "Pd" else character for character in text)
    text = unicodedata.normalize("NFKC", text).strip()
    text = text.strip("' ") or text  # quotes around a label
    return Decimal(text) if _NUMBER.fullmatch(text) else "".join(text.split())
