"""Fit the reference of input drift, offline: how texts look that the student was not trained on.

Texts of the training split do not serve: on them a student is about twice as sure as on new ones, so that any new text
would look like drift. Labels play no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import Prediction
from export.bundle.drift_reference import DriftReference, Floats
from export.bundle.reference import Reference

BINS = 10
FEATURES = 64
DIRECTIONS = 32
"""Number of random Fourier features, and of principal components of the embedding on which they are drawn."""

FEWEST = 50
"""With fewer texts nothing is fitted."""

_PAIRS = 4000
_BANDWIDTH = 0.5
"""Bandwidth of the Gaussian kernel, in median distances of two texts: half of it finds foreign texts best."""


def fit_drift(answers: Sequence[Prediction], reference: Reference, *, unknown: bool) -> DriftReference | None:
    """Fit the reference of input drift from a bundle's answers to texts that it was not trained on.

    `reference` gives the expected disagreement of an answer, and its band; `unknown` says whether the tokenizer has an
    unknown token. Returns None for fewer than `FEWEST` answers, or if all embeddings are equal.
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
    projection, offsets = drawn
    fitted = DriftReference(
        expected=np.array([expected.mean(), expected.std()]),
        bands=_counts(bands, reference.bands),
        classes=_counts(np.array([answer.best for answer in answers]), len(answers[0].probabilities)),
        lengths=lengths,
        length_edges=length_edges,
        unknown=unknown_counts,
        unknown_edges=unknown_edges,
        projection=projection.astype(np.float32).astype(np.float64).ravel(),
        offsets=offsets.astype(np.float32).astype(np.float64),
        means=np.zeros(FEATURES),
        spectrum=np.ones(4),
    )
    features = fitted.features(embeddings)
    eigenvalues = np.maximum(np.linalg.eigvalsh(np.cov(features.T)), 1e-12)
    spectrum = np.array([*((eigenvalues**power).sum() for power in (1, 2, 3)), eigenvalues[-1]])
    return DriftReference(**{**vars(fitted), "means": features.mean(axis=0), "spectrum": spectrum})


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
    """Draw directions [D, d] and offsets [D] of random Fourier features; None if all embeddings are equal.

    They are those of a Gaussian kernel on the principal components, folded into one matrix. The seed is fixed, so that
    the same student gives the same bundle.
    """
    random = np.random.default_rng(0)
    centre = embeddings.mean(axis=0, dtype=np.float64)
    centred = embeddings - centre
    axes = np.linalg.svd(centred, full_matrices=False)[2][:DIRECTIONS]
    reduced = centred @ axes.T
    first, second = random.integers(0, len(reduced), (2, _PAIRS))
    bandwidth = _BANDWIDTH * float(np.median(np.linalg.norm(reduced[first] - reduced[second], axis=1)))
    if not bandwidth > 0:
        return None
    directions = random.normal(size=(FEATURES, len(axes))) / bandwidth @ axes
    return directions, random.uniform(0, 2 * np.pi, FEATURES) - directions @ centre
