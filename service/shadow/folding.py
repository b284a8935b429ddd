"""Folding: a text as patterns see it, where full-width digits, odd spaces and dashes are those of ASCII.

It is for matching alone: what is found is cut out of the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
"""Soft hyphens, joiners, marks of direction and variants: they can stand within a number and show nothing."""

_SEPARATORS = {
    ord(character): separator
    for separator, like in (("-", "−⁃˗➖─━ー"), ("/", "⁄∕"), (".", "·•・∙。"), (":", "ː∶"), (" ", "\t"))
    for character in like
}
"""What people write between digits and Unicode does not call a dash, a space or a stop."""

_SIMPLE = {"Zs": " ", "Zl": "\n", "Zp": "\n", "Pd": "-"}


class _Folded(dict[int, str]):
    """For `str.translate`: what each character is folded into, one for one; found out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold(chr(code))
        return folded


def _fold(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in _SIMPLE:
        return _SIMPLE[category]
    if category in ("Pi", "Pf"):
        return "'" if character in "‘’‚‛‹›" else '"'
    plain = unicodedata.normalize("NFKC", character)
    if len(plain) != 1:
        return character
    return _SEPARATORS.get(ord(plain), plain if plain.isascii() else character)


_FOLDED = _Folded(_SEPARATORS)


def fold(text: str) -> tuple[str, Sequence[int]]:
    """Return the folded text, and of each of its characters where it is in `text`."""
    if text.isascii():
        return text.replace("\t", " "), range(len(text))
    folded = text.translate(_FOLDED)
    if not _INVISIBLE.search(folded):
        return folded, range(len(text))
    kept = [place for place, character in enumerate(folded) if not _INVISIBLE.match(character)]
    return "".join(folded[place] for place in kept), kept
