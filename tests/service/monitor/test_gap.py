"""The live gap on simulated traffic whose true gap is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from service.monitor.cells import Cells
from service.monitor.gap import GapEstimate, estimate, with_deferred
from tests.support.gap_worlds import BANDS, CHANGING, World, sampled_at, worlds

RUNS = 600
RATE = 0.02


def measured(cells: Cells) -> GapEstimate:
    result = estimate(cells)
    assert result is not None
    return result


def cells_of(**changes: npt.ArrayLike) -> Cells:
    """Return three well-filled bands, with `changes`."""
    counts: dict[str, npt.ArrayLike] = {
        "band": [0, 1, 2],
        "propensity": [0.02, 0.04, 0.1],
        "requests": [1000, 500, 100],
        "expected": [2, 25, 40],
        "sampled": [20, 20, 10],
        "lost": [0, 4, 2],
        "agreed": [20, 14, 4],
        "disagreed": [0, 2, 4],
    }
    return Cells.of(**(counts | changes))


def estimates(world: World, **options: object) -> list[tuple[GapEstimate, float]]:
    return [(measured(cells), truth) for cells, truth in world.windows(RUNS, seed=1, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("comparisons", [50, 200, 1000])
@pytest.mark.parametrize("name", ["calibrated", "overconfident", "silent drift"])
def test_intervals_of_small_and_large_windows_cover_the_true_gap(name: str, comparisons: int) -> None:
    results = estimates(worlds()[name], sampling=comparisons / 50_000)
    covered = np.mean([result.lower <= truth <= result.upper for result, truth in results])
    above = np.mean([truth > result.upper for result, truth in results])
    assert 0.93 <= covered <= 0.985
    assert above <= 0.045


def test_the_gap_of_all_answers_covers_the_truth_where_the_teacher_answers_most_unsure_texts() -> None:
    """The least confident band is left to the teacher, which fails to answer a tenth of it; students answer that."""
    random = np.random.default_rng(1)
    share, wrong = np.array([0.6, 0.25, 0.07, 0.08]), np.array([0.002, 0.02, 0.1, 0.45])
    propensity, answered = np.array([0.02, 0.04, 0.1, 0.2]), 0.9
    truth = float(share @ (wrong * [1, 1, 1, 1 - answered]))
    results = []
    for _ in range(RUNS):
        requests = random.multinomial(20_000, share)
        deferred = int(random.binomial(requests[-1], answered))
        requests[-1] -= deferred
        sampled = random.binomial(requests, propensity)
        disagreed = random.binomial(sampled, wrong)
        cells = Cells.of(
            band=[0, 1, 2, 3],
            propensity=propensity,
            requests=requests,
            expected=requests * wrong,
            sampled=sampled,
            agreed=sampled - disagreed,
            disagreed=disagreed,
        )
        results.append(with_deferred(measured(cells), deferred))
    gaps, lower, upper = np.array(results).T
    assert abs(gaps.mean() - truth) <= 0.0005
    assert 0.93 <= np.mean((lower <= truth) & (truth <= upper)) <= 0.985


def test_without_deferred_texts_the_gap_of_all_answers_is_the_gap() -> None:
    found = measured(cells_of())
    assert with_deferred(found, 0) == pytest.approx((found.gap, found.lower, found.upper))


@pytest.mark.parametrize("name", CHANGING)
def test_rates_and_losses_that_change_with_the_gap_do_not_bias_it(name: str) -> None:
    results = [(measured(cells), truth) for cells, truth in worlds()["calibrated"].days(CHANGING[name], RUNS // 2, 1)]
    errors = np.array([result.gap - truth for result, truth in results])
    assert abs(errors.mean()) <= 0.002
    assert np.mean([result.lower <= truth <= result.upper for result, truth in results]) >= 0.93


def test_a_plain_share_of_disagreements_is_biased_where_the_rate_follows_the_gap() -> None:
    days = worlds()["calibrated"].days(CHANGING["a rate of 2 to 20 % as the gap triples"], 50, 1)
    errors = []
    for cells, truth in days:
        requests, compared, disagreed = (
            cells.by_band(counts, BANDS) for counts in (cells.requests, cells.compared, cells.disagreed)
        )
        errors.append(requests @ (disagreed / np.maximum(compared, 1)) / requests.sum() - truth)
    assert np.mean(errors) > 0.03


@pytest.mark.parametrize("name", ["overconfident", "silent drift"])
def test_the_rectifier_finds_what_confidence_cannot_predict(name: str) -> None:
    world = worlds()[name]
    rectifiers = [result.rectifier for result, _ in estimates(world)]
    assert np.mean(rectifiers) == pytest.approx(world.gap - world.share @ world.expected, abs=0.002)
    calibrated = [result.rectifier for result, _ in estimates(worlds()["calibrated"])]
    assert np.mean(calibrated) == pytest.approx(0.0, abs=0.0007)
    assert np.mean(rectifiers) > 5 * np.std(calibrated)


@pytest.mark.parametrize(("name", "most"), [("calibrated", 0.69), ("overconfident", 0.69), ("silent drift", 1.08)])
def test_bands_need_far_fewer_teacher_calls_than_a_uniform_sample(name: str, most: float) -> None:
    # 0.65 and 1.05, with two standard errors of this many runs.
    world = worlds()[name]
    errors = [result.gap - truth for result, truth in estimates(world)]
    uniform = world.gap * (1 - world.gap) / (RATE * 50_000)
    assert np.mean(np.square(errors)) <= most**2 * uniform


@pytest.mark.parametrize(("easy", "hard"), [(0.7, 0.7), (0.95, 0.6), (0.5, 0.1)])
def test_non_response_that_depends_on_the_band_does_not_bias(easy: float, hard: float) -> None:
    world = worlds()["overconfident"]
    answered = np.repeat([easy, hard], [6, 4])
    banded, weighted = [], []
    for cells, truth in world.windows(RUNS, seed=3, answered=answered):
        weights = 1.0 / cells.propensity
        banded.append(measured(cells).gap - truth)
        weighted.append((weights @ cells.disagreed) / (weights @ cells.compared) - truth)
    assert abs(np.mean(banded)) < 0.002
    if easy != hard:
        assert np.mean(weighted) < -0.01  # the simulation does bite: inverse-propensity weighting is off


def test_worst_case_bounds_hold_when_the_teacher_hides_disagreements() -> None:
    world = worlds()["overconfident"]
    results = [(measured(cells), truth) for cells, truth in world.windows(RUNS, seed=4, refusal=0.5)]
    assert np.mean([result.gap - truth for result, truth in results]) < -0.02
    lower = np.mean([result.worst_case_lower for result, _ in results])
    upper = np.mean([result.worst_case_upper for result, _ in results])
    assert lower < world.gap
    assert upper == pytest.approx(world.gap, abs=0.002)  # all that is missing had disagreed


def test_by_hand() -> None:
    result = measured(cells_of())
    weights = np.array([1000, 500, 100]) / 1600
    assert result.gap == pytest.approx(weights @ [0, 2 / 16, 4 / 8])
    p = np.array([0.5 / 21, 2.5 / 17, 4.5 / 9])
    within, between = (
        weights**2 @ (p * (1 - p) / [21, 17, 9]),
        weights @ (np.array([0, 2 / 16, 4 / 8]) - result.gap) ** 2,
    )
    assert result.stderr == pytest.approx(np.sqrt(within + between / 1600))
    assert result.expected_gap == pytest.approx(67 / 1600)
    assert result.rectifier == pytest.approx(result.gap - 67 / 1600)
    assert result.live_ece == pytest.approx(weights @ [0.002, 0.075, 0.1])
    assert result.worst_case_lower == pytest.approx(weights @ [0, 2 / 20, 4 / 10])
    assert result.worst_case_upper == pytest.approx(weights @ [0, 6 / 20, 6 / 10])
    assert (result.requests, result.sampled, result.lost, result.compared, result.disagreed) == (1600, 50, 6, 44, 6)
    assert (result.coverage, result.lost_ratio) == (1.0, pytest.approx(6 / 50))


def test_one_band_has_the_interval_of_wilson() -> None:
    z, n, p = 1.959964, 44, 6 / 44
    result = measured(Cells.of(band=[0], requests=900, sampled=44, agreed=38, disagreed=6))
    half = z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2) / (1 + z**2 / n)
    centre = (p + z**2 / 2 / n) / (1 + z**2 / n)
    assert (result.lower, result.upper) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_cells_of_pods_and_slots_add_up() -> None:
    whole = measured(cells_of())
    halves = replace(cells_of(), **{name: getattr(cells_of(), name) / 2 for name in COUNTS})
    assert vars(measured(halves + halves)) == pytest.approx(vars(whole))
    later = replace(halves, slot=np.full(3, 300.0))
    assert vars(measured(halves + later)) == pytest.approx(vars(whole))


COUNTS = ("requests", "expected", "sampled", "lost", "agreed", "disagreed")


def test_all_agree_is_not_certainty() -> None:
    few = measured(cells_of(agreed=[20, 16, 8], disagreed=0))
    many = measured(cells_of(agreed=[900, 400, 90], sampled=[900, 400, 90], lost=0, disagreed=0))
    assert few.gap == few.lower == 0.0
    assert 0.01 < few.upper < 0.2
    assert 0.0 < many.upper < few.upper / 5


def test_all_disagree_stays_within_one() -> None:
    result = measured(cells_of(agreed=0, disagreed=[20, 16, 8]))
    assert result.gap == result.upper == 1.0
    assert result.lower < 1.0


def test_a_band_without_a_comparison_is_taken_to_be_like_its_neighbour_and_reported() -> None:
    result = measured(cells_of(sampled=[20, 4, 10], lost=[0, 4, 2], agreed=[20, 0, 4], disagreed=[0, 0, 4]))
    assert result.gap == pytest.approx(0.5 * 600 / 1600)  # of the less confident neighbour
    assert result.expected_gap == pytest.approx(67 / 1600)
    assert result.coverage == pytest.approx(1100 / 1600)
    assert result.worst_case_lower <= result.gap <= result.worst_case_upper
    assert result.worst_case_upper >= 500 / 1600  # nobody knows about that band


def test_a_band_never_sampled_may_be_anything() -> None:
    result = measured(cells_of(sampled=[20, 0, 8], lost=0, agreed=[20, 0, 4], disagreed=[0, 0, 4]))
    assert result.worst_case_lower == pytest.approx(0.5 * 100 / 1600)
    assert result.worst_case_upper == pytest.approx((0.5 * 100 + 500) / 1600)


def test_pending_comparisons_are_not_missing() -> None:
    result = measured(cells_of(lost=0))
    assert result.lost_ratio == 0.0
    assert result.worst_case_lower == pytest.approx(result.gap)
    assert result.worst_case_upper == pytest.approx(result.gap)


def test_an_hour_without_a_comparison_is_pooled_with_one_that_also_lost_some() -> None:
    hours: dict[str, npt.ArrayLike] = {
        "slot": [3600, 7200, 10800],
        "band": [0, 0, 0],
        "propensity": 0.5,
        "requests": 100,
        "sampled": 10,
    }
    lossy = measured(Cells.of(**hours, lost=[0, 10, 5], agreed=[10, 0, 1], disagreed=[0, 0, 4]))
    assert lossy.gap == pytest.approx((10 * 0 + 20 * 0.8) / 30)
    calm = measured(Cells.of(**hours, lost=[0, 10, 0], agreed=[9, 0, 10], disagreed=[1, 0, 0]))
    assert calm.gap == pytest.approx((20 * 0.1 + 10 * 0) / 30)


def test_requests_of_a_band_without_samples_weigh_nothing_elsewhere() -> None:
    late = measured(cells_of(requests=[1000, 500, 0], expected=[2, 25, 0]))
    assert late.gap == pytest.approx(2 / 16 * 500 / 1500)


def test_nothing_compared_is_none() -> None:
    assert estimate(cells_of(agreed=0, disagreed=0)) is None
    assert estimate(cells_of(requests=0, expected=0)) is None
    assert estimate(Cells.zeros()) is None


def test_the_level_must_be_a_probability() -> None:
    with pytest.raises(ValueError, match="level"):
        estimate(cells_of(), level=1.0)


def test_the_uncertain_are_sampled_more_often() -> None:
    assert np.all(np.diff(sampled_at(RATE))[1:] > 0)  # the first two bands are at the floor
    assert worlds()["calibrated"].share @ sampled_at(RATE) == pytest.approx(RATE)
