"""Folding: maps full-width digits, unusual spaces, dashes and the like to ASCII, so that patterns match them.

Folded texts are for matching only: what is found is cut out of the original text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
"""Soft hyphens, joiners, direction marks and variation selectors, which may stand within a number unseen."""

_SEPARATORS = {
    ord(character): separator
    for separator, like in (("-", "−⁃˗➖─━ー"), ("/", "⁄∕"), (".", "·•・∙。"), (":", "ː∶"), (" ", "\t"))
    for character in like
}
"""Separators between digits that Unicode does not class as dashes, spaces or stops."""

_SIMPLE = {"Zs": " ", "Zl": "\n", "Zp": "\n", "Pd": "-"}


class _Folded(dict[int, str]):
    """A table for `str.translate`, one character to one, filled when a character first occurs."""

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
    """Return the folded text, and the position in `text` of each of its characters."""
    if text.isascii():
        return text.replace("\t", " "), range(len(text))
    folded = text.translate(_FOLDED)
    if not _INVISIBLE.search(folded):
        return folded, range(len(text))
    kept = [place for place, character in enumerate(folded) if not _INVISIBLE.match(character)]
    return "".join(folded[place] for place in kept), kept
