"""Label codes: one token an answer, so that a language model's next-token distribution is one over labels.

An API shows only the most likely tokens. What can be known of the rest is kept as bounds and never renormalised away.
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

MOST = 900
VARIANTS = 4
"""Surface forms of a code that count for it: with and without a leading space, in either case."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer's top tokens say of K labels.

    `probabilities` float32 [K] is the distribution given that a label is answered, the unseen mass spread over the
    labels that were not listed. `covered` is the mass seen on labels, `tail` the mass of all tokens that were not
    listed, both in [0, 1]. The model's own mass on a label lies between `lower` and `upper` [K].
    """

    probabilities: npt.NDArray[np.float32]
    covered: float
    tail: float
    seen: int
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]


def codes(count: int) -> tuple[str, ...]:
    """Codes for K labels: letters up to 26, else numbers of three digits.

    A tokenizer that splits numbers gives a first digit, which is no code, so that its answers count as uncovered and
    not as another label's. Raises ValueError for more than 900 labels.
    """
    if count <= len(string.ascii_uppercase):
        return tuple(string.ascii_uppercase[:count])
    if count > MOST:
        raise ValueError(f"{count} labels: one-token codes are known for {MOST} at most; group the labels")
    return tuple(str(number) for number in range(100, 100 + count))


def order_of(text: str, count: int, permutations: int, repeat: int = 0) -> tuple[int, ...]:
    """Which label, by index, each code stands for in the request for this text: one of a few fixed permutations.

    Letters are biased by themselves and by their place (Zheng et al. 2024), so texts take turns; there are few
    permutations, so that servers can cache the prompt. The first is the identity; a repetition takes the next.
    """
    choice = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] + repeat) % permutations
    order = list(range(count))
    if choice:
        random.Random(choice).shuffle(order)
    return tuple(order)


def read(top: Iterable[tuple[str, float]], order: Sequence[int]) -> Reading:
    """The distribution over labels from the top tokens of one position, as (token, log probability).

    `order[i]` is the label that code i stands for. An unlisted token is at most as likely as the least likely listed
    one, and all unlisted ones together have the tail.
    """
    count = len(order)
    label_of = {code: order[index] for index, code in enumerate(codes(count))}
    mass, variants = np.zeros(count), np.zeros(count)
    listed = [(token, math.exp(min(logprob, 0.0))) for token, logprob in top]
    for token, probability in listed:
        label = label_of.get(token.strip().upper())
        if label is not None:
            mass[label] += probability
            variants[label] += 1
    covered = float(min(mass.sum(), 1.0))
    tail = max(0.0, 1.0 - sum(probability for _, probability in listed))
    least = min((probability for _, probability in listed), default=1.0)
    missing = variants == 0
    spread = min(tail, min(tail, least) * int(missing.sum()))
    filled = mass + np.where(missing, spread / max(1, int(missing.sum())), 0.0)
    total = float(filled.sum())
    return Reading(
        probabilities=(filled / total if total > 0 else np.full(count, 1 / count)).astype(np.float32),
        covered=covered,
        tail=tail,
        seen=int((~missing).sum()),
        lower=mass,
        upper=mass + np.minimum(tail, np.maximum(0, VARIANTS - variants) * least),
    )
