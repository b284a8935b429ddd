"""A student is compared with the calibrated answer of its teacher; the uncalibrated one is stored."""

import numpy as np
import pytest

from distill.teachers import Answer
from distill.teachers.scaling import Scaling
from service.shadow.comparison import compare
from service.shadow.errors import ShadowError

from .conftest import LABELS, PlayedTeacher, prediction

SAID = np.array([0.7, 0.2, 0.1], dtype=np.float32)  # billing, shipping, account
TO_SHIPPING = Scaling((1.0, 0.5, 1.0), (0.0, 2.0, 0.0))
WARM = Scaling.of_temperature(3.0)


async def says(texts):
    return [Answer(SAID, "logprobs")]


async def says_backwards(texts):
    return [Answer(SAID[::-1], "logprobs")]


async def shadowed(make_shadow, scaling, teacher=None):
    """Return the rows of two texts that the student classified as billing and as shipping."""
    calibration = None if scaling is None else scaling.as_dict()
    shadow = await make_shadow(teacher or PlayedTeacher(says), calibration=calibration).start()
    shadow.observe(label="billing", top=0.6)
    await shadow.process(label="shipping", top=0.6)
    return shadow, shadow.rows("agree, kl, js, answer")


@pytest.mark.parametrize(
    ("scaling", "agreed"),
    [(None, [1, 0]), (WARM, [1, 0]), (TO_SHIPPING, [0, 1])],
    ids=["none", "temperature", "vector"],
)
async def test_the_calibrated_answer_is_compared_and_the_uncalibrated_one_stored(make_shadow, scaling, agreed):
    shadow, rows = await shadowed(make_shadow, scaling)
    taught = SAID if scaling is None else scaling.apply(SAID)
    for (agree, kl, js, stored), label in zip(rows, ("billing", "shipping"), strict=True):
        expected = compare(prediction(label, 0.6).probabilities, taught)
        assert (agree, kl, js) == (expected.agree, pytest.approx(expected.kl), pytest.approx(expected.js))
        np.testing.assert_array_equal(np.frombuffer(stored, dtype="<f4"), SAID)
    assert [agree for agree, *_ in rows] == agreed
    assert shadow.pipeline.gap()["counts"]["disagreements"] == 1


async def test_labels_in_another_order_are_calibrated_by_name(make_shadow):
    backwards = PlayedTeacher(says_backwards, labels=LABELS[::-1])
    _, rows = await shadowed(make_shadow, TO_SHIPPING, backwards)
    assert [agree for agree, *_ in rows] == [0, 1]
    expected = compare(prediction("shipping", 0.6).probabilities, TO_SHIPPING.apply(SAID))
    assert rows[1][1] == pytest.approx(expected.kl)


async def test_an_invalid_calibration_is_refused_at_the_start(make_shadow):
    shadow = make_shadow(calibration={"method": "vector", "scale": [1.0, 1.0], "bias": [0.0, 0.0]})
    with pytest.raises(ShadowError, match=r"the bundle tiny: the teacher's calibration does not fit 3 labels"):
        await shadow.start()
    assert not shadow.settings.path.exists()


async def test_if_disabled_the_calibration_is_not_read(make_shadow):
    shadow = await make_shadow(calibration={"method": "unknown"}, enabled=False, teacher=None).start()
    assert shadow.pipeline.gap()["enabled"] is False
