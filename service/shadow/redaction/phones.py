"""Phone numbers in a folded text: international ones, those after a word for one, and national ones.

National numbers are found for the countries that are named, with Google's numbering plans (`phonenumbers`): by its
digits alone, an order number cannot be told from a phone number. The library is imported when it is first needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from service.shadow.redaction.exclusions import Span, SpanSet, find_exclusions, is_reference, is_version

_BEFORE, _AFTER = r"(?<![\w+.,-])", r"(?!(?!(?i:ext|x)\.? ?\d)\w)"
_INTERNATIONAL = re.compile(rf"{_BEFORE}(?:\(\+\d{{1,3}}\)|\+\d{{1,3}})(?:[ ()./-]{{0,3}}\d){{5,14}}{_AFTER}")
_DIALLED = re.compile(rf"{_BEFORE}00 ?(?P<rest>[1-9](?:[ ()./-]{{0,3}}\d){{7,14}}){_AFTER}")
_NORTH_AMERICAN = re.compile(rf"{_BEFORE}(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{{3}}[ .-]\d{{4}}{_AFTER}")
_NORTH_AMERICAN_DIGITS = re.compile(rf"{_BEFORE}[2-9]\d{{9}}{_AFTER}")
_AREA_IN_BRACKETS = re.compile(r"(?<![\w+.,-])\(0\d{1,5}\) ?\d(?:[ /-]?\d){4,8}(?!\w)")
_TRUNK = re.compile(rf"{_BEFORE}0[1-9]\d{{0,4}}[ /-]\d(?:[ /-]?\d){{4,8}}{_AFTER}")
_ANNOUNCED = re.compile(
    r"(?i)(?<!\w)(?:(?:telephone|telefon|telefono|teléfono|téléphone|tel|tél|phone|mobile|mobil|móvil|cell|cellphone|"
    r"landline|fax|whats ?app|handy|handynummer|telefonnummer|rufnummer|portable)(?P<noun>)"
    r"|(?:call|ring|dial|text|sms|anrufen|appelez)(?!=)|(?:reach(?:ed)?(?=\s+(?:me|us|him|her|them|at|on|under)\b)))[.:]?"
    r"(?:\s{1,2}(?:me|us|him|her|them|you|back|on|at|under|via|is|are|was|my|our|the|numbers?|no|nr|unter|ist|mich|au|al|"
    r"nummer|numéro|número)[.:]?){0,5}\s{0,3}[:=#]?\s{0,3}"
    r"(?P<span>\(?\d(?:[ ()/.-]{0,3}\d){5,14})(?!\w)"
)
_LIST = re.compile(r"\s?(?:,|;|/|or|and|oder|und|ou|et|o|y)\s?\(?0\d(?:[ ()/.-]{0,3}\d){5,12}(?!\w)")
_LIKELY = re.compile(rf"{_BEFORE}\(?\d(?:[ ()/.-]{{0,3}}\d){{6,}}+{_AFTER}")
_LOOKUP_CHARACTERS = 10_000
"""National numbers are looked up in this many characters, which takes up to a second. After them every long enough
number counts as one."""

_OVERLAP = 100
_MIN_DIGITS, _MIN_DIGITS_AFTER_VERB = 6, 7


def find_phones(text: str, countries: Sequence[str]) -> Iterator[Span]:
    """Yield the spans of phone numbers, in order.

    `countries` (ISO 3166, two capitals) are those whose numbers are also found without a country prefix.
    """
    found = [match.span() for match in _INTERNATIONAL.finditer(text)]
    candidates = [*_announced(text), *_formatted(text)]
    dates = find_exclusions(text) if candidates or found or countries else SpanSet(())
    for start, stop in (*candidates, *_national(text, dates, countries)):
        stop = _cut_at_date(text, start, stop, dates)
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
            end = _cut_at_date(text, first, following.end(), dates)
            if not end:
                break
            yield first, end


def _masked(text: str, spans: SpanSet) -> str:
    """Return the text with letters in place of `spans`, so that no time goes into trying dates as numbers."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], "x" * (stop - start)]
        end = stop
    return "".join([*parts, text[end:]])


def _cut_at_date(text: str, start: int, stop: int, dates: SpanSet) -> int:
    """Return the end of a number that may run into a date, or 0 if too few digits are left before the date."""
    if (date := dates.first_in(start, stop)) is not None:
        stop = start + len(text[start : date[0]].rstrip(" ()./-"))
    return stop if sum(map(str.isdigit, text[start:stop])) >= _MIN_DIGITS else 0


def _announced(text: str) -> Iterator[Span]:
    """Yield the spans of numbers after a word for a phone, or for using one."""
    for match in _ANNOUNCED.finditer(text):
        if match["noun"] is not None or sum(map(str.isdigit, match["span"])) >= _MIN_DIGITS_AFTER_VERB:
            yield match.span("span")


def _formatted(text: str) -> Iterator[Span]:
    """Yield the spans of numbers in a format that little else has."""
    for pattern in (_NORTH_AMERICAN, _AREA_IN_BRACKETS):
        yield from (match.span() for match in pattern.finditer(text))
    for match in _DIALLED.finditer(text):
        if _is_number(f"+{match['rest']}", None):
            yield match.span()


def _national(text: str, dates: SpanSet, countries: Sequence[str]) -> Iterator[Span]:
    """Yield the spans of numbers of these countries without a country prefix."""
    if not countries:
        return
    text = _masked(text, dates)
    if len(text) > _LOOKUP_CHARACTERS:
        yield from (match.span() for match in _LIKELY.finditer(text, _LOOKUP_CHARACTERS - _OVERLAP))
        text = text[:_LOOKUP_CHARACTERS]
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
    """Return whether `text` is a number that can exist; if not `valid`, whether its length is right."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) if valid else phonenumbers.is_possible_number(number)
