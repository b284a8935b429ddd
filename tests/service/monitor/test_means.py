"""Post-stratified means of bounded metrics, and the interval that holds at all times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.monitor.means import MeanEstimate, confidence_sequence, estimate_mean


def mean_of(everything: float, maximum: float = 1.0) -> MeanEstimate | None:
    """Return the mean over two bands in which every count and sum is the same number."""
    counts = np.full(2, everything)
    return estimate_mean(counts, counts, counts, counts, maximum)


def test_nothing_completed_is_none() -> None:
    assert mean_of(0.0) is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: estimate_mean(np.ones(2), np.ones(2), np.ones(2), np.ones(3), 1.0), "squares must have"),
        (
            lambda: estimate_mean(np.ones(2), np.array([1.0, -1]), np.ones(2), np.ones(2), 1.0),
            "completed must be finite",
        ),
        (lambda: mean_of(3.0, maximum=0.5), "do not fit"),
        (lambda: mean_of(1.0, maximum=0.0), "maximum"),
        (lambda: confidence_sequence(0.0, 10.0), "completed"),
        (lambda: confidence_sequence(10.0, 10.0, level=0.1), "level"),
    ],
)
def test_what_cannot_be_is_refused(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken()


def test_the_mean_and_its_error_follow_the_unit_of_the_metric() -> None:
    requests, n, sums, squares = np.array([[90.0, 10], [30, 20], [6, 9], [2, 5]])
    nats = estimate_mean(requests, n, sums, squares, maximum=1.0)
    bits = estimate_mean(requests, n, sums / np.log(2), squares / np.log(2) ** 2, maximum=1 / np.log(2))
    assert nats is not None
    assert bits is not None
    assert nats.mean == pytest.approx(0.9 * 0.2 + 0.1 * 0.45)
    ratios = [bits.mean / nats.mean, bits.stderr / nats.stderr, bits.upper / nats.upper]
    assert ratios == pytest.approx([1 / np.log(2)] * 3)


def test_the_mean_of_a_divergence_is_covered() -> None:
    generator = np.random.default_rng(6)
    share, requests, maximum = np.array([0.7, 0.3]), 20_000, np.log(2)
    truth = maximum * (0.7 * 0.1 / 2.1 + 0.3 * 1 / 3)
    covered = []
    for _ in range(600):
        n = np.array([150, 250])
        values = [maximum * generator.beta(a, 2.0, size=size) for a, size in zip((0.1, 1.0), n, strict=True)]
        sums, squares = (np.array([(v**power).sum() for v in values]) for power in (1, 2))
        result = estimate_mean(requests * share, n, sums, squares, maximum)
        assert result is not None
        covered.append(result.lower <= truth <= result.upper)
    assert 0.93 <= np.mean(covered) <= 0.99


def test_the_confidence_sequence_factor() -> None:
    assert confidence_sequence(1000, 1000) == pytest.approx(3.04, abs=0.005)
    assert confidence_sequence(100, 1000) == pytest.approx(3.855, abs=0.005)
    assert confidence_sequence(10_000, 1000) == pytest.approx(3.241, abs=0.005)
    best = confidence_sequence(1000, 1000)
    assert all(confidence_sequence(1000, planned) >= best for planned in (10, 100, 10_000))


def test_the_confidence_sequence_holds_at_all_times() -> None:
    runs, steps, first, p = 600, 6000, 400, 0.1
    hits = np.cumsum(np.random.default_rng(7).random((runs, steps)) < p, axis=1)[:, first:]
    n = np.arange(first + 1, steps + 1)
    error = np.abs(hits / n - p)
    half = (hits + 0.5) / (n + 1)
    stderr = np.sqrt(half * (1 - half) / (n + 1))
    factor = np.array([confidence_sequence(count, 2000) for count in n.tolist()])
    assert np.mean(np.any(error > factor * stderr, axis=1)) <= 0.05
    assert np.mean(np.any(error > 1.96 * stderr, axis=1)) > 0.25  # a plain interval, watched
