"""The live gap on simulated traffic whose true gap is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from service.monitor.bands import propensities
from service.monitor.gap import BandCounts, GapEstimate, estimate
from service.monitor.means import MeanEstimate, confidence_sequence, estimate_mean

Floats = NDArray[np.float64]

REQUESTS = 50_000
RATE = 0.02
RUNS = 1500
EVERYONE = np.ones(5)


@dataclass(frozen=True, eq=False)
class World:
    """The truth about the traffic, per band: share, disagreement rate, and the rate that the student expects."""

    share: Floats
    rate: Floats
    expected: Floats
    propensity: Floats

    @property
    def gap(self) -> float:
        return float(self.share @ self.rate)

    def windows(
        self, seed: int, answered: Floats = EVERYONE, refusal: float = 0.0, propensity: Floats | None = None
    ) -> Iterator[tuple[BandCounts, float]]:
        """Yield the counts and the true gap of each window.

        `answered` is the chance per band that the teacher answers; `refusal` is that it hides a disagreement.
        """
        generator = np.random.default_rng(seed)
        pi = self.propensity if propensity is None else propensity
        requests = generator.multinomial(REQUESTS, self.share, size=RUNS)
        wrong = generator.binomial(requests, self.rate)
        sampled = generator.binomial(requests, pi)
        hits = generator.hypergeometric(wrong, requests - wrong, sampled)
        disagreements = generator.binomial(hits, answered * (1.0 - refusal))
        agreements = generator.binomial(sampled - hits, answered)
        for run in range(RUNS):
            n, k = disagreements[run] + agreements[run], disagreements[run]
            counts = BandCounts(requests[run], sampled[run], n, k, requests[run] * self.expected)
            yield counts, float(wrong[run].sum() / REQUESTS)


@cache
def worlds() -> dict[str, World]:
    """Return a calibrated student with a gap near 5 %, and two ways in which it gets worse unnoticed."""
    d = np.clip(np.random.default_rng(1).beta(0.18, 3.4, size=400_000), 1e-4, 0.5)
    band = np.searchsorted((0.004, 0.02, 0.1, 0.3), d, side="right")
    share = np.bincount(band) / d.size
    expected = np.bincount(band, weights=d) / np.bincount(band)
    spread = np.sqrt(np.bincount(band, weights=d * (1 - d)) / np.bincount(band))
    pi = propensities(RATE, share, spread)

    confident = 0.96 * share
    confident[0] += 0.04  # new requests, confident and mostly wrong
    rate = expected.copy()
    rate[0] = (0.96 * share[0] * expected[0] + 0.04 * 0.9) / confident[0]
    return {
        "calibrated": World(share, expected, expected, pi),
        "overconfident": World(share, expected * [3.0, 2.6, 2.1, 1.6, 1.45], expected, pi),
        "silent drift": World(confident, rate, expected, pi),
    }


def measured(counts: BandCounts) -> GapEstimate:
    result = estimate(counts)
    assert result is not None
    return result


def counts_of(**changes: object) -> BandCounts:
    """Return three well-filled bands, with `changes`."""
    fields: dict[str, object] = {
        "requests": [1000, 500, 100],
        "sampled": [20, 20, 10],
        "completed": [20, 16, 8],
        "disagreements": [0, 2, 4],
        "expected_disagreement": [2, 25, 40],
    } | changes
    return BandCounts(**{name: np.array(value, dtype=float) for name, value in fields.items()})


def mean_of(everything: float, maximum: float = 1.0) -> MeanEstimate | None:
    """Return the mean over two bands in which every count and sum is the same number."""
    counts = np.full(2, everything)
    return estimate_mean(counts, counts, counts, counts, maximum)


@pytest.mark.parametrize("name", ["calibrated", "overconfident", "silent drift"])
def test_intervals_cover_the_true_gap(name: str) -> None:
    covered = [result.lower <= truth <= result.upper for result, truth in _estimates(worlds()[name])]
    assert 0.93 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("name", ["overconfident", "silent drift"])
def test_the_rectifier_finds_what_confidence_cannot_predict(name: str) -> None:
    world = worlds()[name]
    rectifiers = [result.rectifier for result, _ in _estimates(world)]
    assert np.mean(rectifiers) == pytest.approx(world.gap - world.share @ world.expected, abs=0.001)
    calibrated = [result.rectifier for result, _ in _estimates(worlds()["calibrated"])]
    assert np.mean(calibrated) == pytest.approx(0.0, abs=0.0005)
    assert np.mean(rectifiers) > 5 * np.std(calibrated)


def test_bands_need_far_fewer_teacher_calls_than_a_uniform_sample() -> None:
    world = worlds()["calibrated"]
    uniform = np.full(5, RATE)
    banded = [result.gap - truth for result, truth in _estimates(world)]
    plain = [
        counts.disagreements.sum() / RATE / REQUESTS - truth
        for counts, truth in world.windows(seed=2, propensity=uniform)
    ]
    calls = world.share @ world.propensity
    assert calls == pytest.approx(RATE)
    assert np.mean(np.square(banded)) < 0.6 * np.mean(np.square(plain))


@pytest.mark.parametrize(("easy", "hard"), [(0.7, 0.7), (0.95, 0.6), (0.5, 0.1)])
def test_non_response_that_depends_on_the_band_does_not_bias(easy: float, hard: float) -> None:
    world = worlds()["overconfident"]
    answered = np.array([easy, easy, easy, hard, hard])
    banded, weighted = [], []
    for counts, truth in world.windows(seed=3, answered=answered):
        weights = 1.0 / world.propensity
        banded.append(measured(counts).gap - truth)
        weighted.append((weights @ counts.disagreements) / (weights @ counts.completed) - truth)
    assert abs(np.mean(banded)) < 0.002
    if easy != hard:
        assert np.mean(weighted) < -0.01  # the simulation does bite: inverse-propensity weighting is off


def test_worst_case_bounds_hold_when_the_teacher_hides_disagreements() -> None:
    world = worlds()["overconfident"]
    results = [(measured(counts), truth) for counts, truth in world.windows(seed=4, refusal=0.5)]
    assert np.mean([result.gap - truth for result, truth in results]) < -0.02
    lower = np.mean([result.worst_case_lower for result, _ in results])
    upper = np.mean([result.worst_case_upper for result, _ in results])
    assert lower < world.gap
    assert upper == pytest.approx(world.gap, abs=0.002)  # all that is missing had disagreed


def test_by_hand() -> None:
    result = measured(counts_of())
    weights = np.array([1000, 500, 100]) / 1600
    assert result.gap == pytest.approx(weights @ [0, 2 / 16, 4 / 8])
    p = np.array([0.5 / 21, 2.5 / 17, 4.5 / 9])
    assert result.stderr == pytest.approx(np.sqrt(weights**2 @ (p * (1 - p) / [21, 17, 9])))
    assert result.upper == pytest.approx(result.gap + 1.959964 * result.stderr)
    assert result.lower == pytest.approx(result.gap - 1.959964 * result.stderr)
    assert result.expected_gap == pytest.approx(67 / 1600)
    assert result.rectifier == pytest.approx(result.gap - 67 / 1600)
    assert result.live_ece == pytest.approx(weights @ [0.002, 0.075, 0.1])
    assert result.worst_case_lower == pytest.approx(weights @ [0, 2 / 20, 4 / 10])
    assert result.worst_case_upper == pytest.approx(weights @ [0, 6 / 20, 6 / 10])
    assert (result.agreement, result.agreement_lower) == (1 - result.gap, 1 - result.upper)
    assert result.agreement_upper == 1 - result.lower
    assert (result.requests, result.sampled, result.completed) == (1600, 50, 44)
    assert result.coverage == 1.0


def test_pods_add_up_to_the_pooled_estimate() -> None:
    generator = np.random.default_rng(5)
    bands, pods = generator.integers(5, size=4000), generator.integers(4, size=4000)
    expected = generator.random(4000) * 0.5
    sampled, answered, wrong = (generator.random(4000) < p for p in (0.4, 0.9, 0.2))

    def count(chosen: NDArray[np.bool_]) -> BandCounts:
        def tally(keep: NDArray[np.bool_], weights: Floats | None = None) -> Floats:
            kept = None if weights is None else weights[chosen & keep]
            return np.bincount(bands[chosen & keep], weights=kept, minlength=5).astype(np.float64)

        everything = np.ones_like(sampled)
        completed = sampled & answered
        tallies = tally(everything), tally(sampled), tally(completed), tally(completed & wrong)
        return BandCounts(*tallies, tally(everything, expected))

    pooled = measured(count(pods >= 0))
    each = [count(pods == pod) for pod in range(4)]
    summed = measured(BandCounts(*(sum(getattr(pod, field.name) for pod in each) for field in fields(BandCounts))))
    assert vars(summed) == pytest.approx(vars(pooled))
    assert measured(count(pods == 0)).gap != pytest.approx(pooled.gap)


def test_all_agree_is_not_certainty() -> None:
    few = measured(counts_of(disagreements=[0, 0, 0]))
    many = measured(counts_of(disagreements=[0, 0, 0], completed=[900, 400, 90], sampled=[900, 400, 90]))
    assert few.gap == few.lower == 0.0
    assert 0.01 < few.upper < 0.2
    assert 0.0 < many.upper < few.upper / 5


def test_all_disagree_stays_within_one() -> None:
    result = measured(counts_of(disagreements=[20, 16, 8]))
    assert result.gap == result.upper == 1.0
    assert result.lower < 1.0


def test_an_empty_band_is_left_out_and_reported() -> None:
    result = measured(counts_of(completed=[20, 0, 8], disagreements=[0, 0, 4]))
    assert result.gap == pytest.approx(0.5 * 100 / 1100)
    assert result.expected_gap == pytest.approx(42 / 1100)
    assert result.coverage == pytest.approx(1100 / 1600)
    assert result.worst_case_lower <= result.gap <= result.worst_case_upper
    assert result.worst_case_upper >= 500 / 1600  # nobody knows about that band


def test_a_band_never_sampled_may_be_anything() -> None:
    result = measured(counts_of(sampled=[20, 0, 8], completed=[20, 0, 8], disagreements=[0, 0, 4]))
    assert result.worst_case_lower == pytest.approx(0.5 * 100 / 1600)
    assert result.worst_case_upper == pytest.approx((0.5 * 100 + 500) / 1600)


def test_answers_from_before_the_window_are_not_missing() -> None:
    result = measured(counts_of(sampled=[5, 0, 2]))
    assert result.worst_case_lower == pytest.approx(result.gap)
    assert result.worst_case_upper == pytest.approx(result.gap)


def test_a_band_without_requests_has_no_weight() -> None:
    late = measured(counts_of(requests=[1000, 500, 0], expected_disagreement=[2, 25, 0]))
    assert late.gap == pytest.approx(2 / 16 * 500 / 1500)


def test_nothing_completed_is_none() -> None:
    assert estimate(counts_of(completed=[0, 0, 0], disagreements=[0, 0, 0])) is None
    assert estimate(BandCounts(*(np.zeros(5) for _ in fields(BandCounts)))) is None
    assert mean_of(0.0) is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: counts_of(disagreements=[0, 17, 4]), "disagreements must not exceed"),
        (lambda: counts_of(expected_disagreement=[2, 501, 4]), "expected_disagreement must not exceed"),
        (lambda: counts_of(sampled=[1, 2]), "sampled must have one number per band"),
        (lambda: counts_of(sampled=[1, 2, -3]), "sampled must be finite"),
        (lambda: counts_of(requests=[1000, 500, np.nan]), "requests must be finite"),
        (lambda: estimate(counts_of(), level=1.0), "level"),
        (lambda: estimate_mean(np.ones(2), np.ones(2), np.ones(2), np.ones(3), 1.0), "squares must have"),
        (lambda: mean_of(3.0, maximum=0.5), "do not fit"),
        (lambda: mean_of(1.0, maximum=0.0), "maximum"),
        (lambda: confidence_sequence(0.0, 10.0), "completed"),
        (lambda: confidence_sequence(10.0, 10.0, level=0.1), "level"),
    ],
)
def test_what_cannot_be_is_refused(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broken()


def test_the_gap_is_the_mean_of_a_zero_one_metric() -> None:
    counts = counts_of()
    k = counts.disagreements
    mean = estimate_mean(counts.requests, counts.completed, k, k, maximum=1.0)
    gap = measured(counts)
    assert mean is not None
    assert (mean.mean, mean.stderr, mean.lower, mean.upper) == (gap.gap, gap.stderr, gap.lower, gap.upper)


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


def _estimates(world: World) -> list[tuple[GapEstimate, float]]:
    return [(measured(counts), truth) for counts, truth in world.windows(seed=1)]
