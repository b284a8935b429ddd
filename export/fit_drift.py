"""Fit the reference of input drift, offline: how texts look that the student was not trained on.

Texts of the training split do not serve: on them a student is about twice as sure as on new ones, so that any new text
would look like drift. Labels play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import Prediction
from export.bundle.drift_reference import DriftReference, Floats
from export.bundle.reference import Reference

BINS = 10
FEATURES = 128
TEXTS_PER_FEATURE = 8
"""Number of random Fourier features, and how many texts each of them needs at least for a covariance to invert."""

FEWEST = 50
"""With fewer texts nothing is fitted."""

_PAIRS = 4000


def fit_drift(answers: Sequence[Prediction], reference: Reference, *, unknown: bool) -> DriftReference | None:
    """Fit the reference of input drift from a bundle's answers to texts that it was not trained on.

    `reference` gives the expected disagreement of an answer, and its band; `unknown` says whether the tokenizer has an
    unknown token. Returns None for fewer than `FEWEST` answers, or if most embeddings are equal.
    """
    if len(answers) < FEWEST:
        return None
    expected = np.array([reference.expected_disagreement(answer.score) for answer in answers])
    bands = np.array([reference.band(value) for value in expected.tolist()])
    tokens = np.array([answer.tokens for answer in answers], dtype=np.float64)
    unknown_shares = np.array([answer.unknown for answer in answers]) / tokens
    lengths, length_edges = fit_bins(tokens)
    unknown_counts, unknown_edges = fit_bins(unknown_shares) if unknown else (np.empty(0), np.empty(0))
    embeddings = np.stack([answer.embedding for answer in answers])
    drawn = _draw_features(embeddings)
    if drawn is None:
        return None
    directions, offsets = drawn
    size = len(offsets)
    fitted = DriftReference(
        expected=np.array([expected.mean(), expected.std()]),
        bands=_counts(bands, reference.bands),
        classes=_counts(np.array([answer.best for answer in answers]), len(answers[0].probabilities)),
        lengths=lengths,
        length_edges=length_edges,
        unknown=unknown_counts,
        unknown_edges=unknown_edges,
        projection=_in_32_bits(directions).ravel(),
        offsets=_in_32_bits(offsets),
        means=np.zeros(size),
        precision=np.zeros(size * size),
    )
    features = fitted.features(embeddings)
    precision = _precision(np.atleast_2d(np.cov(features.T)), len(answers))
    return replace(fitted, means=features.mean(axis=0), precision=_in_32_bits(precision).ravel())


def fit_bins(values: Floats, bins: int = BINS) -> tuple[Floats, Floats]:
    """Return the counts of the reference `values` [M] in bins that divide them as equally as ties allow, and the edges.

    The edges are the upper, inclusive ends of all bins but the last. A value that would fill several bins gets one:
    there are then fewer than `bins`. The last bin, for everything above the largest edge, may be empty.
    """
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    return _counts(np.searchsorted(edges, values, side="left"), len(edges) + 1), edges


def _counts(indices: npt.NDArray[np.integer], size: int) -> Floats:
    return np.bincount(indices, minlength=size).astype(np.float64)


def _draw_features(embeddings: npt.NDArray[np.float32]) -> tuple[Floats, Floats] | None:
    """Draw directions [D, d] and offsets [D] of random Fourier features; None if most embeddings are equal.

    They are those of a Gaussian kernel whose bandwidth is the median distance of two texts. The seed is fixed, so that
    the same student gives the same bundle.
    """
    random = np.random.default_rng(0)
    first, second = random.integers(0, len(embeddings), (2, _PAIRS))
    bandwidth = float(np.median(np.linalg.norm(embeddings[first] - embeddings[second], axis=1)))
    if not bandwidth > 0:
        return None
    features = min(FEATURES, len(embeddings) // TEXTS_PER_FEATURE)
    directions = random.normal(size=(features, embeddings.shape[1])) / bandwidth
    # The angles are those from the mean: large ones would lose digits in 32 bits.
    return directions, random.uniform(0, 2 * np.pi, features) - directions @ embeddings.mean(axis=0, dtype=np.float64)


def _precision(covariance: Floats, texts: int) -> Floats:
    """Return the inverse of a covariance that was estimated from so many texts, without the bias of that.

    The inverse of an estimate is too large by (M − 1) / (M − D − 2) (Hartlap et al. 2007). Directions in which the
    texts hardly differ are given a little variance, so that rounding does not decide there.
    """
    size = len(covariance)
    ridge = 1e-6 * np.trace(covariance) / size + np.finfo(np.float32).tiny
    inverse = np.linalg.inv(covariance + ridge * np.eye(size)) * (texts - size - 2) / (texts - 1)
    return np.asarray(inverse)


def _in_32_bits(values: Floats) -> Floats:
    """Round to what is stored."""
    return values.astype(np.float32).astype(np.float64)
