import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.shadow.comparison import JS_LIMIT, KL_LIMIT, compare

weights = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4).filter(lambda values: sum(values) > 1e-3)


def test_equal_answers_do_not_diverge():
    found = compare([0.7, 0.2, 0.1], [0.7, 0.2, 0.1])
    assert found.agree
    assert found.kl == pytest.approx(0.0, abs=1e-12)
    assert found.js == pytest.approx(0.0, abs=1e-12)


def test_divergences_follow_their_formulas():
    found = compare([0.5, 0.5], [0.25, 0.75])
    assert found.kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    mean = np.array([0.375, 0.625])
    expected = 0.5 * sum(float(np.sum(p * np.log(p / mean))) for p in (np.array([0.5, 0.5]), np.array([0.25, 0.75])))
    assert found.js == pytest.approx(expected)


def test_opposite_answers_reach_the_floor_and_the_limit():
    found = compare([1.0, 0.0], [0.0, 1.0])
    assert not found.agree
    assert (found.student_class, found.teacher_class) == (0, 1)
    assert found.kl == pytest.approx(-math.log(1e-4))
    assert found.js == pytest.approx(JS_LIMIT)


@given(weights, weights)
@example([0.0, 1.0], [5e-324, 1.0])
def test_divergences_stay_in_their_range(student, teacher):
    found = compare(student, teacher)
    assert 0.0 <= found.kl <= KL_LIMIT
    assert 0.0 <= found.js <= JS_LIMIT
