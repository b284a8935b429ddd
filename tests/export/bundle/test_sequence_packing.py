"""Texts share rows of attention, nothing is lost or doubled, and none sees another."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle.sequence_packing import BIAS, NAMES, PLACES, ROWS, SequencePacking, assign_places

MOST = 64
UNSEEN = -10_000.0
lengths_of_texts = st.lists(st.integers(1, MOST), min_size=1, max_size=40)


@settings(deadline=None)
@given(lengths_of_texts)
def test_each_token_has_a_place_of_its_own_and_stands_there(lengths):
    found = SequencePacking(MOST).pack(lengths)
    places, rows = found[PLACES], found[ROWS]
    assert tuple(found) == NAMES
    assert len(set(places.tolist())) == len(places) == sum(lengths)
    np.testing.assert_array_equal(rows.ravel()[places], np.arange(sum(lengths)))
    assert rows.shape[1] == max(lengths)


@settings(deadline=None)
@given(lengths_of_texts)
def test_a_text_stands_in_one_row_in_its_order(lengths):
    places, width = SequencePacking(MOST).pack(lengths)[PLACES], max(lengths)
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        here = places[end - length : end]
        np.testing.assert_array_equal(here, np.arange(here[0], here[0] + length))
        assert here[0] // width == here[-1] // width


@settings(deadline=None)
@given(lengths_of_texts)
def test_a_token_sees_its_own_text_alone(lengths):
    found = SequencePacking(MOST).pack(lengths)
    places, bias = found[PLACES], found[BIAS]
    count, width = found[ROWS].shape
    assert bias.shape == (count, 1, width, width)
    assert bias.dtype == np.float32
    text_at = np.full(count * width, -1)
    text_at[places] = np.repeat(np.arange(len(lengths)), lengths)
    text_at = text_at.reshape(count, 1, width)
    expected = np.where(text_at[..., None] == text_at[..., None, :], 0.0, UNSEEN)
    real = np.broadcast_to(text_at[..., None] >= 0, expected.shape)
    np.testing.assert_array_equal(bias[real], expected[real])


@settings(deadline=None)
@given(lengths_of_texts)
def test_two_rows_are_never_less_than_full_together(lengths):
    starts, count = assign_places(lengths)
    filled = np.zeros(count, dtype=int)
    np.add.at(filled, starts // max(lengths), lengths)
    assert (filled > 0).all()
    assert all(one + other > max(lengths) for one, other in itertools.pairwise(filled))


@pytest.mark.parametrize(
    ("lengths", "count"), [([7], 1), ([9, 9, 9], 3), ([2, 24, 7, 1, 19, 2, 24], 4), ([30, 10, 10, 10], 2)]
)
def test_short_texts_share_rows(lengths, count):
    assert assign_places(lengths)[1] == count


def test_what_texts_alone_are_given_is_never_copied():
    packing = SequencePacking(MOST)
    short, long = packing.pack([3]), packing.pack([MOST])
    for name in NAMES:
        assert np.shares_memory(short[name], long[name])
        assert short[name].flags.c_contiguous
