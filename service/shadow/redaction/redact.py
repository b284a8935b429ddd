"""Redaction: removes personal data and secrets from a text before it is stored or sent to a teacher.

Finds what has a recognisable form, by patterns and by checksums where there are any. Names and postal addresses have
no such form and stay; finding them takes a model. A typed placeholder such as `<EMAIL>` keeps what the text is about.
The time is linear in the length of a text. Patterns are matched against the folded text (see `folding`); the rest of
the text is left as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from service.shadow.redaction import credentials, identifiers
from service.shadow.redaction.exclusions import Span
from service.shadow.redaction.folding import fold
from service.shadow.redaction.phones import find_phones

Precheck = Callable[[str], object]
Finder = Callable[[str], Iterator[Span]]
Detector = tuple[str, Precheck, Finder]
"""A kind, a cheap check that rules out most texts, and the function that finds the spans."""

_MAX_PASSES = 16
"""Ordinary texts need at most three passes."""

_digit, _assignment, _at, _colon, _dash = (re.compile(sign).search for sign in (r"\d", "[:=]", "@", ":", "-"))
_six_digits = re.compile(r"\d(?:[ ()./-]{0,3}\d){5}").search

# The order matters: a key may look like digits, and a card number like a phone number.
_DETECTORS: tuple[Detector, ...] = (
    ("SECRET", bool, credentials.find_tokens),
    ("SECRET", _at, credentials.find_userinfo),
    ("SECRET", _assignment, credentials.find_assigned),
    ("SECRET", credentials.mentions_secret, credentials.find_stated),
    ("EMAIL", _at, identifiers.find_emails),
    ("IBAN", _digit, identifiers.find_ibans),
    ("SSN", _digit, identifiers.find_announced_ssns),
    ("SSN", _dash, identifiers.find_ssns),
    ("CARD", _digit, identifiers.find_cards),
    ("IP", _colon, identifiers.find_ipv6),
    ("IP", _digit, identifiers.find_ipv4),
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A redacted text, and the number of placeholders of each kind."""

    text: str
    found: Counter[str]


def redact(text: str, countries: Sequence[str] = ()) -> Redacted:
    """Replace everything that looks personal or secret by a placeholder of its kind. Idempotent.

    `countries` (ISO 3166, two capitals) are those whose phone numbers are also found without a country prefix. If every
    one of 16 passes finds something new, as in a text made for that, the whole text becomes `<SECRET>`.
    """
    phones: Finder = partial(find_phones, countries=countries)
    detectors: tuple[Detector, ...] = (*_DETECTORS, ("PHONE", _six_digits, phones))
    found: Counter[str] = Counter()
    folded, places = fold(text)
    for _ in range(_MAX_PASSES):  # a replacement may reveal something else beside it
        before = found.total()
        for kind, precheck, find in detectors:
            if precheck(folded) and (spans := list(find(folded))):
                text = _replace(text, kind, [(places[start], places[stop - 1] + 1) for start, stop in spans])
                folded, places = fold(text)
                found[kind] += len(spans)
        if found.total() == before:
            return Redacted(text, found)
    return Redacted("<SECRET>", found + Counter(SECRET=1))


def _replace(text: str, kind: str, spans: Sequence[Span]) -> str:
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], f"<{kind}>"]
        end = stop
    return "".join([*parts, text[end:]])
