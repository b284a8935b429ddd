"""Telephone numbers in a text: international ones, those that a word announces, and national ones of named countries.

Which numbers there are in a country, and how they are written, Google's library knows (`phonenumbers`): numbering plans
change, and by digits alone an order's number cannot be told from a telephone's. It is imported when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from service.shadow.lookalikes import Span, Spans, harmless, is_reference, is_version

_BEFORE, _AFTER = r"(?<![\w+.,-])", r"(?!(?!(?i:ext|x)\.? ?\d)\w)"
_INTERNATIONAL = re.compile(rf"{_BEFORE}(?:\(\+\d{{1,3}}\)|\+\d{{1,3}})(?:[ ()./-]{{0,3}}\d){{5,14}}{_AFTER}")
_DIALLED = re.compile(rf"{_BEFORE}00 ?(?P<rest>[1-9](?:[ ()./-]{{0,3}}\d){{7,14}}){_AFTER}")
_NORTH_AMERICAN = re.compile(rf"{_BEFORE}(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{{3}}[ .-]\d{{4}}{_AFTER}")
_NORTH_AMERICAN_DIGITS = re.compile(rf"{_BEFORE}[2-9]\d{{9}}{_AFTER}")
_AREA_IN_BRACKETS = re.compile(r"(?<![\w+.,-])\(0\d{1,5}\) ?\d(?:[ /-]?\d){4,8}(?!\w)")
_TRUNK = re.compile(rf"{_BEFORE}0[1-9]\d{{0,4}}[ /-]\d(?:[ /-]?\d){{4,8}}{_AFTER}")
_SAID = re.compile(
    r"(?i)(?<!\w)(?:(?:telephone|telefon|telefono|teléfono|téléphone|tel|tél|phone|mobile|mobil|móvil|cell|cellphone|"
    r"landline|fax|whats ?app|handy|handynummer|telefonnummer|rufnummer|portable)(?P<noun>)"
    r"|(?:call|ring|dial|text|sms|anrufen|appelez)(?!=)|(?:reach(?:ed)?(?=\s+(?:me|us|him|her|them|at|on|under)\b)))[.:]?"
    r"(?:\s{1,2}(?:me|us|him|her|them|you|back|on|at|under|via|is|are|was|my|our|the|numbers?|no|nr|unter|ist|mich|au|al|"
    r"nummer|numéro|número)[.:]?){0,5}\s{0,3}[:=#]?\s{0,3}"
    r"(?P<span>\(?\d(?:[ ()/.-]{0,3}\d){5,14})(?!\w)"
)
_LIST = re.compile(r"\s?(?:,|;|/|or|and|oder|und|ou|et|o|y)\s?\(?0\d(?:[ ()/.-]{0,3}\d){5,12}(?!\w)")
_LIKELY = re.compile(rf"{_BEFORE}\(?\d(?:[ ()/.-]{{0,3}}\d){{6,}}+{_AFTER}")
_THOROUGH = 10_000
"""Characters in which numbers of a country are looked up: a second for so many digits. After them every number that
is long enough is taken for one."""

_OVERLAP = 100
_LEAST_DIGITS, _CALLED_DIGITS = 6, 7


def find_phones(text: str, countries: Sequence[str]) -> Iterator[Span]:
    """Yield where telephone numbers are in a folded text, in order.

    `countries` (ISO 3166, two capitals) are those whose numbers may stand without the prefix of a country.
    """
    found = [match.span() for match in _INTERNATIONAL.finditer(text)]
    candidates = [*_said(text), *_formed(text)]
    dates = harmless(text) if candidates or found or countries else Spans(())
    for start, stop in (*candidates, *_national(text, dates, countries)):
        stop = _until_a_date(text, start, stop, dates)
        if stop and not is_reference(text, start) and not is_version(text, start, stop):
            found.append((start, stop))
    end = 0
    for start, stop in sorted(found, key=lambda span: (span[0], -span[1])):
        if start < end:
            continue
        yield start, stop
        end = stop
        while following := _LIST.match(text, end):
            first = following.start() + re.search(r"[(\d]", following[0]).start()  # type: ignore[union-attr]
            end = _until_a_date(text, first, following.end(), dates)
            if not end:
                break
            yield first, end


def _without(text: str, spans: Spans) -> str:
    """The text with letters in place of what is in `spans`: to try every date as a number would take long."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], "x" * (stop - start)]
        end = stop
    return "".join([*parts, text[end:]])


def _until_a_date(text: str, start: int, stop: int, dates: Spans) -> int:
    """Where a number ends that may run into a date; 0 when it is one, or nothing before one."""
    if (date := dates.first_in(start, stop)) is not None:
        stop = start + len(text[start : date[0]].rstrip(" ()./-"))
    return stop if sum(map(str.isdigit, text[start:stop])) >= _LEAST_DIGITS else 0


def _said(text: str) -> Iterator[Span]:
    """Numbers after a word for a telephone, or for using one."""
    for match in _SAID.finditer(text):
        if match["noun"] is not None or sum(map(str.isdigit, match["span"])) >= _CALLED_DIGITS:
            yield match.span("span")


def _formed(text: str) -> Iterator[Span]:
    """Numbers of a form that little else has."""
    for pattern in (_NORTH_AMERICAN, _AREA_IN_BRACKETS):
        yield from (match.span() for match in pattern.finditer(text))
    for match in _DIALLED.finditer(text):
        if _is_number(f"+{match['rest']}", None):
            yield match.span()


def _national(text: str, dates: Spans, countries: Sequence[str]) -> Iterator[Span]:
    if not countries:
        return
    text = _without(text, dates)
    if len(text) > _THOROUGH:
        yield from (match.span() for match in _LIKELY.finditer(text, _THOROUGH - _OVERLAP))
        text = text[:_THOROUGH]
    import phonenumbers

    for country in countries:
        for number in phonenumbers.PhoneNumberMatcher(text, country):
            yield number.start, number.end
        if phonenumbers.country_code_for_region(country) == 1:
            yield from (match.span() for match in _NORTH_AMERICAN_DIGITS.finditer(text))
        if phonenumbers.ndd_prefix_for_region(country, strip_non_digits=True) == "0":
            for match in _TRUNK.finditer(text):
                if _is_number(match[0], country, valid=False):
                    yield match.span()


def _is_number(text: str, country: str | None, *, valid: bool = True) -> bool:
    """Whether it is a number that there can be, or at least one of the right length."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) if valid else phonenumbers.is_possible_number(number)
