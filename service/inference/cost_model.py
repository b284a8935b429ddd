"""Predict the duration of a run on this machine from the runs so far: seconds = a x padded tokens + b.

Least squares over exponentially weighted moments (Finch, Incremental calculation of weighted mean and variance, 2009),
so that the fit follows a machine that slows down. Admission uses it to predict how long a new text would wait.
"""

from __future__ import annotations

import math

_NEWEST = 0.02
"""Weight of the newest run, after the first 1 / 0.02 runs."""

_PRIOR_SPREAD = 0.05
"""Strength of the prior that tokens account for half of a run's cost, as a relative standard deviation of tokens.

Runs whose token counts vary by no more than this do not determine the slope.
"""

_MAX_DEVIATION = 1.0
"""Relative deviations from the prediction are cut here: a run that was held up for long says little about the next."""

_MIN_SLOPE = 1e-9


class Cost:
    """The fit. Before the first run it predicts 0."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0  # means
        self._variance = self._covariance = 0.0  # of tokens; of tokens with seconds
        self._a = self._b = 0.0
        self._deviations = 0.0  # mean squared relative difference from the prediction
        self.runs = 0
        self.slack = 0.0
        """Fixed cost of a run in tokens: b / a, at least 0."""

    def learn(self, tokens: int, seconds: float) -> None:
        """Update the fit with a run of `tokens` padded tokens that took `seconds`."""
        predicted = self.seconds(tokens, 1)
        if predicted > 0:
            deviation = min((seconds - predicted) / predicted, _MAX_DEVIATION)
            self._deviations += _NEWEST * (deviation * deviation - self._deviations)
        self.runs += 1
        weight = max(_NEWEST, 1 / self.runs)
        more_tokens, more_seconds = tokens - self._tokens, seconds - self._seconds
        self._tokens += weight * more_tokens
        self._seconds += weight * more_seconds
        self._variance = (1 - weight) * (self._variance + weight * more_tokens * more_tokens)
        self._covariance = (1 - weight) * (self._covariance + weight * more_tokens * more_seconds)
        mean = max(self._tokens, 1.0)
        prior = (_PRIOR_SPREAD * mean) ** 2
        self._a = (self._covariance + prior * self._seconds / mean / 2) / (self._variance + prior)
        self._b = self._seconds - self._a * self._tokens
        self.slack = max(0.0, self._b) / max(self._a, _MIN_SLOPE)

    @property
    def spread(self) -> float:
        """Root mean square of the relative deviations from the prediction."""
        return math.sqrt(self._deviations)

    def seconds(self, tokens: float, runs: float) -> float:
        """Predict the seconds for `tokens` padded tokens in `runs` consecutive runs; at least 0."""
        return max(0.0, self._a * tokens + self._b * runs)


def whole_seconds(seconds: float) -> int:
    """Round up to whole seconds for `Retry-After`, at least 1."""
    return max(1, math.ceil(seconds))
