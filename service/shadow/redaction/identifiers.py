"""Identifiers with a recognisable form: e-mail and IP addresses, IBANs, US social security numbers, card numbers.

Each `find_...` yields the spans of one kind in a folded text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address

from service.shadow.redaction.exclusions import Span, SpanSet, find_exclusions, is_reference, is_version

_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]++@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_SSN_ANNOUNCED = re.compile(
    r"(?i)(?<!\w)(?:ssn|ss#|social[ -]?security(?:[ -](?:number|no\.?|num|#))?)(?:\s(?:is|was|ends))?\s?[:=#]?\s?"
    r"(?P<span>(?!000|666|9)\d{3}[ .-]?(?!00)\d{2}[ .-]?(?!0000)\d{4})(?![\w-])"
)
_DIGIT_GROUPS = re.compile(r"(?<!\d)\d+(?: ?[ ._/-] ?\d+)*+")
_DECIMAL_POINT = re.compile(r"\d[.,]$")
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


def passes_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of a card number (Luhn algorithm)."""
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(value // 10 + value % 10 for value in doubled)) % 10 == 0


def is_iban(code: str) -> bool:
    """Return whether `code`, without separators, is an IBAN: of its country's length, and 1 modulo 97."""
    rearranged = (code[4:] + code[:4]).upper()
    if not rearranged.isascii() or not rearranged.isalnum() or len(code) != _IBAN_LENGTHS.get(code[:2].upper()):
        return False
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def find_emails(text: str) -> Iterator[Span]:
    """Yield the spans of e-mail addresses."""
    return (match.span() for match in _EMAIL.finditer(text))


def find_ibans(text: str) -> Iterator[Span]:
    """Yield the spans of IBANs."""
    end = 0
    for match in _IBAN_START.finditer(text):
        start = match.start()
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        stop = _code_end(text, start, length)
        if start >= end and stop and is_iban(re.sub(r"[ -]", "", text[start:stop])):
            yield start, stop
            end = stop


def _code_end(text: str, start: int, length: int) -> int:
    """Return the end of a code of `length` letters and digits with single separators, or 0 if there is none."""
    position, missing = start, length
    while missing and position < len(text):
        if text[position].isalnum():
            missing -= 1
        elif text[position] not in " -" or not text[position - 1].isalnum():
            return 0
        position += 1
    return position if length and not missing and not text[position : position + 1].isalnum() else 0


def find_cards(text: str) -> Iterator[Span]:
    """Yield the spans of card numbers."""
    dates: SpanSet | None = None
    for sequence in _DIGIT_GROUPS.finditer(text):
        groups = [(match[0], match.start() + sequence.start()) for match in _DIGITS.finditer(sequence[0])]
        first = 0
        while first < len(groups):
            last = _card_end(text, groups, first)
            if last is not None:
                start, stop = groups[first][1], groups[last][1] + len(groups[last][0])
                dates = find_exclusions(text) if dates is None else dates
                if dates.first_in(start, stop) is None:
                    yield start, stop
                first = last
            first += 1


def _card_end(text: str, groups: list[tuple[str, int]], first: int) -> int | None:
    """Return the last group of the card number that starts with group `first`, or None.

    A card number has 13 to 19 digits, in groups of 2 to 6 or in one. Full stops separate all groups or none. The
    fraction of a decimal number is not a card number.
    """
    start = end = groups[first][1]
    digits, dotted = "", set()
    for index in range(first, len(groups)):
        group, begin = groups[index]
        if index > first:
            dotted.add("." in text[end:begin])
            if len(dotted) > 1 or not 2 <= len(group) <= 6 or not 2 <= len(groups[first][0]) <= 6:
                return None
        digits, end = digits + group, begin + len(group)
        if len(digits) > 19 or digits[0] not in "23456":
            return None
        if len(digits) >= 13 and passes_luhn(digits):
            return None if index == first and _DECIMAL_POINT.match(text[max(start - 2, 0) : start]) else index
    return None


def find_ipv6(text: str) -> Iterator[Span]:
    """Yield the spans of IPv6 addresses."""
    for match in _IPV6.finditer(text):
        if _LONG_GROUP.search(match[0]) is None:
            continue  # a slice such as `[::2]`; an address has a longer group
        try:
            IPv6Address(match[0])
        except AddressValueError:
            continue  # a time or a hardware address
        yield match.span()


def find_ipv4(text: str) -> Iterator[Span]:
    """Yield the spans of IPv4 addresses."""
    for match in _IPV4.finditer(text):
        if not match[0].startswith("0.") and not is_version(text, *match.span()):  # 0.x.y.z is reserved
            yield match.span()


def find_ssns(text: str) -> Iterator[Span]:
    """Yield the spans of social security numbers that have the usual dashes."""
    return (match.span() for match in _SSN.finditer(text) if not is_reference(text, match.start()))


def find_announced_ssns(text: str) -> Iterator[Span]:
    """Yield the spans of social security numbers in any notation that follow a word for one."""
    return (match.span("span") for match in _SSN_ANNOUNCED.finditer(text))
