"""What a run costs on this machine, learned from the runs themselves: seconds = a x padded tokens + b.

Least squares over exponentially weighted moments (Finch, Incremental calculation of weighted mean and variance, 2009),
so that the fit follows a machine that slows down. It serves admission: how long would a text that comes now have to
wait?
"""

from __future__ import annotations

import math

_NEWEST = 0.02
"""The weight of the newest run, once there were 1 / 0.02 of them."""

_LIKE = 0.05
"""Runs whose tokens vary by no more than this share say nothing of the slope: half of their cost is taken for it."""

_MOST_STRAY = 1.0
"""A run that was held up for long counts as one that took twice as long: it says little of the next."""

_LEAST = 1e-9


class Cost:
    """The fit. Before the first run nothing is known and nothing predicted."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0  # means
        self._variance = self._covariance = 0.0  # of tokens; of tokens with seconds
        self._a = self._b = 0.0
        self._strays = 0.0  # mean squared difference from what was foretold, in terms of it
        self.runs = 0

    def learn(self, tokens: int, seconds: float) -> None:
        """Take in one run of so many padded tokens."""
        foretold = self.seconds(tokens, 1)
        if foretold > 0:
            stray = min((seconds - foretold) / foretold, _MOST_STRAY)
            self._strays += _NEWEST * (stray * stray - self._strays)
        self.runs += 1
        weight = max(_NEWEST, 1 / self.runs)
        more_tokens, more_seconds = tokens - self._tokens, seconds - self._seconds
        self._tokens += weight * more_tokens
        self._seconds += weight * more_seconds
        self._variance = (1 - weight) * (self._variance + weight * more_tokens * more_tokens)
        self._covariance = (1 - weight) * (self._covariance + weight * more_tokens * more_seconds)
        mean = max(self._tokens, 1.0)
        prior = (_LIKE * mean) ** 2
        self._a = (self._covariance + prior * self._seconds / mean / 2) / (self._variance + prior)
        self._b = self._seconds - self._a * self._tokens

    @property
    def slack(self) -> float:
        """What a run costs beside its tokens, in tokens: b / a, at least 0."""
        return max(0.0, self._b) / max(self._a, _LEAST)

    @property
    def spread(self) -> float:
        """How far runs stray from what was foretold: the root mean square, as a share of it."""
        return math.sqrt(self._strays)

    def seconds(self, tokens: float, runs: float) -> float:
        """What so many tokens in so many runs will take, one run after another; at least 0."""
        return max(0.0, self._a * tokens + self._b * runs)


def whole_seconds(seconds: float) -> int:
    """Seconds for a `Retry-After`: whole, and at least 1."""
    return max(1, math.ceil(seconds))
