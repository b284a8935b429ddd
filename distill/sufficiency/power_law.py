"""Fit a power law to a learning curve and extrapolate it, with intervals.

The expected error after n texts is c + a n^-b (Cortes et al. 1993; Hestness et al. 2017), with a floor c and a scale a
of 0 or more. Pure mathematics; `distill.sufficiency.learning_curve` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from distill.evaluation.intervals import Interval

Floats = npt.NDArray[np.float64]

_EXPONENTS = np.linspace(0.05, 1.5, 59)[:, None]
_FLOORS = 80  # on the grid, from 0 to the least error
_MISFIT = 0.01  # how far a real curve is off a power law at each size, as a share of the error, one standard deviation


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The weighted regression of the errors on n^-b for each exponent b and floor c of a grid, [B, C].

    Sizes are in units of `unit` texts. `scale` is the best scale, of either sign, `strength` [B, 1] one over its
    variance, and `distance` the weighted sum of squares at the best scale. `freedom` are the degrees of freedom of the
    noise's estimate, `left` those that the fit leaves to the sizes.
    """

    unit: float
    floor: Floats
    scale: Floats
    strength: Floats
    distance: Floats
    freedom: int
    left: int

    def error(self, size: float, level: float = 0.95) -> Interval:
        """The expected error after `size` texts."""
        return self._profile(self._remains(size), self.floor, level)

    def gain(self, size: float, more: float, level: float = 0.95) -> Interval:
        """By how much the expected error falls from `size` to `more` texts, a share of all answers."""
        return self._profile(self._remains(size) - self._remains(more), np.zeros(1), level)

    def _remains(self, size: float) -> Floats:
        """n^-b, [B, 1]."""
        share: Floats = (size / self.unit) ** -_EXPONENTS
        return share

    def _profile(self, slope: Floats, offset: Floats, level: float) -> Interval:
        """Return offset + slope × scale at the best fit, and its profile likelihood interval.

        The interval has all values that some floor, scale and exponent give whose distance is at most t² above the
        best one's. Unlike intervals from standard errors it also holds where the floor or the scale is 0.
        """
        nearest = self.distance + self.strength * np.minimum(self.scale, 0.0) ** 2  # a scale below 0 is not allowed
        misfit = max(1.0, float(nearest.min()) / self.left)  # a curve that is no power law makes the interval wider
        allowed = nearest.min() + misfit * float(student_t.ppf((1 + level) / 2, self.freedom)) ** 2
        reach = np.sqrt(np.maximum(allowed - self.distance, 0.0) / self.strength)
        within = nearest <= allowed
        lower = (offset + slope * np.maximum(self.scale - reach, 0.0))[within]
        upper = (offset + slope * (self.scale + reach))[within]
        best = np.unravel_index(nearest.argmin(), nearest.shape)
        value = (offset + slope * np.maximum(self.scale, 0.0))[best]
        return Interval(float(value), float(lower.min()), float(upper.max()))


def fit(sizes: Floats, errors: Floats) -> PowerLaw:
    """Fit a power law to the `errors` [F, S] of F folds at S `sizes`; F is 2 or more, S is 3 or more.

    A fold's texts may be harder than another's at every size, which is no noise of the curve's shape. The noise is
    what is left of the errors without the means of folds and sizes; at each size it is proportional to the variance
    of one answer, e (1 - e).
    """
    folds, steps = errors.shape
    mean = errors.mean(axis=0)
    variance = np.maximum(mean * (1 - mean), 1e-4)
    left = errors - errors.mean(axis=1, keepdims=True) - mean + errors.mean()
    freedom = (folds - 1) * (steps - 1)
    noise = max(float((left**2 / variance).sum()) / freedom, 1e-9) / folds * variance + (_MISFIT * mean) ** 2

    # The rows of all folds may be easier than others by chance, so that the floor on them is below 0.
    easier = 2 * float(errors.mean(axis=1).std(ddof=1)) / folds**0.5
    floor = np.linspace(-easier, float(mean.max()), _FLOORS)
    unit = float(sizes[-1])
    shape = (sizes / unit) ** -_EXPONENTS  # [B, S]
    above = mean - floor[:, None]  # [C, S]
    strength = (shape**2 / noise).sum(axis=1, keepdims=True)
    scale = (shape / noise) @ above.T / strength
    distance = (above**2 / noise).sum(axis=1) - strength * scale**2
    return PowerLaw(unit, floor, scale, strength, distance, freedom, max(1, steps - 3))
