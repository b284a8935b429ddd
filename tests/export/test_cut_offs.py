"""Cut-offs are the cheapest ones that are certified, and what they guarantee holds as often as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from export.cut_offs import (
    GRID,
    MARGINS,
    NotCertifiedError,
    StageAnswers,
    find_cut_offs,
    least_margin,
    margin_for,
    p_value,
    rows_needed,
)

ERROR = 0.05
LABELS = 20


class World:
    """Texts of a teacher and three students, each more accurate than the one before; their scores are calibrated."""

    def __init__(self, rows: int = 100_000, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.teacher = random.integers(0, LABELS, rows)
        hard, luck = random.normal(size=rows), random.random(rows)
        self.stages = []
        for skill, cost in ((2.6, 0.03), (3.4, 0.9), (3.8, 1.8)):
            scores = 1 / (1 + np.exp(-(skill - 1.5 * hard + 0.5 * random.normal(size=rows))))
            # Mostly the stages are wrong about the same texts.
            right = np.where(random.random(rows) < 0.2, random.random(rows), luck) < scores
            wrong = (self.teacher + random.integers(1, LABELS, rows)) % LABELS
            self.stages.append(StageAnswers(np.where(right, self.teacher, wrong), scores, cost))

    def sample(self, rows, seed, stages):
        """Return the answers of the numbered stages to random texts, and the teacher's labels."""
        drawn = np.random.default_rng(seed).choice(len(self.teacher), rows, replace=False)
        return [taken(self.stages[stage], drawn) for stage in stages], self.teacher[drawn]

    def net_loss(self, cut_offs, stages):
        """Return the share of all texts by which a cascade agrees less than its last stage alone."""
        asked = [self.stages[stage] for stage in stages]
        given = asked[-1].labels
        for stage, cut_off in reversed(list(zip(asked, cut_offs, strict=False))):
            given = np.where(stage.scores >= cut_off, stage.labels, given)
        return float((asked[-1].labels == self.teacher).mean() - (given == self.teacher).mean())


def taken(answers, rows):
    return replace(answers, labels=answers.labels[rows], scores=answers.scores[rows])


@pytest.fixture(scope="module")
def world():
    return World()


def two(scores, labels, last, *, costs=(1.0, 10.0)):
    """An early stage and the last one; the last one's score does not matter."""
    return [
        StageAnswers(np.array(labels), np.array(scores, dtype=np.float64), costs[0]),
        StageAnswers(np.array(last), np.zeros(len(last)), costs[1]),
    ]


@pytest.mark.parametrize(("stages", "rows", "margin"), [((0, 1), 1000, 0.005), ((0, 1, 2), 2500, 0.002)])
def test_the_guarantee_holds_in_95_of_100_splits(world, stages, rows, margin):
    broken, early = 0, []
    for seed in range(200):
        answers, teacher = world.sample(rows, seed, stages)
        found = find_cut_offs(answers, teacher, margin=margin)
        broken += world.net_loss(found.cut_offs, stages) > margin
        early.append(1 - found.shares[-1])
    assert broken <= 0.05 * 200
    assert np.mean(early) > 0.2, "a cascade that answers nothing early would keep every promise"


def test_with_the_teacher_as_the_last_stage_agreement_over_all_requests_is_guaranteed(world):
    broken = 0
    for seed in range(200):
        answers, teacher = world.sample(1000, seed, (0, 1))
        asked = [*answers, StageAnswers(teacher, np.ones(len(teacher)), 500.0)]
        found = find_cut_offs(asked, teacher, margin=0.01, teacher_last=True)
        early = [world.stages[stage].scores >= cut_off for stage, cut_off in zip((0, 1), found.cut_offs, strict=True)]
        wrong = [world.stages[stage].labels != world.teacher for stage in (0, 1)]
        differing = (early[0] & wrong[0]) | (~early[0] & early[1] & wrong[1])
        broken += differing.mean() > 0.01
        assert found.gains == 0
    assert broken <= 0.05 * 200
    assert "at least 99 % of all requests by leaving" in found.guarantee
    assert f"{100 * found.shares[-1]:.1f} % to it" in found.guarantee


@pytest.mark.parametrize("gained", [0.0, 0.002, 0.01])
@pytest.mark.parametrize(("rows", "margin"), [(1000, 0.005), (3000, 0.002)])
def test_at_the_margin_itself_a_cut_off_is_certified_in_5_of_100_cases_at_most(rows, margin, gained):
    certified, losses = 0.0, -1
    for gains in range(int(binom.isf(1e-6, rows, gained)) + 1):
        while p_value(losses + 1, gains, rows, margin) <= ERROR:
            losses += 1
        chance = binom.cdf(losses, rows - gains, (gained + margin) / (1 - gained)) if losses >= 0 else 0.0
        certified += binom.pmf(gains, rows, gained) * chance
    assert 0.005 < certified <= ERROR


def test_a_stage_that_cannot_gain_is_tested_by_clopper_and_pearson():
    assert p_value(3, None, 2000, 0.005) == pytest.approx(binom.cdf(3, 2000, 0.005))
    assert p_value(0, 0, 1500, 0.002) == pytest.approx(0.998**1500, abs=0.002)


def test_losses_count_against_a_cut_off_and_gains_for_it():
    values = [p_value(losses, 4, 2000, 0.005) for losses in range(12)]
    assert values == sorted(values)
    values = [p_value(4, gains, 2000, 0.005) for gains in range(12)]
    assert values == sorted(values, reverse=True)


def test_the_cheapest_certified_cut_off_is_taken_and_its_counts_are_told():
    scores = np.repeat([0.95, 0.85, 0.75], [600, 600, 800])
    teacher = np.zeros(2000, dtype=np.int64)
    labels = np.where(scores == 0.75, 1, 0)
    labels[0] = 1  # one loss among the surest
    last = np.where(np.arange(2000) == 1, 1, 0)  # and one gain
    found = find_cut_offs(two(scores, labels, last), teacher, margin=0.005)
    assert 0.75 < found.cut_offs[0] <= 0.85
    assert (found.losses, found.gains, found.rows) == (1, 1, 2000)
    assert found.shares == (0.6, 0.4)
    assert found.cost == pytest.approx(1.0 + 0.4 * 10.0)
    assert found.last_cost == 10.0
    assert "at most 0.5 points fewer" in found.guarantee
    assert "2,000 validation rows: 1 lost, 1 gained" in found.guarantee


def test_a_score_that_equals_the_cut_off_is_answered_early():
    teacher = np.zeros(2000, dtype=np.int64)
    on_grid = GRID[40]
    wrong = np.repeat([0, 1], [1000, 1000])
    scores = np.repeat([on_grid, np.nextafter(on_grid, 0)], [1000, 1000])
    found = find_cut_offs(two(scores, wrong, teacher), teacher, margin=0.005)
    assert found.cut_offs == (on_grid,)
    assert found.shares == (0.5, 0.5)


def test_texts_of_one_score_are_answered_together():
    """Half of them are lost, so that none may be answered early, in whatever order they stand."""
    teacher = np.zeros(2000, dtype=np.int64)
    labels = np.arange(2000) % 2
    for order in (np.arange(2000), np.argsort(labels, kind="stable")):
        found = find_cut_offs(two(np.full(2000, 0.9), labels[order], teacher), teacher, margin=0.005)
        assert found.shares == (0.0, 1.0)


def test_what_three_stages_answer_is_the_first_that_is_sure():
    teacher = np.zeros(1000, dtype=np.int64)
    first = StageAnswers(teacher, np.repeat([0.99, 0.0], [600, 400]), 1.0)
    second = StageAnswers(teacher, np.repeat([0.99, 0.0], [900, 100]), 2.0)
    found = find_cut_offs([first, second, StageAnswers(teacher, np.zeros(1000), 4.0)], teacher, margin=0.005)
    assert len(found.cut_offs) == 2
    assert found.shares == (0.6, 0.3, 0.1)
    assert found.cost == pytest.approx(0.6 * 1 + 0.3 * 3 + 0.1 * 7)


def test_students_that_are_sure_and_wrong_are_refused_whatever_the_rows():
    teacher = np.zeros(2000, dtype=np.int64)
    wrong = np.repeat([1, 0], [100, 1900])
    for last, options in ((teacher, {"teacher_last": True}), (teacher, {})):
        with pytest.raises(NotCertifiedError, match=r"wrong too often .*: 100 of 2,000 validation rows"):
            find_cut_offs(two(np.ones(2000), wrong, last), teacher, margin=0.01, **options)


def test_with_the_teacher_last_299_rows_certify_99_percent_if_none_is_wrong():
    needed = [rows_needed(margin, losses=lost, teacher_last=True) for margin in (0.01, 0.005) for lost in (0, 1)]
    assert needed == [299, 473, 598, 947]
    teacher = np.zeros(299, dtype=np.int64)
    asked = two(np.repeat([0.9, 0.1], [200, 99]), teacher, teacher)
    found = find_cut_offs(asked, teacher, margin=0.01, teacher_last=True)
    assert found.shares == (1.0, 0.0), "nothing is wrong, so that nothing need be left to the teacher"
    assert found.last_cost == 1.0
    fewer = [taken(each, slice(298)) for each in asked]
    with pytest.raises(NotCertifiedError, match=r"298 .* cannot certify 99 % agreement.* 299 rows.* ask for 98\.9"):
        find_cut_offs(fewer, teacher[:298], margin=0.01, teacher_last=True)


def test_two_students_before_the_teacher_share_its_cut_off():
    """The texts on which both are unsure, and they alone, are left to the teacher."""
    teacher = np.zeros(1000, dtype=np.int64)
    wrong = np.repeat([0, 1], [900, 100])
    first = StageAnswers(wrong, np.repeat([0.99, 0.2], [600, 400]), 1.0)
    second = StageAnswers(wrong, np.repeat([0.99, 0.2], [900, 100]), 2.0)
    found = find_cut_offs(
        [first, second, StageAnswers(teacher, np.ones(1000), 0.0)], teacher, margin=0.01, teacher_last=True
    )
    assert found.shares == (0.6, 0.3, 0.1)
    assert len(set(found.cut_offs)) == 1
    assert (found.losses, found.gains) == (0, 0)
    assert found.cost == pytest.approx(1.0 + 0.4 * 2.0)


def test_too_few_rows_are_refused_with_how_many_it_takes():
    teacher = np.zeros(497, dtype=np.int64)
    with pytest.raises(NotCertifiedError, match=r"497 validation rows .* 0.2 points at 95 %.*takes 1,502 rows.* 0\.61"):
        find_cut_offs(two(np.ones(497), teacher, teacher), teacher, margin=0.002)
    assert rows_needed(0.002) == 1502
    assert find_cut_offs(
        two(np.ones(1502), np.zeros(1502, int), np.zeros(1502, int)), np.zeros(1502, int), margin=0.002
    )


def test_the_margin_that_rows_allow_depends_on_their_number_alone():
    assert [margin_for(rows) for rows in (951, 952, 2382, 2383)] == [None, 0.005, 0.005, 0.002]
    for margin in MARGINS:
        needed = rows_needed(margin, losses=1)
        assert p_value(1, 0, needed, margin) <= ERROR < p_value(1, 0, needed - 1, margin)
    for rows in (300, 497, 1000, 2000):
        assert rows_needed(least_margin(rows)) <= rows < rows_needed(least_margin(rows) - 2e-4)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"margin": 0.0}, "margin and level"),
        ({"level": 1.0}, "margin and level"),
        ({"teacher_last": True}, "teacher's"),
    ],
)
def test_what_makes_no_sense_is_refused(change, problem):
    teacher = np.zeros(2000, dtype=np.int64)
    with pytest.raises(ValueError, match=problem):
        find_cut_offs(two(np.ones(2000), teacher, teacher + 1), teacher, **{"margin": 0.005, **change})
    with pytest.raises(ValueError, match="two stages"):
        find_cut_offs(two(np.ones(2000), teacher, teacher)[:1], teacher, margin=0.005)


def test_small_samples_certify_large_margins():
    assert rows_needed(0.9) == 2
    assert rows_needed(0.5) == 5
    assert p_value(0, 0, 5, 0.5) == pytest.approx(0.5**5, abs=0.02)
