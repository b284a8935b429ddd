"""Drift statistics: near zero without drift at any sample size, and growing with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.monitor.drift import RandomFourierFeatures, fit_bins, psi, psi_excess, psi_noise

Floats = NDArray[np.float64]

CLASSES = 77
REFERENCE = 10_000
FLAT = RandomFourierFeatures(np.zeros((3, 2)), np.zeros(3))


def class_mix(generator: np.random.Generator) -> Floats:
    """Return the shares of 77 classes, the largest some ten times the smallest."""
    shares = 1.0 / np.arange(8, 8 + CLASSES)
    return generator.permutation(shares / shares.sum())


def sampled_reference(mix: Floats, generator: np.random.Generator) -> Floats:
    counts = generator.multinomial(REFERENCE, mix) + 0.5
    return np.asarray(counts / counts.sum())


def features(generator: np.random.Generator, width: int = 32, size: int = 64) -> RandomFourierFeatures:
    projection = generator.normal(size=(size, width)) / math.sqrt(width)
    return RandomFourierFeatures(projection, generator.uniform(0.0, 2.0 * math.pi, size=size))


def test_bins_are_equiprobable() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    bins = fit_bins(values)
    assert bins.mass == pytest.approx(np.full(10, 0.1), abs=1e-4)
    assert bins.count == 10_000
    assert bins.index(-9.0) == 0
    assert bins.index(9.0) == 9
    assert bins.index(bins.edges[3]) == 3
    counted = np.bincount([bins.index(value) for value in values.tolist()])
    assert counted.tolist() == [1000] * 10


def test_ties_are_merged_and_masses_are_real() -> None:
    values = np.repeat([1.0, 2.0, 3.0, 4.0], [600, 250, 100, 50])
    bins = fit_bins(values)
    assert bins.edges == (1.0, 2.0, 3.0)
    assert bins.mass == pytest.approx([0.6, 0.25, 0.1, 0.05], abs=0.001)
    assert [bins.index(value) for value in (0.5, 1.0, 2.5, 3.0, 7.0)] == [0, 0, 2, 2, 3]


def test_a_constant_feature_has_a_bin_for_new_values() -> None:
    bins = fit_bins(np.zeros(5000))
    assert (bins.edges, bins.index(0.0), bins.index(0.2)) == ((0.0,), 0, 1)
    assert abs(psi_excess(np.array([1000.0, 0.0]), bins.mass, bins.count)) < 0.002
    assert psi_excess(np.array([950.0, 50.0]), bins.mass, bins.count) > 0.2


def test_psi_by_hand() -> None:
    counts, mass = np.array([9.5, 29.5]), np.array([0.5, 0.5])
    assert psi(counts, mass) == pytest.approx(-0.25 * math.log(0.5) + 0.25 * math.log(1.5))
    assert psi_noise(77, 500, 10_000) == pytest.approx(76 * 0.0021)
    assert psi_excess(counts, mass, 1000) == pytest.approx(psi(counts, mass) - (1 / 39 + 1 / 1000))


def test_many_classes_and_few_requests_are_no_drift() -> None:
    generator = np.random.default_rng(1)
    mix = class_mix(generator)
    raw, excess = [], []
    for _ in range(400):
        reference = sampled_reference(mix, generator)
        counts = generator.multinomial(500, mix).astype(float)
        raw.append(psi(counts, reference))
        excess.append(psi_excess(counts, reference, REFERENCE))
    assert np.mean(np.array(raw) > 0.1) > 0.9  # the customary limit would alarm every time
    assert abs(np.mean(excess)) < 0.015
    assert np.mean(np.array(excess) > 0.1) <= 0.01


def test_excess_grows_with_drift() -> None:
    generator = np.random.default_rng(2)
    mix = class_mix(generator)
    reference = sampled_reference(mix, generator)
    surge = np.eye(CLASSES)[0]
    means = []
    for strength in (0.0, 0.1, 0.2, 0.4):
        drawn = generator.multinomial(500, (1 - strength) * mix + strength * surge, size=100)
        means.append(np.mean([psi_excess(counts, reference, REFERENCE) for counts in drawn]))
    assert abs(means[0]) < 0.03
    assert means[1] > 0.05
    assert means[3] > 2 * means[2] > 4 * means[1] / 1.5


def test_small_drift_shows_in_a_large_sample() -> None:
    generator = np.random.default_rng(3)
    bins = fit_bins(generator.normal(size=50_000))
    still, moved = (
        np.bincount([bins.index(value) for value in generator.normal(shift, size=20_000)]).astype(float)
        for shift in (0.0, 0.1)
    )
    assert abs(psi_excess(still, bins.mass, bins.count)) < 0.002
    assert 0.005 < psi_excess(moved, bins.mass, bins.count) < 0.02  # a fixed limit of 0.1 would never see it


def test_features_are_shifted_cosines_that_count_up() -> None:
    generator = np.random.default_rng(4)
    rff = features(generator)
    embeddings = generator.normal(size=(50, 32)).astype(np.float32)
    shifted = rff.shifted(embeddings)
    assert shifted.shape == (50, 64)
    assert shifted.min() >= 0.0
    assert shifted.max() <= 2.0
    assert rff.shifted(embeddings[7]) == pytest.approx(shifted[7], abs=1e-5)
    angle = rff.projection[3] @ embeddings[7] + rff.offsets[3]
    assert shifted[7, 3] == pytest.approx(1 + math.cos(angle), abs=1e-5)


def test_discrepancy_by_hand() -> None:
    rff = RandomFourierFeatures(np.zeros((2, 1)), np.zeros(2))
    value = rff.mmd2(np.array([15.0, 11.0]), 10, np.array([0.2, 0.2]), trace=0.5, reference_count=100)
    assert value == pytest.approx((0.3**2 + 0.1**2) - 0.5 * (1 / 10 + 1 / 100))


def test_discrepancy_is_unbiased_without_drift_and_positive_with_it() -> None:
    generator = np.random.default_rng(5)
    rff = features(generator)
    mean, trace = rff.reference(generator.normal(size=(20_000, 32)))
    topic = 5.0 * np.eye(32)[0]

    def discrepancies(new: float) -> Floats:
        values = []
        for _ in range(60):
            embeddings = generator.normal(size=(1000, 32))
            embeddings[: int(1000 * new)] += topic
            sums = rff.shifted(embeddings).sum(axis=0)
            values.append(rff.mmd2(sums, 1000, mean, trace, reference_count=20_000))
        return np.array(values)

    null, drifted = discrepancies(0.0), discrepancies(0.1)
    assert abs(null.mean()) < 4 * null.std() / math.sqrt(60)
    assert null.mean() + trace / 1000 > 10 * null.std() / math.sqrt(60)  # without the trace term it were off
    assert np.quantile(drifted, 0.05) > null.max()


def test_discrepancy_of_pods_adds() -> None:
    generator = np.random.default_rng(6)
    rff = features(generator)
    embeddings = generator.normal(0.5, size=(300, 32))
    mean, trace = rff.reference(generator.normal(size=(2000, 32)))
    pods = [rff.shifted(part).sum(axis=0) for part in np.split(embeddings, [100, 250])]
    pooled = rff.mmd2(rff.shifted(embeddings).sum(axis=0), 300, mean, trace)
    assert rff.mmd2(sum(pods, start=np.zeros(64)), 300, mean, trace) == pytest.approx(pooled)
    assert pooled > 0.01


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: fit_bins(np.zeros(100), bins=1), "bins"),
        (lambda: fit_bins(np.zeros(5)), "at least 10"),
        (lambda: fit_bins(np.full(20, np.nan)), "finite"),
        (lambda: fit_bins(np.arange(20.0)).index(math.nan), "NaN"),
        (lambda: psi(np.ones(3), np.full(2, 0.5)), "shapes"),
        (lambda: psi(np.zeros(2), np.full(2, 0.5)), "at least one request"),
        (lambda: psi(np.array([1.0, -1.0]), np.full(2, 0.5)), "counts must be"),
        (lambda: psi(np.ones(2), np.array([1.0, 0.0])), "positive masses"),
        (lambda: psi(np.ones(2), np.ones(2)), "sum to 1"),
        (lambda: psi_noise(10, 0, 100), "positive counts"),
        (lambda: RandomFourierFeatures(np.zeros((3, 2)), np.zeros(2)), "projection"),
        (lambda: FLAT.mmd2(np.ones(2), 1, np.zeros(3), trace=0.0), "expected shape"),
        (lambda: FLAT.mmd2(np.ones(3), 0, np.zeros(3), trace=0.0), "must be positive"),
    ],
)
def test_what_cannot_be_is_refused(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken()
