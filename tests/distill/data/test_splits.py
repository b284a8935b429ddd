"""Splits are types: what judges never chooses. And holding out is fair to every label, and repeatable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from distill.data.splits import Examples, Test, Train, Validation, hold_out, require
from distill.training.distil import distil


def labelled(**counts: int) -> Examples:
    gold = [None if label == "nobody" else label for label, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(gold))
    return Examples(
        tuple(f"id-{row}" for row in order), tuple(f"text {row}" for row in order), tuple(gold[row] for row in order)
    )


def test_each_kind_is_taken_for_itself_alone():
    for kind in (Train, Validation, Test):
        split = kind(("a",), ("text",), (None,))
        assert require(split, kind) is split
        for other in {Train, Validation, Test} - {kind}:
            with pytest.raises(TypeError, match=f"expected a {other.__name__} split, got a {kind.__name__} split"):
                require(split, other)


def test_rows_of_no_kind_are_refused():
    with pytest.raises(TypeError, match="expected a Train split, got a Examples split"):
        require(labelled(a=3), Train)


@pytest.mark.parametrize("place", ["learn", "choose"])
def test_distil_refuses_the_test_split(place, encoder_config, soft_for, splits):
    learn, choose, test = splits
    given = {"learn": learn, "choose": choose, place: test}
    with pytest.raises(TypeError, match="got a Test split"):
        distil(encoder_config, soft_for(*splits), **given, description="training")


def test_rows_are_taken_in_order_and_keep_their_kind():
    split = Test(("a", "b", "c"), ("1", "2", "3"), ("x", None, "y"))
    taken = split.take([2, 0])
    assert taken == Test(("c", "a"), ("3", "1"), ("y", "x"))
    assert isinstance(taken, Test)
    assert len(split.take([])) == 0


def test_gold_is_there_when_every_row_has_it():
    assert labelled(a=2, b=1).has_gold
    assert not labelled(a=2, nobody=1).has_gold
    assert not labelled().has_gold


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_holding_out_divides_the_rows(share):
    rows = labelled(a=100, b=40, c=7, d=1, nobody=20)
    train, validation = hold_out(rows, share, seed=3)
    assert isinstance(train, Train)
    assert isinstance(validation, Validation)
    assert not set(train.ids) & set(validation.ids)
    assert set(train.ids) | set(validation.ids) == set(rows.ids)
    position = {name: row for row, name in enumerate(rows.ids)}
    for split in (train, validation):
        at = [position[name] for name in split.ids]
        assert at == sorted(at)
        assert split.texts == tuple(rows.texts[row] for row in at)
        assert split.gold == tuple(rows.gold[row] for row in at)


@pytest.mark.parametrize("seed", range(5))
def test_every_label_gives_its_share_to_within_a_row(seed):
    counts = {"a": 100, "b": 43, "c": 7, "d": 2, "nobody": 20}
    _, validation = hold_out(labelled(**counts), 0.15, seed)
    held = Counter(label or "nobody" for label in validation.gold)
    for label, count in counts.items():
        assert abs(held[label] - 0.15 * count) < 1


@pytest.mark.parametrize("seed", range(5))
def test_every_label_keeps_a_row_to_learn_from(seed):
    train, _ = hold_out(labelled(a=50, b=1, c=2, d=1), 0.49, seed)
    assert set(train.gold) == {"a", "b", "c", "d"}


def test_the_share_holds_over_many_small_labels():
    rows = labelled(**{f"label-{number}": 3 for number in range(400)})
    _, validation = hold_out(rows, 0.1, seed=0)
    assert 0.08 * 1200 < len(validation) < 0.12 * 1200


def test_holding_out_is_repeatable_and_the_seed_counts():
    rows = labelled(a=60, b=60)
    assert hold_out(rows, 0.2, seed=1) == hold_out(rows, 0.2, seed=1)
    assert hold_out(rows, 0.2, seed=1) != hold_out(rows, 0.2, seed=2)
