"""Reliability: whether a classifier is right as often as it is sure, before and after calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill.evaluation.calibration import BINS, binned_residuals, confidence_bins
from distill.evaluation.intervals import Interval, paired_bootstrap

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Reliability:
    """The calibration error of N answers, and for each confidence bin that is not empty its rows, mean and share right.

    The error is the expected calibration error over 15 bins; like every binned estimate it is biased upwards by chance.
    """

    error: Interval
    bins: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """Reliability before and after calibration."""

    before: Reliability
    after: Reliability


def reliability(probabilities: Floats, wanted: Classes, *, seed: int = 0) -> Reliability:
    """Measure how often the first choices of `probabilities` [N, K] are the `wanted` classes [N], by confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == wanted
    residuals = binned_residuals(confidence, right)
    (error,) = paired_bootstrap(residuals, lambda means: np.abs(means).sum(-1, keepdims=True), seed=seed)
    placed = confidence_bins(confidence)
    bins = tuple(
        (int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (placed == index for index in range(BINS))
        if inside.any()
    )
    return Reliability(error, bins)


def before_after(before: Floats, after: Floats, wanted: Classes, *, seed: int = 0) -> BeforeAfter:
    """Measure the reliability of uncalibrated and calibrated probabilities, both [N, K]."""
    return BeforeAfter(reliability(before, wanted, seed=seed), reliability(after, wanted, seed=seed))
