"""Whether probabilities mean what they say, and the few numbers that make them (Guo et al. 2017). Pure mathematics.

A student gets one temperature from its teacher's soft labels; a teacher gets one, or a scale and a bias per label, from
gold labels. How the latter are applied is in `distill.teachers.scaling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from distill.evaluation.intervals import Interval, paired_bootstrap, wilson
from distill.teachers.scaling import Method, Scaling, log_probabilities

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]
Wanted = Literal["auto", "temperature", "vector"]

LEAST_ROWS = 100
"""Gold rows below which chance alone moves the temperature of a good teacher by more than a quarter."""

LEAST_PER_LABEL = 10
"""Gold rows of each label below which its own scale and bias are mostly chance."""

FOLDS = 5
BINS = 15

_RANGE = (0.05, 20.0)
# Standard deviations that parameters are expected to have, as priors: of ln T, so that a teacher that is right on every
# row is not made certain; of a label's ln scale around all labels', and of its bias.
_SPREAD, _SPREAD_SCALE, _SPREAD_BIAS = 1.0, 0.2, 0.5


@dataclass(frozen=True, slots=True)
class Change:
    """A measure of the teacher before and after calibration."""

    before: Interval
    after: Interval


@dataclass(frozen=True, slots=True)
class Fitted:
    """A scaling fitted on N gold rows, why it is of this method, and what it did.

    The measures are on rows held out, each scaled by parameters fitted without it. `saved` is the log-loss before
    minus after, on the same rows. The calibration error is of 15 bins, and biased upwards by what chance would give.
    """

    scaling: Scaling
    reason: str
    rows: int
    log_loss: Change
    saved: Interval
    calibration_error: Change
    accuracy: Change


def fit_temperature(logits: Floats, targets: Floats, prior: float = 0.0) -> float:
    """The T in [0.05, 20] that minimises the cross-entropy of softmax(logits / T) with `targets`.

    `logits` and `targets` are [N, K]; a row of `targets` is a distribution (one-hot for gold labels). `prior` adds
    that times ln² T / 2 to the sum over rows.
    """
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        entropy = -(targets * log_softmax(scores / np.exp(log_temperature), axis=1)).sum(axis=1).mean()
        return float(entropy + prior * log_temperature**2 / 2 / len(scores))

    found = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded")
    return float(np.exp(found.x))


def fit_scaling(probabilities: Floats, classes: Classes, method: Method) -> Scaling:
    """The likeliest scaling of a teacher's probabilities [N, K], given gold classes [N] and the priors."""
    logs, targets = log_probabilities(probabilities), one_hot(classes, probabilities.shape[1])
    temperature = fit_temperature(logs, targets, prior=_SPREAD**-2)
    if method == "temperature":
        return Scaling.of_temperature(temperature)
    count = logs.shape[1]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """The negative log posterior, and its gradient, at K log scales and K biases."""
        log_scale, bias = parameters[:count], parameters[count:]
        scale, centre = np.exp(log_scale), log_scale.mean()
        logged = log_softmax(scale * logs + bias, axis=1)
        off = np.exp(logged) - targets
        apart = log_scale - centre
        value = -(logged * targets).sum() + (centre / _SPREAD) ** 2 / 2
        value += (apart @ apart) / (2 * _SPREAD_SCALE**2) + (bias @ bias) / (2 * _SPREAD_BIAS**2)
        by_scale = (off * logs).sum(axis=0) * scale + centre / _SPREAD**2 / count + apart / _SPREAD_SCALE**2
        by_bias = off.sum(axis=0) + bias / _SPREAD_BIAS**2
        return float(value), np.concatenate([by_scale, by_bias])

    start = np.concatenate([np.full(count, -np.log(temperature)), np.zeros(count)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Scaling(tuple(np.exp(found[:count]).tolist()), tuple(found[count:].tolist()))


def calibrate(probabilities: Floats, classes: Classes, wanted: Wanted = "auto", *, seed: int = 0) -> Fitted:
    """Fit a scaling of a teacher's probabilities [N, K] to gold classes [N], and measure what it does.

    `auto` takes vector scaling where its log-likelihood on rows held out is higher than the temperature's by more than
    one standard error of that difference (Breiman et al. 1984), and every label has 10 rows. How many rows there must
    be, `lacking` says.
    """
    fits: dict[Method, npt.NDArray[np.float32]] = {}
    if wanted != "vector":
        fits["temperature"] = _held_out(probabilities, classes, "temperature", seed)
    if wanted == "vector" or (wanted == "auto" and _fewest(classes, probabilities.shape[1]) >= LEAST_PER_LABEL):
        fits["vector"] = _held_out(probabilities, classes, "vector", seed)
    method, reason = _choose(fits, classes) if wanted == "auto" else (wanted, "asked for")
    scaled = fits[method]
    columns = np.column_stack(
        [
            *(_losses(rows, classes) for rows in (probabilities, scaled)),
            *(excess(rows.max(1), rows.argmax(1) == classes) for rows in (probabilities, scaled)),
        ]
    )
    before, after, saved, error_before, error_after = paired_bootstrap(columns, _measures, seed=seed)
    return Fitted(
        scaling=fit_scaling(probabilities, classes, method),
        reason=reason,
        rows=len(classes),
        log_loss=Change(before, after),
        saved=saved,
        calibration_error=Change(error_before, error_after),
        accuracy=Change(
            *(wilson(int((rows.argmax(1) == classes).sum()), len(classes)) for rows in (probabilities, scaled))
        ),
    )


def lacking(per_label: npt.NDArray[np.intp], wanted: Wanted) -> str | None:
    """What gold rows, counted for each of K labels, are too few for, and why; None where they are enough."""
    if (rows := int(per_label.sum())) < LEAST_ROWS:
        return (
            f"{rows} gold rows, and a temperature needs {LEAST_ROWS} at least, 200 to 500 better: with fewer, chance "
            "alone moves it by more than a quarter"
        )
    if wanted == "vector" and (thin := int((per_label < LEAST_PER_LABEL).sum())):
        return (
            f"{thin} of {len(per_label)} labels have fewer than {LEAST_PER_LABEL} gold rows, and vector scaling fits a "
            "scale and a bias to each label's own"
        )
    return None


def one_hot(classes: Classes, count: int) -> npt.NDArray[np.float64]:
    """Classes [N] as rows of certainty [N, K]."""
    rows: npt.NDArray[np.float64] = np.eye(count)[classes]
    return rows


def confidence_bins(confidence: Floats, bins: int = BINS) -> npt.NDArray[np.intp]:
    """The equal-width bin, in [0, bins), of each confidence in [0, 1]."""
    placed: npt.NDArray[np.intp] = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    return placed


def expected_calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean |accuracy − confidence| over equal-width bins, weighted by their rows (Naeini et al. 2015). In [0, 1]."""
    return float(np.abs(excess(confidence, correct, bins).mean(axis=0)).sum())


def excess(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS) -> npt.NDArray[np.float64]:
    """Each row's correctness minus its confidence, in the column of its bin: [N, bins].

    The calibration error is the sum of the columns' absolute means.
    """
    confidence = confidence.astype(np.float64)
    columns = np.zeros((len(confidence), bins))
    columns[np.arange(len(confidence)), confidence_bins(confidence, bins)] = correct - confidence
    return columns


def _held_out(probabilities: Floats, classes: Classes, method: Method, seed: int) -> npt.NDArray[np.float32]:
    """Each row scaled by parameters that were fitted without it, [N, K].

    Folds are drawn at random and not for each label: those would have the sample's share of every label in common, and
    a bias fitted to chance would look like knowledge.
    """
    fold = np.random.default_rng(seed).permutation(len(classes)) % FOLDS
    scaled = np.empty(probabilities.shape, dtype=np.float32)
    for number in range(FOLDS):
        inside = fold == number
        scaled[inside] = fit_scaling(probabilities[~inside], classes[~inside], method).apply(probabilities[inside])
    return scaled


def _choose(fits: dict[Method, npt.NDArray[np.float32]], classes: Classes) -> tuple[Method, str]:
    if "vector" not in fits:
        return "temperature", f"some labels have fewer than {LEAST_PER_LABEL} gold rows, too few for vector scaling"
    gain = _losses(fits["temperature"], classes) - _losses(fits["vector"], classes)
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5)
    found = (
        f"on rows held out, vector scaling gains {mean:.4f} nats on a temperature, with a standard error of {error:.4f}"
    )
    return ("vector" if mean > error else "temperature"), found


def _fewest(classes: Classes, count: int) -> int:
    return int(np.bincount(classes, minlength=count).min())


def _losses(probabilities: Floats, classes: Classes) -> npt.NDArray[np.float64]:
    """−ln of the probability of each row's class, [N]."""
    losses: npt.NDArray[np.float64] = -log_probabilities(probabilities)[np.arange(len(classes)), classes]
    return losses


def _measures(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-loss before and after, what was saved, and calibration error before and after, from means of columns."""
    before, after = means[..., 0], means[..., 1]
    errors = [np.abs(means[..., 2 + start : 2 + start + BINS]).sum(-1) for start in (0, BINS)]
    return np.stack([before, after, before - after, *errors], axis=-1)
