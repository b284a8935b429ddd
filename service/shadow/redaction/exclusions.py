"""What looks like personal data but is not: dates, versions, product numbers, and references such as order numbers.

Spans are positions in a folded text, see `folding`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int]


class SpanSet:
    """An ordered set of spans; overlapping ones are merged."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in sorted(spans):
            if self._stops and start < self._stops[-1]:
                self._stops[-1] = max(stop, self._stops[-1])
            else:
                self._starts.append(start)
                self._stops.append(stop)

    def __iter__(self) -> Iterator[Span]:
        return zip(self._starts, self._stops, strict=True)

    def first_in(self, start: int, stop: int) -> Span | None:
        """Return the first span that overlaps the one from `start` to `stop`."""
        at = bisect_right(self._stops, start)
        return (self._starts[at], self._stops[at]) if at < len(self._starts) and self._starts[at] < stop else None


_YEAR = r"(?:19|20)\d\d"
_DAY, _MONTH = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"


def _date(group: str) -> str:
    """Return the pattern of one date; `group` makes its group names unique within a larger pattern."""
    year = rf"(?:{_YEAR}|\d\d)"
    return (
        rf"(?:{_YEAR}(?P<{group}a>[./-]){_MONTH}(?P={group}a){_DAY}"
        rf"|{_DAY}(?P<{group}b>[./-]){_MONTH}(?P={group}b){year}|{_MONTH}(?P<{group}c>[./-]){_DAY}(?P={group}c){year}"
        rf"|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))"
    )


_BEGIN, _END = r"(?<![\w.+])(?<!\d[/-])", r"(?![\d/]|[.-]\d)"
_TO = r" ?(?:-|/|to|until|till|through|and|bis|und|au|al) ?"
_DATES = re.compile(
    rf"{_BEGIN}(?:{_date('x')}(?:{_TO}{_date('y')})?|{_DAY}\.(?:{_MONTH}\.)? ?- ?{_date('z')}"
    rf"|{_YEAR} ?[-/] ?{_YEAR}|{_MONTH}[./-]{_YEAR}(?: ?- ?{_MONTH}[./-]{_YEAR})?|{_YEAR}[/-]{_MONTH}){_END}"
)
_LABELLED_PRODUCT = re.compile(
    r"(?i)(?<!\w)(?:isbn(?:-1[03])?|issn|ismn|ean(?:-1?[38])?|gtin(?:-\d+)?|upc|sku|imei|asin|barcode|pzn|vin)"
    r"\s?(?:no\.?|number|nr\.?|code)?\s?[:#]?\s?\d[\dXx -]{5,20}"
)
_ISBN = re.compile(r"(?<![\w-])97[89][ -]\d{1,5}[ -]\d{1,7}[ -]\d{1,7}[ -]\d(?![\w-])")

_NUMBER_WORD = r"\s?(?:numbers?|no|nr|num|id|code|nummer|numéro|número|#)\.?"
_REFERENCE_BEFORE = re.compile(
    r"(?i)(?<![^\W_])(?:(?:orders?|invoice|bill|receipt|ref|reference|case|ticket|request|article|item|part|product|model|"
    r"serial|batch|lot|tracking|shipment|parcel|booking|contract|policy|claim|transaction|quote|page|row|line|error|code|"
    r"id|po|note|asset|voucher|coupon|bestell|bestellung|rechnungs?|rechnung|auftrags?|artikel|vorgangs?|sendungs?|vertrags?|zip|postcode|postal|plz|commande|"
    rf"facture|dossier|pedido|factura|ordine|fattura)(?:{_NUMBER_WORD})?"
    rf"|(?:customer|client|member|user|account|payment|patient|student|kunden|mitglieds?){_NUMBER_WORD})"
    r"(?:\s(?:is|was|ist|war|est|es))?\s?[:=#]?\s?[A-Za-z]{0,4}[-/#]?$"
)
_VERSION_BEFORE = re.compile(
    r"(?i)(?:(?<![^\W_])(?:v|ver|vers|versions?|versionen|release[ds]?|build|firmware|fw|software|sdk|driver|kernel|"
    r"windows|macos|ios|android|office|outlook|excel|teams|chrome|firefox|edge|safari|java|python|node|"
    r"updat(?:e[ds]?|ing)|patch|hotfix|rev|revision|(?:up|down)grad(?:e[ds]?|ing)|rollback|install(?:ed|ing)?|section|sec|chapter|clause|paragraph|para|"
    r"article|annex|appendix|table|figure|fig|kapitel|abschnitt|ziffer)\.?"
    r"(?:\s(?:notes?|candidate|no\.?|number|is|was|to|of|from|auf|von|ist)){0,2}\s?[:=]?\s?|§\s?|[=<>~^]=\s?)"
    r"(?:v?\d+(?:\.\d+)+\s?(?:,|or|and|to|->|→|-|/|oder|und|auf|bis)\s?(?:to\s)?){0,4}v?$"
)
_VERSION_AFTER = re.compile(
    r"(?i)[-+](?:alpha|beta|rc|pre|dev|snapshot|release|ga|final|hotfix|patch|build)"
    r"|\s(?:version|release|build|firmware|update|patch|upgrade)\b"
)
_CONTEXT = 60
"""Characters before a number that are searched for a word that says what it is."""


def find_exclusions(text: str) -> SpanSet:
    """Return the spans of dates and product numbers."""
    return SpanSet(match.span() for pattern in (_DATES, _LABELLED_PRODUCT, _ISBN) for match in pattern.finditer(text))


def is_reference(text: str, start: int) -> bool:
    """Return whether a word before `start` says that the number is that of an order, a ticket or the like."""
    return _REFERENCE_BEFORE.search(text[max(start - _CONTEXT, 0) : start]) is not None


def is_version(text: str, start: int, stop: int) -> bool:
    """Return whether a word beside the dotted number says that it is a version, or a section of a document."""
    before = text[max(start - _CONTEXT, 0) : start]
    return _VERSION_BEFORE.search(before) is not None or _VERSION_AFTER.match(text, stop) is not None
