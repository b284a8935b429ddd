"""The paired difference of two students: against known truth, by simulation."""

import numpy as np
import pytest

from service.monitor.paired import paired_difference

SHARE = np.array([0.5, 0.3, 0.2])
PROPENSITY = np.array([0.05, 0.2, 0.6])
CURRENT = np.array([0.01, 0.1, 0.3])
RUNS = 600


def study(generator, worse, better, requests=8_000):
    """Answer a day of requests; `worse` and `better` [B] are the rates at which one student alone is wrong."""
    band = generator.choice(3, requests, p=SHARE)
    sampled = generator.random(requests) < PROPENSITY[band]
    chosen, counts = band[sampled], np.bincount(band, minlength=3).astype(float)
    draw = generator.random(len(chosen))
    alone = draw < worse[chosen]
    other = (draw >= worse[chosen]) & (draw < (worse + better)[chosen])
    both = ~alone & ~other & (generator.random(len(chosen)) < CURRENT[chosen] / 2)
    return paired_difference(counts, chosen, PROPENSITY[chosen], alone | both, other | both)


@pytest.mark.parametrize(("worse", "better"), [(0.5, 0.5), (1.0, 0.3), (0.2, 0.0), (0.0, 0.0)])
def test_the_interval_covers_the_truth(worse, better):
    worse, better = worse * CURRENT / 2, better * CURRENT / 2
    truth = float(SHARE @ (worse - better))
    generator = np.random.default_rng(3)
    found = [study(generator, worse, better) for _ in range(RUNS)]
    assert np.mean([one.lower <= truth <= one.upper for one in found]) >= 0.935
    assert abs(np.mean([one.difference for one in found]) - truth) < 0.001
    assert np.mean([truth > one.upper for one in found]) <= 0.035


def test_a_candidate_at_the_margin_rarely_passes():
    worse, better = CURRENT / 2, CURRENT / 3
    margin = float(SHARE @ (worse - better))
    generator = np.random.default_rng(4)
    passed = [study(generator, worse, better).upper <= margin for _ in range(RUNS)]
    assert np.mean(passed) <= 0.035


def test_the_gaps_of_both_are_estimated_and_their_difference_is_the_difference():
    generator = np.random.default_rng(5)
    worse, better = CURRENT / 2, CURRENT / 4
    found = [study(generator, worse, better) for _ in range(200)]
    both = (1 - worse - better) * CURRENT / 2
    assert np.mean([one.candidate for one in found]) == pytest.approx(float(SHARE @ (worse + both)), abs=0.001)
    assert np.mean([one.current for one in found]) == pytest.approx(float(SHARE @ (better + both)), abs=0.001)
    assert all(one.candidate - one.current == pytest.approx(one.difference) for one in found)


def test_students_that_answer_alike_do_not_differ_but_the_interval_is_not_empty():
    wrong = np.array([True, False, False, True])
    found = paired_difference(np.array([100.0]), np.zeros(4, dtype=np.intp), np.full(4, 0.1), wrong, wrong)
    assert found.difference == 0.0
    assert found.lower < 0.0 < found.upper
    assert (found.worse, found.better) == (0, 0)


def test_a_text_that_was_rarely_sampled_counts_more():
    band = np.zeros(2, dtype=np.intp)
    found = paired_difference(
        np.array([100.0]), band, np.array([0.1, 0.9]), np.array([True, False]), np.array([False, True])
    )
    assert found.difference == pytest.approx(0.8)


def test_without_texts_there_is_no_difference():
    nothing = np.zeros(0)
    none = nothing.astype(bool)
    assert paired_difference(np.array([5.0]), nothing.astype(np.intp), nothing, none, none) is None


@pytest.mark.parametrize(
    ("propensity", "wrong", "message"),
    [(0.0, [True], "propensity"), (1.5, [True], "propensity"), (0.5, [], "per text")],
)
def test_numbers_that_do_not_fit_are_refused(propensity, wrong, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(
            np.array([1.0]),
            np.zeros(1, dtype=np.intp),
            np.array([propensity]),
            np.array(wrong, dtype=bool),
            np.array([True]),
        )
