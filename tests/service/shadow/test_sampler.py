import math
from random import Random

import numpy as np
import pytest

from service.monitor.bands import propensities
from service.shadow.sampler import Sampler

from .conftest import REFERENCE


def test_answers_fall_into_the_bands_of_the_reference():
    sampler = Sampler(REFERENCE, 0.1)
    placed = [sampler.place(top) for top in (0.9999, 0.99, 0.95, 0.8, 0.45)]
    assert [band for band, _ in placed] == [0, 1, 2, 3, 4]
    assert [expected for _, expected in placed] == sorted(expected for _, expected in placed)


def test_each_band_is_sampled_at_its_propensity():
    sampler = Sampler(REFERENCE, 0.1, Random(1))
    assert sampler.propensity == pytest.approx(propensities(0.1, REFERENCE.share, REFERENCE.spread))
    for band, wanted in enumerate(sampler.propensity):
        seen = np.mean([sampler.draw(band) for _ in range(20_000)])
        assert seen == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / 20_000))


def test_sampling_is_not_predictable():
    first, second = Sampler(REFERENCE, 0.5), Sampler(REFERENCE, 0.5)
    assert [first.draw(2) for _ in range(64)] != [second.draw(2) for _ in range(64)]


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="number"):
        Sampler(REFERENCE, 0.1).place(math.nan)
