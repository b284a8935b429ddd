"""E-values and the e-detector: error control on the boundary of the null, power beyond it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from service.monitor.cells import Cells
from service.monitor.evalues import (
    BAND_FACTORS,
    LOG_PAGE,
    LOG_TICKET,
    SPREAD_FACTOR,
    EDetector,
    alternatives,
    component_log_evalues,
    log_exceeds_ceilings,
    log_factors,
    log_mean_exp,
)

Floats = NDArray[np.float64]

BASELINE = np.array([0.0007, 0.0103, 0.0503, 0.176, 0.41])
NULL = BASELINE + np.maximum(0.005, 0.25 * BASELINE)
TRAFFIC = np.array([0.29, 0.14, 0.25, 0.22, 0.10])  # share of the comparisons in each band


def windows(generator: np.random.Generator, rate: Floats, size: int, runs: int) -> tuple[Floats, Floats]:
    """Return disagreements and comparisons, [runs, B], of windows with `size` comparisons."""
    completed = generator.multinomial(size, TRAFFIC, size=runs)
    return generator.binomial(completed, rate).astype(float), completed.astype(float)


def log_evalue(k: Floats, n: Floats, null: Floats) -> float:
    cells = Cells.of(band=np.arange(len(k)), sampled=n, agreed=n - k, disagreed=k)
    return log_exceeds_ceilings(cells, [(0.0, null)])


def run_length(pods: list[EDetector], rate: Floats, threshold: float, generator: np.random.Generator) -> int:
    """Return the number of comparisons, dealt to the pods at random, after which their sum reaches `threshold`."""
    length = 0
    while True:
        bands = generator.choice(5, size=500, p=TRAFFIC)
        wrong = generator.random(500) < rate[bands]
        chosen = generator.integers(len(pods), size=500)
        for pod, band, disagree in zip(chosen.tolist(), bands.tolist(), wrong.tolist(), strict=True):
            length += 1
            pods[pod].update(band, disagree)
            if sum(detector.value for detector in pods) >= threshold:
                return length


def log_likelihood_ratio(k: Floats, n: Floats, p0: Floats, p1: Floats) -> Floats:
    return k * np.log(p1 / p0) + (n - k) * np.log((1 - p1) / (1 - p0))


def test_a_component_by_hand() -> None:
    value = component_log_evalues(np.array([2.0]), np.array([10.0]), np.array([0.1]))[1]
    assert value == pytest.approx(2 * math.log(5) + 8 * math.log(0.5 / 0.9))


def test_components() -> None:
    table = alternatives(np.array([0.1, 0.4]))
    assert table == pytest.approx(np.array([[0.15, 0.4], [0.1, 0.6], [0.5, 0.4], [0.1, 0.7], [0.125, 0.5]]))
    assert alternatives(NULL).shape == (2 * 5 + 1, 5)
    assert np.all(alternatives(np.array([0.6, 0.99])) < 1.0)
    assert (BAND_FACTORS, SPREAD_FACTOR) == ((1.5, 5.0), 1.25)


def test_the_mixture_is_the_mean_of_eleven() -> None:
    k, n = np.array([1.0, 0, 3, 9, 8]), np.array([60.0, 30, 50, 40, 20])
    bands = [log_likelihood_ratio(k, n, NULL, np.minimum(f * NULL, (1 + NULL) / 2)) for f in (1.5, 5.0)]
    spread = log_likelihood_ratio(k, n, NULL, 1.25 * NULL).sum()
    expected = (np.exp(bands).sum() + math.exp(spread)) / 11
    assert log_evalue(k, n, NULL) == pytest.approx(math.log(expected))


def test_linear_in_the_counts_so_that_pods_add() -> None:
    generator = np.random.default_rng(0)
    k, n = windows(generator, NULL, size=200, runs=4)
    pods = component_log_evalues(k, n, NULL)
    assert pods.shape == (4, 11)
    assert pods.sum(axis=0) == pytest.approx(component_log_evalues(k.sum(axis=0), n.sum(axis=0), NULL))
    disagree, agree = log_factors(NULL)
    assert pods[0] == pytest.approx(disagree @ k[0] + agree @ (n[0] - k[0]))


def test_expectation_is_one_on_the_boundary_and_less_within() -> None:
    generator = np.random.default_rng(1)
    values = np.exp(component_log_evalues(*windows(generator, NULL, size=10, runs=40_000), NULL))
    error = values.std(axis=0) / math.sqrt(len(values))
    assert np.all(error < 0.05)
    assert np.all(np.abs(values.mean(axis=0) - 1.0) < 4 * error)
    within = np.exp(component_log_evalues(*windows(generator, BASELINE, size=10, runs=5000), NULL))
    assert np.all(within.mean(axis=0) < 1.0)


def test_false_alarms_at_one_look_on_the_boundary() -> None:
    k, n = windows(np.random.default_rng(2), NULL, size=300, runs=20_000)
    alarms = log_mean_exp(component_log_evalues(k, n, NULL)) >= math.log(20)
    assert 0.0 < alarms.mean() <= 0.05 + 2 * 0.0015


def test_false_alarms_at_any_look_at_a_growing_window() -> None:
    k, n = windows(np.random.default_rng(3), NULL, size=5, runs=1000 * 400)
    k, n = (np.cumsum(counts.reshape(1000, 400, 5), axis=1) for counts in (k, n))
    peaks = log_mean_exp(component_log_evalues(k, n, NULL)).max(axis=1)
    assert 0.005 < np.mean(peaks >= math.log(20)) <= 0.05 + 2 * 0.007


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({0: 0.07}, 1500),  # confident and wrong: nothing else moved
        ({0: 0.002, 1: 0.027, 2: 0.105, 3: 0.28, 4: 0.6}, 4000),  # a little worse everywhere
    ],
)
def test_power(change: dict[int, float], size: int) -> None:
    rate = np.array([change.get(band, BASELINE[band]) for band in range(5)])
    generator = np.random.default_rng(4)
    alarm = log_mean_exp(component_log_evalues(*windows(generator, rate, size, runs=500), NULL))
    quiet = log_mean_exp(component_log_evalues(*windows(generator, BASELINE, size, runs=500), NULL))
    assert np.mean(alarm >= LOG_PAGE) > 0.8
    assert np.mean(quiet >= LOG_TICKET) == 0.0


def test_overwhelming_evidence_stays_finite() -> None:
    assert 1e4 < log_evalue(np.full(5, 1e5), np.full(5, 1e5), NULL) < math.inf
    assert -math.log(11) - 1 < log_evalue(np.zeros(5), np.array([1e7, 0, 0, 0, 0]), NULL) < 0.0


def test_no_counts_are_no_evidence() -> None:
    assert log_evalue(np.zeros(5), np.zeros(5), NULL) == 0.0


def test_a_ceiling_of_one_allows_everything() -> None:
    null = np.array([0.01, 1.0])
    values = component_log_evalues(np.array([0.0, 50.0]), np.array([0.0, 60.0]), null)
    assert values.tolist() == [0.0] * 5
    detector = EDetector(null)
    assert [detector.update(1, disagree=True) for _ in range(50)] == [0.0] * 50


@pytest.mark.parametrize("null", [[0.0, 0.1], [0.1, 1.1], [math.nan], [], [[0.1]]])
def test_ceilings_must_be_probabilities(null: list[float]) -> None:
    with pytest.raises(ValueError, match="ceiling"):
        alternatives(np.array(null))


def test_counts_must_fit() -> None:
    with pytest.raises(ValueError, match="shape"):
        component_log_evalues(np.zeros(4), np.zeros(4), NULL)
    with pytest.raises(ValueError, match="0 <= disagreements <= completed"):
        component_log_evalues(np.full(5, 2.0), np.full(5, 1.0), NULL)
    with pytest.raises(ValueError, match="band"):
        log_evalue(np.zeros(6), np.zeros(6), NULL)
    with pytest.raises(ValueError, match="ceilings"):
        log_exceeds_ceilings(Cells.zeros(), [])


def test_comparisons_are_judged_by_the_ceilings_of_their_time() -> None:
    old, new = np.array([0.1, 0.2]), np.array([0.05, 0.3])
    before, after = ([2.0, 5.0], [40.0, 30.0]), ([4.0, 3.0], [50.0, 20.0])
    (k0, n0), (k1, n1) = ([np.array(counts) for counts in part] for part in (before, after))
    cells = Cells.of(
        slot=np.repeat([600.0, 900.0], 2),
        band=[0, 1, 0, 1],
        sampled=[*n0, *n1],
        agreed=[*(n0 - k0), *(n1 - k1)],
        disagreed=[*k0, *k1],
    )
    expected = log_mean_exp(component_log_evalues(k0, n0, old) + component_log_evalues(k1, n1, new))
    assert log_exceeds_ceilings(cells, [(0.0, old), (900.0, new)]) == pytest.approx(float(expected))


def test_the_detector_by_hand() -> None:
    detector = EDetector(np.array([0.1, 0.2]))
    first = detector.update(0, disagree=True)
    assert first == pytest.approx((1.5 + 5 + 1.25) / 3)
    second = detector.update(1, disagree=False)
    rest, both = 1.5 + 5, (1.25 + 1) * 0.75 / 0.8
    assert second == pytest.approx((rest + 0.7 / 0.8 + 0.4 / 0.8 + both) / 3)
    assert detector.value == second


def test_the_detector_expects_n_after_n_comparisons() -> None:
    generator = np.random.default_rng(5)
    bands = generator.choice(5, size=(4000, 12), p=TRAFFIC)
    wrong = generator.random(bands.shape) < NULL[bands]
    values = []
    for run in range(len(bands)):
        detector = EDetector(NULL)
        for band, disagree in zip(bands[run].tolist(), wrong[run].tolist(), strict=True):
            detector.update(band, disagree)
        values.append(detector.value)
    error = float(np.std(values)) / math.sqrt(len(values))
    assert error < 0.5
    assert np.mean(values) == pytest.approx(12, abs=3 * error)


@pytest.mark.parametrize("pods", [1, 4])
def test_average_run_length_on_the_boundary(pods: int) -> None:
    generator = np.random.default_rng(6)
    lengths = [run_length([EDetector(NULL) for _ in range(pods)], NULL, 100.0, generator) for _ in range(300)]
    assert 100.0 <= np.mean(lengths) < 400.0


def test_the_detector_notices_a_change() -> None:
    generator = np.random.default_rng(7)
    worse = np.array([0.07, *BASELINE[1:]])
    lengths = []
    for _ in range(20):
        detector = EDetector(NULL)
        for band in generator.choice(5, size=1000, p=TRAFFIC).tolist():
            detector.update(band, bool(generator.random() < BASELINE[band]))
        assert detector.value < 1e4
        lengths.append(run_length([detector], worse, 2e4, generator))
    assert np.median(lengths) < 700


def test_the_evidence_of_a_band_without_traffic_does_not_grow() -> None:
    detector = EDetector(np.array([0.3, 0.1]))
    for _ in range(2000):
        detector.update(0, disagree=False)
    assert detector.value < 10.0


def test_the_detector_stays_finite() -> None:
    detector = EDetector(NULL)
    for _ in range(3000):
        detector.update(0, disagree=True)
    assert 1e299 < detector.value < math.inf


@pytest.mark.parametrize("band", [-1, 5])
def test_the_detector_knows_its_bands(band: int) -> None:
    with pytest.raises(ValueError, match="band must be in"):
        EDetector(NULL).update(band, disagree=True)
