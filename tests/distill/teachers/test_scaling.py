"""A scaling is applied as it is written down: to any shape, finite, and refused where it does not fit."""

import json
import math

import numpy as np
import pytest

from distill.teachers import TeacherError
from distill.teachers.scaling import Scaling

ROWS = np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=200).astype(np.float32)
VECTOR = Scaling((1.0, 0.5, 2.0, 1.0), (0.0, 0.0, 3.0, -1.0))


def test_a_temperature_by_hand():
    expected = ROWS.astype(np.float64) ** (1 / 3)
    scaled = Scaling.of_temperature(3.0).apply(ROWS)
    np.testing.assert_allclose(scaled, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_scale_and_a_bias_by_hand():
    weights = ROWS.astype(np.float64) ** np.array(VECTOR.scale) * np.exp(VECTOR.bias)
    np.testing.assert_allclose(VECTOR.apply(ROWS), weights / weights.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 8.0])
def test_a_temperature_leaves_the_first_choice(temperature):
    scaled = Scaling.of_temperature(temperature).apply(ROWS)
    assert (scaled.argmax(1) == ROWS.argmax(1)).all()


def test_a_vector_may_change_the_first_choice():
    assert (VECTOR.apply(ROWS).argmax(1) != ROWS.argmax(1)).any()


def test_a_temperature_of_one_changes_nothing():
    np.testing.assert_allclose(Scaling.of_temperature(1.0).apply(ROWS), ROWS, atol=1e-6)


@pytest.mark.parametrize("scaling", [Scaling.of_temperature(2.0), VECTOR])
def test_one_row_is_scaled_as_it_is_among_others(scaling):
    alone = scaling.apply(ROWS[7])
    assert alone.shape == (4,)
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(alone, scaling.apply(ROWS)[7])


@pytest.mark.parametrize("scaling", [Scaling.of_temperature(0.05), Scaling.of_temperature(20.0), VECTOR])
def test_certainty_stays_a_distribution(scaling):
    scaled = scaling.apply([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert (scaled >= 0).all()
    np.testing.assert_allclose(scaled.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("scaling", [Scaling.of_temperature(1.7), VECTOR])
def test_a_scaling_comes_back_from_json(scaling):
    read = Scaling.from_dict(json.loads(json.dumps(scaling.as_dict())), 4)
    assert read.method == scaling.method
    np.testing.assert_array_equal(read.apply(ROWS), scaling.apply(ROWS))


@pytest.mark.parametrize(
    "values",
    [
        {},
        [],
        {"method": "isotonic"},
        {"method": "temperature"},
        {"method": "temperature", "temperature": 0},
        {"method": "temperature", "temperature": -2.0},
        {"method": "temperature", "temperature": math.nan},
        {"method": "temperature", "temperature": math.inf},
        {"method": "temperature", "temperature": "warm"},
        {"method": "vector", "scale": [1, 1, 1, 1]},
        {"method": "vector", "scale": [1, 1, 1], "bias": [0, 0, 0]},
        {"method": "vector", "scale": [1], "bias": [0]},
        {"method": "vector", "scale": [1, 1, 1, 0], "bias": [0, 0, 0, 0]},
        {"method": "vector", "scale": [1, 1, 1, 1], "bias": [0, 0, 0, math.nan]},
        {"method": "vector", "scale": 1.0, "bias": 0.0},
    ],
)
def test_what_is_no_scaling_is_refused(values):
    with pytest.raises(TeacherError, match=r"the teacher's calibration .*export the bundle again"):
        Scaling.from_dict(values, 4)
