"""Calibration: measure it, and estimate the scaling that improves it (Guo et al. 2017). Pure mathematics.

A student gets one temperature from its teacher's soft labels. A teacher gets a temperature, or a scale and a bias per
label, from gold labels; `distill.teachers.scaling` applies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from distill.evaluation.intervals import Interval, paired_bootstrap, wilson
from distill.teachers.scaling import Scaling, ScalingMethod, log_probabilities

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]
Wanted = Literal["auto", "temperature", "vector"]

LEAST_ROWS = 100
"""Gold rows; with fewer, chance alone moves the temperature of a good teacher by more than a quarter."""

LEAST_PER_LABEL = 10
"""Gold rows of each label; with fewer, its scale and bias are mostly chance."""

FOLDS = 5
BINS = 15

_RANGE = (0.05, 20.0)
# Standard deviations of normal priors: on ln T, which keeps a teacher that is right on every row from becoming certain;
# on the ln scale of a label around the mean of all labels; on the bias of a label.
_PRIOR, _PRIOR_SCALE, _PRIOR_BIAS = 1.0, 0.2, 0.5


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A measure of the teacher before and after calibration."""

    before: Interval
    after: Interval


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """A scaling estimated from N gold rows, the `reason` for its method, and its effect.

    The measures are cross-validated: each row is scaled by parameters estimated without it. `saved` is the log-loss
    before minus after, on the same rows. The calibration error has 15 bins, and is biased upwards by chance.
    """

    scaling: Scaling
    reason: str
    rows: int
    log_loss: BeforeAfter
    saved: Interval
    calibration_error: BeforeAfter
    accuracy: BeforeAfter


def calibrate_temperature(logits: Floats, targets: Floats, prior: float = 0.0) -> float:
    """Return the T in [0.05, 20] that minimises the cross-entropy of softmax(logits / T) with `targets`.

    `logits` and `targets` are [N, K]; a row of `targets` is a distribution (one-hot for gold labels). The term
    `prior` · ln² T / 2 is added to the sum over rows.
    """
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        entropy = -(targets * log_softmax(scores / np.exp(log_temperature), axis=1)).sum(axis=1).mean()
        return float(entropy + prior * log_temperature**2 / 2 / len(scores))

    found = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded")
    return float(np.exp(found.x))


def calibrate_scaling(probabilities: Floats, classes: Classes, method: ScalingMethod) -> Scaling:
    """Estimate the most probable scaling of a teacher's probabilities [N, K], given gold classes [N] and the priors."""
    logs, targets = log_probabilities(probabilities), one_hot(classes, probabilities.shape[1])
    temperature = calibrate_temperature(logs, targets, prior=_PRIOR**-2)
    if method == "temperature":
        return Scaling.of_temperature(temperature)
    count = logs.shape[1]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Return the negative log posterior and its gradient at K log scales and K biases."""
        log_scale, bias = parameters[:count], parameters[count:]
        scale, centre = np.exp(log_scale), log_scale.mean()
        logged = log_softmax(scale * logs + bias, axis=1)
        off = np.exp(logged) - targets
        apart = log_scale - centre
        value = -(logged * targets).sum() + (centre / _PRIOR) ** 2 / 2
        value += (apart @ apart) / (2 * _PRIOR_SCALE**2) + (bias @ bias) / (2 * _PRIOR_BIAS**2)
        by_scale = (off * logs).sum(axis=0) * scale + centre / _PRIOR**2 / count + apart / _PRIOR_SCALE**2
        by_bias = off.sum(axis=0) + bias / _PRIOR_BIAS**2
        return float(value), np.concatenate([by_scale, by_bias])

    start = np.concatenate([np.full(count, -np.log(temperature)), np.zeros(count)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Scaling(tuple(np.exp(found[:count]).tolist()), tuple(found[count:].tolist()))


def calibrate(probabilities: Floats, classes: Classes, wanted: Wanted = "auto", *, seed: int = 0) -> CalibrationResult:
    """Estimate a scaling of a teacher's probabilities [N, K] from gold classes [N], and measure its effect.

    `auto` takes vector scaling if every label has 10 rows and its cross-validated log-likelihood is higher than the
    temperature's by more than one standard error of the difference (Breiman et al. 1984). `too_few_rows` says how many
    rows are needed.
    """
    scaled: dict[ScalingMethod, npt.NDArray[np.float32]] = {}
    if wanted != "vector":
        scaled["temperature"] = _cross_validated(probabilities, classes, "temperature", seed)
    fewest = np.bincount(classes, minlength=probabilities.shape[1]).min()
    if wanted == "vector" or (wanted == "auto" and fewest >= LEAST_PER_LABEL):
        scaled["vector"] = _cross_validated(probabilities, classes, "vector", seed)
    method, reason = _choose(scaled, classes) if wanted == "auto" else (wanted, "asked for")
    both = (probabilities, scaled[method])
    columns = np.column_stack(
        [
            *(_losses(rows, classes) for rows in both),
            *(binned_residuals(rows.max(1), rows.argmax(1) == classes) for rows in both),
        ]
    )
    before, after, saved, error_before, error_after = paired_bootstrap(columns, _measures, seed=seed)
    return CalibrationResult(
        scaling=calibrate_scaling(probabilities, classes, method),
        reason=reason,
        rows=len(classes),
        log_loss=BeforeAfter(before, after),
        saved=saved,
        calibration_error=BeforeAfter(error_before, error_after),
        accuracy=BeforeAfter(*(wilson(int((rows.argmax(1) == classes).sum()), len(classes)) for rows in both)),
    )


def too_few_rows(per_label: npt.NDArray[np.intp], wanted: Wanted) -> str | None:
    """Say why gold rows, counted for each of K labels, are too few for a method; None where they are enough."""
    if (rows := int(per_label.sum())) < LEAST_ROWS:
        return (
            f"{rows} gold rows, and a temperature needs {LEAST_ROWS} at least, 200 to 500 better: with fewer, chance "
            "alone moves it by more than a quarter"
        )
    if wanted == "vector" and (thin := int((per_label < LEAST_PER_LABEL).sum())):
        return (
            f"{thin} of {len(per_label)} labels have fewer than {LEAST_PER_LABEL} gold rows, and vector scaling "
            "estimates a scale and a bias from the rows of each label"
        )
    return None


def one_hot(classes: Classes, count: int) -> npt.NDArray[np.float64]:
    """Return classes [N] as one-hot rows [N, K]."""
    rows: npt.NDArray[np.float64] = np.eye(count)[classes]
    return rows


def confidence_bins(confidence: Floats, bins: int = BINS) -> npt.NDArray[np.intp]:
    """Return the equal-width bin, in [0, bins), of each confidence in [0, 1]."""
    placed: npt.NDArray[np.intp] = np.minimum((confidence * bins).astype(np.intp), bins - 1)
    return placed


def expected_calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Average |accuracy − confidence| over equal-width bins, weighted by rows (Naeini et al. 2015). In [0, 1]."""
    return float(np.abs(binned_residuals(confidence, correct, bins).mean(axis=0)).sum())


def binned_residuals(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS) -> npt.NDArray[np.float64]:
    """Return each row's correctness minus its confidence, in the column of its bin: [N, bins].

    The calibration error is the sum of the columns' absolute means.
    """
    confidence = confidence.astype(np.float64)
    columns = np.zeros((len(confidence), bins))
    columns[np.arange(len(confidence)), confidence_bins(confidence, bins)] = correct - confidence
    return columns


def _cross_validated(
    probabilities: Floats, classes: Classes, method: ScalingMethod, seed: int
) -> npt.NDArray[np.float32]:
    """Scale each row by parameters estimated without it, [N, K].

    Folds are not stratified by label: stratified folds share the sample's label frequencies, so a bias that reproduces
    chance in them would look right on the held-out rows.
    """
    fold = np.random.default_rng(seed).permutation(len(classes)) % FOLDS
    scaled = np.empty(probabilities.shape, dtype=np.float32)
    for number in range(FOLDS):
        inside = fold == number
        scaling = calibrate_scaling(probabilities[~inside], classes[~inside], method)
        scaled[inside] = scaling.apply(probabilities[inside])
    return scaled


def _choose(scaled: dict[ScalingMethod, npt.NDArray[np.float32]], classes: Classes) -> tuple[ScalingMethod, str]:
    if "vector" not in scaled:
        return "temperature", f"some labels have fewer than {LEAST_PER_LABEL} gold rows, too few for vector scaling"
    gain = _losses(scaled["temperature"], classes) - _losses(scaled["vector"], classes)
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / len(gain) ** 0.5)
    found = (
        f"on held-out rows, vector scaling gains {mean:.4f} nats on a temperature, with a standard error of {error:.4f}"
    )
    return ("vector" if mean > error else "temperature"), found


def _losses(probabilities: Floats, classes: Classes) -> npt.NDArray[np.float64]:
    """Return −ln of the probability of each row's class, [N]."""
    losses: npt.NDArray[np.float64] = -log_probabilities(probabilities)[np.arange(len(classes)), classes]
    return losses


def _measures(means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log-loss before, after and saved, and calibration error before and after, from means of columns."""
    before, after = means[..., 0], means[..., 1]
    errors = [np.abs(means[..., 2 + start : 2 + start + BINS]).sum(-1) for start in (0, BINS)]
    return np.stack([before, after, before - after, *errors], axis=-1)
