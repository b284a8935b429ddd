"""Tests of input drift: rarely wrong without drift, at any sample size, and right about drift that matters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.monitor.drift import (
    DESIGN_EFFECT,
    DISTANCE_TOLERANCE,
    MEAN_TOLERANCE,
    distance_quantile,
    embedding_shift,
    mean_shift,
    psi_excess,
    shares_shift,
)

Floats = NDArray[np.float64]

CLASSES = 77
TEXTS = 3000
STRICT = 1e-6


def class_mix(generator: np.random.Generator) -> Floats:
    """Return the shares of 77 classes, the largest some ten times the smallest."""
    shares = 1.0 / np.arange(8, 8 + CLASSES)
    return generator.permutation(shares / shares.sum())


def counted(generator: np.random.Generator, size: int, mix: Floats) -> Floats:
    return generator.multinomial(size, mix).astype(float)


@pytest.mark.parametrize("count", [200, 1000, 20_000])
def test_many_classes_and_few_requests_are_no_drift(count: int) -> None:
    generator = np.random.default_rng(1)
    mix, live = class_mix(generator), round(count / DESIGN_EFFECT)
    wrong = 0
    for _ in range(1000):
        reference = counted(generator, TEXTS, mix)
        requests = counted(generator, live, mix) * DESIGN_EFFECT  # their variance is what the design effect allows for
        wrong += shares_shift(requests, reference, 0.01).drift
    assert wrong <= 20


def test_a_surge_of_one_class_is_drift() -> None:
    generator = np.random.default_rng(2)
    mix = class_mix(generator)
    surge = 0.85 * mix + 0.15 * np.eye(CLASSES)[0]
    found = [
        shares_shift(counted(generator, 1000, surge), counted(generator, TEXTS, mix), STRICT).drift for _ in range(100)
    ]
    assert np.mean(found) >= 0.95


def test_a_bin_that_the_reference_has_not_is_drift_once_it_is_filled() -> None:
    reference = np.array([3000.0, 0.0])
    assert not shares_shift(np.array([999.0, 1.0]), reference, STRICT).drift
    assert shares_shift(np.array([900.0, 100.0]), reference, STRICT).drift


def test_the_statistic_of_shares_by_hand() -> None:
    counts, reference = np.array([60.0, 40.0]), np.array([50.0, 50.0])
    live = 100 / DESIGN_EFFECT
    pooled = (0.6 * live + 50) / (live + 100)
    expected = 0.01 / pooled + 0.01 / (1 - pooled)
    assert shares_shift(counts, reference, STRICT).statistic == pytest.approx(expected)


def test_a_trifle_is_no_drift_however_many_requests_show_it() -> None:
    many = 1_000_000_000
    assert not mean_shift(0.1 + 0.9 * MEAN_TOLERANCE, many, (0.1, 0.15), many, STRICT).drift
    assert mean_shift(0.1 + 1.1 * MEAN_TOLERANCE, many, (0.1, 0.15), many, STRICT).drift
    step = 0.5 * math.sqrt(DISTANCE_TOLERANCE)  # Σ (p − q)² / q of a half and a half is 4 · step²
    for factor, drift in ((0.9, False), (1.1, True)):
        shares = np.array([0.5 + factor * step, 0.5 - factor * step])
        assert shares_shift(shares * many, np.array([0.5, 0.5]) * many, STRICT).drift is drift
    for factor, drift in ((0.9, False), (1.1, True)):
        mean = np.array([factor * math.sqrt(DISTANCE_TOLERANCE * 0.1), *[0.0] * 7])
        assert embedding_shift(mean, many, np.zeros(8), 10 * np.eye(8), many, STRICT).drift is drift


def test_a_mean_by_hand() -> None:
    test = mean_shift(0.2, 1500, (0.1, 0.15), 1000, level=0.05)
    assert test.statistic == pytest.approx(0.1)
    assert test.threshold == pytest.approx(
        MEAN_TOLERANCE + 1.959964 * 0.15 * math.sqrt(DESIGN_EFFECT / 1500 + 1 / 1000)
    )
    assert mean_shift(0.0, 1500, (0.1, 0.15), 1000, level=0.05).drift  # easier than the reference is drift, too


@pytest.mark.parametrize("level", [1e-2, 1e-3])
@pytest.mark.parametrize("freedom", [2, 9, 76])
@pytest.mark.parametrize("scale", [0.1, 0.001])
def test_a_distance_exceeds_its_quantile_as_rarely_as_promised(level: float, freedom: int, scale: float) -> None:
    drawn = np.random.default_rng(3).noncentral_chisquare(freedom, DISTANCE_TOLERANCE / scale, 400_000)
    exceeding = np.mean(scale * drawn > distance_quantile(freedom, scale, level))
    assert 0.6 * level < exceeding < 1.15 * level


def test_embeddings_of_the_same_texts_are_no_drift_and_a_new_topic_is() -> None:
    generator = np.random.default_rng(4)
    scales = np.exp(-0.1 * np.arange(32))
    pool = np.cos(generator.normal(size=(100_000, 32)) * scales + 0.3)
    topic = np.cos(generator.normal(size=(10_000, 32)) * scales + 1.5)
    texts = pool[:TEXTS]
    precision = np.linalg.inv(np.cov(texts.T))

    def found(rows: Floats) -> bool:
        mean = rows.mean(axis=0)
        return embedding_shift(mean, len(rows), texts.mean(axis=0), precision, len(texts), STRICT).drift

    windows = pool[TEXTS : TEXTS + 90_000].reshape(90, 1000, 32)
    assert not any(found(window) for window in windows)
    assert all(found(np.concatenate([window[:800], topic[:200]])) for window in windows[:20])


def test_the_psi_shown_is_near_zero_without_drift_and_grows_with_it() -> None:
    generator = np.random.default_rng(5)
    mix = class_mix(generator)
    means = []
    for strength in (0.0, 0.1, 0.2, 0.4):
        drifted = (1 - strength) * mix + strength * np.eye(CLASSES)[0]
        means.append(
            np.mean([psi_excess(counted(generator, 500, drifted), counted(generator, TEXTS, mix)) for _ in range(100)])
        )
    assert abs(means[0]) < 0.03
    assert means[1] > 0.05
    assert means[3] > means[2] > means[1]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: mean_shift(0.1, 0, (0.1, 0.1), 100, 0.01), "positive"),
        (lambda: mean_shift(0.1, 100, (0.1, 0.1), 0, 0.01), "positive"),
        (lambda: shares_shift(np.ones(3), np.ones(2), 0.01), "shapes"),
        (lambda: shares_shift(np.array([1.0, -1.0]), np.ones(2), 0.01), "0 or above"),
        (lambda: shares_shift(np.zeros(2), np.ones(2), 0.01), "positive"),
        (lambda: embedding_shift(np.ones(3), 10, np.ones(2), np.eye(3), 10, 0.01), "shape"),
        (lambda: embedding_shift(np.ones(2), 10, np.ones(2), np.eye(3), 10, 0.01), "shape"),
        (lambda: embedding_shift(np.ones(2), 0, np.ones(2), np.eye(2), 10, 0.01), "positive"),
    ],
)
def test_what_cannot_be_is_refused(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken()
