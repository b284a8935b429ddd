"""Label codes: answers of one token, so that a language model's next-token distribution is one over labels.

An API lists only the most likely tokens. The unlisted rest is kept as bounds, never renormalised away.
"""

from __future__ import annotations

import hashlib
import math
import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_LABELS = 900
_WORDS = frozenset(
    "ad ah ai al am an as at be by co de do ed el em en eh ex go ha he hi ho id if in is it la le lo ma me mr ms my no "
    "of oh ok on or ow ox pa pi re so st th to tv uh uk um un up us we ye yo".split()
)
_SPACES = str.maketrans("▁Ġ", "  ")  # how vocabularies, and some servers, write a space


@dataclass(frozen=True, slots=True)
class Reading:
    """A distribution over K labels read from the top tokens of an answer.

    `probabilities` float32 [K] is the distribution given that the answer is a label, with the unlisted mass spread over
    the labels that were not listed. `covered` is the mass listed for labels, `tail` the unlisted mass that may be on
    labels, both in [0, 1]. `seen` counts the labels that were listed. The model's own mass on the forms of a label's
    code lies between `lower` and `upper` [K].
    """

    probabilities: npt.NDArray[np.float32]
    covered: float
    tail: float
    seen: int
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]

    @property
    def bound(self) -> float:
        """The largest total variation distance between `probabilities` and the model's own distribution.

        However much of the tail is on labels, it is at most this share of all the mass on labels.
        """
        return self.tail / (self.covered + self.tail) if self.covered + self.tail > 0 else 1.0


def label_codes(count: int) -> tuple[str, ...]:
    """Codes for K labels: letters up to 26 labels, else numbers of three digits.

    If a tokenizer splits numbers, an answer begins with a single digit, which is no code and counts as uncovered, not
    as another label. Raises ValueError for more than 900 labels.
    """
    if count <= len(string.ascii_uppercase):
        return tuple(string.ascii_uppercase[:count])
    if count > MAX_LABELS:
        raise ValueError(f"{count} labels: one-token codes are known for {MAX_LABELS} at most; group the labels")
    return tuple(str(number) for number in range(100, 100 + count))


def letter_pairs() -> tuple[str, ...]:
    """Codes for a tokenizer that splits numbers: two letters that are not an English word."""
    letters = string.ascii_uppercase
    return tuple(pair for a in letters for b in letters if (pair := a + b).lower() not in _WORDS)


def order_of(text: str, count: int, permutations: int, repeat: int = 0) -> tuple[int, ...]:
    """The label, by index, that each code stands for in the request for this text: one of a few fixed permutations.

    Models favour some letters and positions (Zheng et al. 2024), so texts alternate between permutations; these are
    few, so that servers can cache prompts. The first one is the identity; each `repeat` takes the next.
    """
    choice = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] + repeat) % permutations
    order = list(range(count))
    if choice:
        random.Random(choice).shuffle(order)
    return tuple(order)


def forms(code: str) -> tuple[str, ...]:
    """The tokens that count as a code: with and without a leading space, in upper and lower case.

    A vocabulary has at most one token for each form, which the bounds rely on.
    """
    return tuple(dict.fromkeys((code, f" {code}", code.lower(), f" {code.lower()}")))


def read(
    top: Iterable[tuple[str, float]],
    order: Sequence[int],
    sampled: str | None = None,
    names: Sequence[str] | None = None,
) -> Reading:
    """Read the distribution over labels from the top tokens of one position, as (token, log probability).

    `order[i]` is the label that code i stands for; `names` are the codes, by default those of `label_codes`. An
    unlisted token is at most as likely as the least likely listed one, not counting the `sampled` token, which may be
    listed at any rank; all unlisted tokens together have the tail.
    """
    count = len(order)
    names = label_codes(count) if names is None else names
    label_of = {form: order[index] for index, code in enumerate(names) for form in forms(code)}
    mass, hidden = np.zeros(count), np.zeros(count)
    hidden[list(order)] = [len(forms(code)) for code in names]
    missing = np.ones(count, dtype=bool)
    listed = [(token.translate(_SPACES), math.exp(min(logprob, 0.0))) for token, logprob in top]
    for token, probability in listed:
        if (label := label_of.get(token)) is not None:
            mass[label] += probability
            missing[label] = False
    for token in {token for token, _ in listed} & label_of.keys():
        hidden[label_of[token]] -= 1
    tail = max(0.0, 1.0 - sum(probability for _, probability in listed))
    spoken = None if sampled is None else sampled.translate(_SPACES)
    least = min((probability for token, probability in listed if token != spoken), default=1.0)
    unseen = int(missing.sum())
    share = min(tail / max(1, unseen), least)
    return _reading(mass, np.where(missing, share, 0.0), tail, count - unseen, np.minimum(tail, hidden * least))


def read_all(probabilities: Sequence[float], order: Sequence[int], tail: float = 0.0) -> Reading:
    """Read the distribution from the mass of every code; `tail` is the mass that may be on unlisted forms of codes."""
    mass = np.zeros(len(order))
    mass[list(order)] = probabilities
    return _reading(mass, np.zeros(len(order)), tail, len(order), np.full(len(order), tail))


def _reading(
    mass: npt.NDArray[np.float64],
    spread: npt.NDArray[np.float64],
    tail: float,
    seen: int,
    slack: npt.NDArray[np.float64],
) -> Reading:
    filled = mass + spread
    total = float(filled.sum())
    return Reading(
        probabilities=(filled / total if total > 0 else np.full(len(mass), 1 / len(mass))).astype(np.float32),
        covered=float(min(mass.sum(), 1.0)),
        tail=tail,
        seen=seen,
        lower=mass,
        upper=mass + slack,
    )
