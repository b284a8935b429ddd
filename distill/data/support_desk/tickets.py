"""The built-in support desk: a seeded generator of support tickets whose true label distribution is known.

A ticket comes from a generative model: a category is drawn, then one to three *signals* (what the customer
says is the matter) at that category's rates, then words for them. Neighbouring categories share signals, so
some tickets are truly ambiguous; wording, greetings, asides and typos depend on the signals alone. Bayes'
rule on the signals is therefore the exact posterior given the text, and gives the best possible accuracy.

It is a demo and a yardstick, not a benchmark of language understanding: the sentences are written by hand,
and a model that does well here has learned this desk only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from distill.data.support_desk import wordings as words

# Each category's share of the desk's tickets.
PRIOR: dict[str, float] = {
    "account_access": 0.080,
    "billing": 0.085,
    "cancellation": 0.070,
    "damaged_item": 0.065,
    "data_privacy": 0.050,
    "feature_request": 0.050,
    "fraud_report": 0.050,
    "password_security": 0.060,
    "payment_failure": 0.065,
    "product_question": 0.070,
    "refund": 0.075,
    "return_exchange": 0.070,
    "shipping_delay": 0.085,
    "subscription_change": 0.055,
    "technical_bug": 0.070,
}
CATEGORIES: tuple[str, ...] = tuple(sorted(PRIOR))

# How many signals a ticket has, and how often.
SIGNAL_COUNTS = {1: 0.62, 2: 0.31, 3: 0.07}
# An aside, an opening or a closing that would make a ticket longer than this is left out.
WORD_BUDGET = 55


@dataclass(frozen=True, slots=True)
class Ticket:
    """A text, the category it was drawn from, and P(category | text) in the order of CATEGORIES."""

    text: str
    label: str
    posterior: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing a customer can say: its rate in each of CATEGORIES, and the ways to word it."""

    name: str
    rates: tuple[float, ...]
    paraphrases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Register:
    """A manner of writing: its share of tickets, and how often it opens, wanders off, closes and mistypes."""

    name: str
    share: float
    opening: float
    aside: float
    closing: float
    typos: tuple[float, float, float]  # chances of none, one, two


_REGISTERS = (
    _Register("plain", 0.34, opening=0.60, aside=0.50, closing=0.50, typos=(0.70, 0.22, 0.08)),
    _Register("polite", 0.20, opening=0.95, aside=0.55, closing=0.80, typos=(0.85, 0.12, 0.03)),
    _Register("terse", 0.14, opening=0.35, aside=0.30, closing=0.40, typos=(0.40, 0.38, 0.22)),
    _Register("angry", 0.12, opening=0.70, aside=0.70, closing=0.60, typos=(0.60, 0.28, 0.12)),
    _Register("chatty", 0.10, opening=0.90, aside=0.90, closing=0.70, typos=(0.65, 0.25, 0.10)),
    _Register("non_native", 0.10, opening=0.85, aside=0.55, closing=0.70, typos=(0.50, 0.32, 0.18)),
)

_BRACES = re.compile(r"\{([^{}]+)\}")
_DIGIT = re.compile(r"[@^]")
_ARTICLE = re.compile(r"(?<= )(?:the|an?) ")
_LONG_WORD = re.compile(r"\b[A-Za-z]{5,}\b")
_SHORTHAND = {"please": "pls", " you ": " u ", " and ": " & ", "thanks": "thx", "'": ""}
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def generate(rows: int, seed: int) -> list[Ticket]:
    """Draw this many tickets (1 or more); the same seed gives the same ones on every platform.

    A shorter run is the beginning of a longer one with the same seed. Raises ValueError when rows is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}: ask for at least 1 ticket")
    rng = random.Random(f"tickets {seed}")  # text, for random.Random(-1) and random.Random(1) are the same
    return [_ticket(rng) for _ in range(rows)]


def posterior(signals: Sequence[Signal]) -> tuple[float, ...]:
    """P(category | these signals in this order), in the order of CATEGORIES; it sums to 1.

    Bayes' rule, where signals are drawn one after the other and never twice: the chance of one in a category
    is its rate over the sum of the rates not yet drawn. Raises ValueError when no category sends them all.
    """
    weights = [PRIOR[category] for category in CATEGORIES]
    undrawn = [1.0] * len(CATEGORIES)
    for signal in signals:
        for index, rate in enumerate(signal.rates):
            weights[index] *= rate / undrawn[index]
            undrawn[index] -= rate
    total = sum(weights)
    if total == 0:
        names = ", ".join(signal.name for signal in signals)
        raise ValueError(f"no category sends all of {names}: choose signals with a category in common")
    return tuple(weight / total for weight in weights)


def _row(rates: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(rates.get(category, 0.0) for category in CATEGORIES)


def _falling(count: int, start: float) -> list[float]:
    """Give unequal shares, the largest first: with equal ones a model would soon have seen every wording."""
    weights = [1 / (start + rank) for rank in range(count)]
    return [weight / sum(weights) for weight in weights]


def _exclusive(category: str) -> list[Signal]:
    """List the signals that only this category sends: they have what the shared ones leave of its rates."""
    left = 1 - sum(rates.get(category, 0.0) for rates in words.SHARED_RATES.values())
    wordings = words.EXCLUSIVE[category]
    return [
        Signal(f"{category}.{name}", _row({category: left * share}), wordings[name])
        for name, share in zip(wordings, _falling(len(wordings), start=4), strict=True)
    ]


SIGNALS: tuple[Signal, ...] = (
    *(signal for category in CATEGORIES for signal in _exclusive(category)),
    *(Signal(name, _row(words.SHARED_RATES[name]), words.SHARED[name]) for name in words.SHARED),
)

# Running totals, as random.choices wants them: per category over SIGNALS, and by number of paraphrases.
_SIGNAL_TOTALS = [list(accumulate(signal.rates[row] for signal in SIGNALS)) for row in range(len(CATEGORIES))]
_PARAPHRASE_TOTALS = {count: list(accumulate(_falling(count, start=1.5))) for count in range(1, 9)}


def _ticket(rng: random.Random) -> Ticket:
    category = rng.choices(range(len(CATEGORIES)), [PRIOR[name] for name in CATEGORIES])[0]
    signals = _draw_signals(rng, category)
    return Ticket(_write(rng, signals), CATEGORIES[category], posterior(signals))


def _draw_signals(rng: random.Random, category: int) -> list[Signal]:
    count = rng.choices(list(SIGNAL_COUNTS), list(SIGNAL_COUNTS.values()))[0]
    drawn: list[Signal] = []
    while len(drawn) < count:
        signal = rng.choices(SIGNALS, cum_weights=_SIGNAL_TOTALS[category])[0]
        if signal not in drawn:
            drawn.append(signal)
    return drawn


def _write(rng: random.Random, signals: Sequence[Signal]) -> str:
    """Find words for these signals. Nothing here knows the category."""
    register = rng.choices(_REGISTERS, [each.share for each in _REGISTERS])[0]
    text = _body(rng, signals)
    if rng.random() < register.aside:
        pool = words.ASIDES["any" if rng.random() < 0.65 else register.name]
        aside = _fill(rng, rng.choice(pool))
        text = _within_budget(text, f"{aside} {text}" if rng.random() < 0.4 else f"{text} {aside}")
    if rng.random() < register.opening:
        opening = _fill(rng, rng.choice(words.OPENINGS[register.name]))
        text = _within_budget(text, f"{opening} {_uncapitalise(text) if opening[-1] in ',:' else text}")
    if rng.random() < register.closing:
        text = _within_budget(text, f"{text} {_fill(rng, rng.choice(words.CLOSINGS[register.name]))}")
    if register.name in _STYLES:
        text = _STYLES[register.name](rng, text)
    return _mistype(rng, text, rng.choices((0, 1, 2), register.typos)[0])


def _body(rng: random.Random, signals: Sequence[Signal]) -> str:
    """Fill one template per signal, in order, and tie some to the one before."""
    parts: list[str] = []
    connectors = rng.sample(words.CONNECTORS, len(signals))
    for signal, connector in zip(signals, connectors, strict=True):
        template = rng.choices(signal.paraphrases, cum_weights=_PARAPHRASE_TOTALS[len(signal.paraphrases)])[0]
        sentence = _fill(rng, template)
        if parts and rng.random() < 0.7:
            sentence = f"{connector} {_uncapitalise(sentence)}"
        parts.append(sentence)
    return " ".join(parts)


def _fill(rng: random.Random, template: str) -> str:
    """Make the template's choices and fill its slots."""

    def replace(braces: re.Match[str]) -> str:
        options = braces[1].split("|")
        value = rng.choice(options if len(options) > 1 else words.SLOTS[braces[1]])
        return _DIGIT.sub(lambda mark: str(rng.randrange(1 if mark[0] == "^" else 0, 10)), value)

    return _BRACES.sub(replace, template)


def _within_budget(shorter: str, longer: str) -> str:
    return longer if len(longer.split()) <= WORD_BUDGET else shorter


def _uncapitalise(text: str) -> str:
    """Let the text stand after a comma; "I" and names such as DHL keep their capital."""
    first = re.split(r"[^A-Za-z]", text, maxsplit=1)[0]
    keeps = first == "I" or (len(first) > 1 and not first[1:].islower())
    return text if keeps else text[:1].lower() + text[1:]


def _terse(rng: random.Random, text: str) -> str:
    text = text.lower()
    if rng.random() < 0.6:
        for long, short in _SHORTHAND.items():
            text = text.replace(long, short)
    return text.removesuffix(".")


def _angry(rng: random.Random, text: str) -> str:
    return text.removesuffix(".") + rng.choice(("!", "!!", "!!!", ".")) if text.endswith(".") else text


def _non_native(rng: random.Random, text: str) -> str:
    """Leave out some articles."""
    return _ARTICLE.sub(lambda article: "" if rng.random() < 0.5 else article[0], text)


_STYLES: dict[str, Callable[[random.Random, str], str]] = {
    "terse": _terse,
    "angry": _angry,
    "non_native": _non_native,
}


def _mistype(rng: random.Random, text: str, count: int) -> str:
    """Make this many slips of the finger, each inside a word of five letters or more."""
    for _ in range(count):
        spots = list(_LONG_WORD.finditer(text))
        if not spots:
            break
        spot = rng.choice(spots)
        text = text[: spot.start()] + _slip(rng, spot[0]) + text[spot.end() :]
    return text


def _slip(rng: random.Random, word: str) -> str:
    """Swap two letters, leave one out, double one, or strike the key beside it."""
    at = rng.randrange(1, len(word) - 1)
    before, letter, after = word[:at], word[at], word[at + 1 :]
    row = next(row for row in _KEYBOARD if letter.lower() in row)
    neighbour = row[row.index(letter.lower()) - 1]  # to the left; of a row's first key, its last
    slips = (before + after[0] + letter + after[1:], before + after, before + letter + letter + after)
    return rng.choice((*slips, before + neighbour + after))
