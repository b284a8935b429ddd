"""Redaction: personal data and secrets leave a text before it is stored or shown to a teacher.

Patterns, and checksums where there are any, for what has a recognisable form. Names and addresses have none and
stay; those need a model. A typed placeholder such as `<EMAIL>` keeps what the text is about. The time it takes grows
with the length of a text and no faster. Patterns see the text folded (`folding`); the rest of it stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import AddressValueError, IPv6Address

from service.shadow.credentials import find_assigned, find_secrets, find_stated, find_userinfo, names_secret
from service.shadow.folding import fold
from service.shadow.lookalikes import Span, Spans, harmless, is_reference, is_version
from service.shadow.phones import find_phones

Needs = Callable[[str], object]
Find = Callable[[str], Iterator[Span]]
Detector = tuple[str, Needs, Find]
"""A kind, what tells cheaply that a text may have it, and what finds it."""

_MOST_PASSES = 16
"""Texts that are not made to show something new after every pass need three at most."""

KINDS = ("SECRET", "EMAIL", "IBAN", "SSN", "CARD", "IP", "PHONE")

_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]++@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_SSN_SAID = re.compile(
    r"(?i)(?<!\w)(?:ssn|ss#|social[ -]?security(?:[ -](?:number|no\.?|num|#))?)(?:\s(?:is|was|ends))?\s?[:=#]?\s?"
    r"(?P<span>(?!000|666|9)\d{3}[ .-]?(?!00)\d{2}[ .-]?(?!0000)\d{4})(?![\w-])"
)
_DIGIT_GROUPS = re.compile(r"(?<!\d)\d+(?: ?[ ._/-] ?\d+)*+")
_FRACTION = re.compile(r"\d[.,]$")
_DIGITS = re.compile(r"\d+")
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?<![A-Za-z]-)(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?:(?:\.\d{1,3}){3})?(?!\w)")

_LONG_GROUP = re.compile(r"[0-9A-Fa-f]{3}|\.")

_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 "
        "LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 "
        "QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
    ).split()
}


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without what was found in it, and how often each kind was."""

    text: str
    found: Counter[str]


def redact(text: str, countries: Sequence[str] = ()) -> Redacted:
    """Replace what looks personal or secret by a placeholder of its kind. Redacting twice changes nothing more.

    Of a text that shows something new after each of many passes nothing is left but `<SECRET>`.

    `countries` (ISO 3166, two capitals) are those whose telephone numbers may stand without the prefix of a country.
    """
    phones: Find = partial(find_phones, countries=countries)
    detectors: tuple[Detector, ...] = (*_DETECTORS, ("PHONE", _six_digits, phones))
    found: Counter[str] = Counter()
    folded, places = fold(text)
    for _ in range(_MOST_PASSES):  # what is replaced may show something else beside it
        before = found.total()
        for kind, needs, find in detectors:
            if needs(folded) and (spans := list(find(folded))):
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


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of a card number."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(value // 10 + value % 10 for value in doubled)) % 10 == 0


def iban(code: str) -> bool:
    """Tell whether letters and digits without separators are an IBAN: the country's length, and 1 modulo 97."""
    rearranged = (code[4:] + code[:4]).upper()
    if not rearranged.isascii() or not rearranged.isalnum() or len(code) != _IBAN_LENGTHS.get(code[:2].upper()):
        return False
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def _matches(pattern: re.Pattern[str], group: str | int = 0) -> Callable[[str], Iterator[Span]]:
    def find(text: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            yield match.span(group)

    return find


def _find_ibans(text: str) -> Iterator[Span]:
    end = 0
    for match in _IBAN_START.finditer(text):
        start = match.start()
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        stop = _end_of(text, start, length)
        if start >= end and stop and iban(re.sub(r"[ -]", "", text[start:stop])):
            yield start, stop
            end = stop


def _end_of(text: str, start: int, length: int) -> int:
    """Return where a code of `length` letters and digits, single separators allowed, ends; 0 if it does not."""
    position, missing = start, length
    while missing and position < len(text):
        if text[position].isalnum():
            missing -= 1
        elif text[position] not in " -" or not text[position - 1].isalnum():
            return 0
        position += 1
    return position if length and not missing and not text[position : position + 1].isalnum() else 0


def _find_cards(text: str) -> Iterator[Span]:
    dates: Spans | None = None
    for sequence in _DIGIT_GROUPS.finditer(text):
        groups = [(match[0], match.start() + sequence.start()) for match in _DIGITS.finditer(sequence[0])]
        first = 0
        while first < len(groups):
            last = _card_end(text, groups, first)
            if last is not None:
                start, stop = groups[first][1], groups[last][1] + len(groups[last][0])
                dates = harmless(text) if dates is None else dates
                if dates.first_in(start, stop) is None:
                    yield start, stop
                first = last
            first += 1


def _card_end(text: str, groups: list[tuple[str, int]], first: int) -> int | None:
    """Return the last group of the card number that starts with group `first`: 13 to 19 digits, perhaps in groups.

    Groups have 2 to 6 digits, and full stops between all of them or none. Digits after a decimal point are no card.
    """
    start = end = groups[first][1]
    digits, stops = "", set()
    for index in range(first, len(groups)):
        group, begin = groups[index]
        if index > first:
            stops.add("." in text[end:begin])
            if len(stops) > 1 or not 2 <= len(group) <= 6 or not 2 <= len(groups[first][0]) <= 6:
                return None
        digits, end = digits + group, begin + len(group)
        if len(digits) > 19 or digits[0] not in "23456":
            return None
        if len(digits) >= 13 and luhn(digits):
            return None if index == first and _FRACTION.match(text[max(start - 2, 0) : start]) else index
    return None


def _find_ipv6(text: str) -> Iterator[Span]:
    for match in _IPV6.finditer(text):
        if _LONG_GROUP.search(match[0]) is None:
            continue  # a slice such as `[::2]`: of addresses at least one group has more digits
        try:
            IPv6Address(match[0])
        except AddressValueError:
            continue  # a time or a hardware address
        yield match.span()


def _find_ipv4(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        if not match[0].startswith("0.") and not is_version(text, *match.span()):  # no machine has 0.x.y.z
            yield match.span()


def _find_ssns(text: str) -> Iterator[Span]:
    return (match.span() for match in _SSN.finditer(text) if not is_reference(text, match.start()))


_digit, _mark, _at, _colon, _dash = (re.compile(needed).search for needed in (r"\d", "[:=]", "@", ":", "-"))
_six_digits = re.compile(r"\d(?:[ ()./-]{0,3}\d){5}").search

# The order matters: a key may look like digits, and a card number like a telephone number. Each is looked for only in
# a text that has what it cannot do without, which most texts have not.
_DETECTORS: tuple[Detector, ...] = (
    ("SECRET", bool, find_secrets),
    ("SECRET", _at, find_userinfo),
    ("SECRET", _mark, find_assigned),
    ("SECRET", names_secret, find_stated),
    ("EMAIL", _at, _matches(_EMAIL)),
    ("IBAN", _digit, _find_ibans),
    ("SSN", _digit, _matches(_SSN_SAID, "span")),
    ("SSN", _dash, _find_ssns),
    ("CARD", _digit, _find_cards),
    ("IP", _colon, _find_ipv6),
    ("IP", _digit, _find_ipv4),
)
