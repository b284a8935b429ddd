"""Anchors are chosen evenly over the teacher's labels, the same ones each time."""

from __future__ import annotations

from collections import Counter

import numpy as np

from export.choose_anchors import choose_anchors

LABELS = ("often", "seldom", "once", "never")


def rows(counts: list[int]) -> tuple[list[str], np.ndarray]:
    """Texts that the teacher gives each label so often, in the order of the labels."""
    best = np.repeat(np.arange(len(counts)), counts)
    return [f"text {row}" for row in range(len(best))], np.eye(len(LABELS), dtype=np.float32)[best]


def test_labels_take_turns_as_far_as_they_have_rows() -> None:
    texts, teacher = rows([300, 20, 1, 0])
    anchors = choose_anchors(texts, teacher, LABELS, 31)
    assert Counter(anchor.label for anchor in anchors) == {"often": 15, "seldom": 15, "once": 1}
    assert {anchor.label for anchor in anchors[:8]} >= {"often", "seldom"}  # not one label after the other
    label_of = dict(zip(texts, (LABELS[best] for best in teacher.argmax(1)), strict=True))
    assert all(label_of[anchor.text] == anchor.label for anchor in anchors)
    assert len({anchor.text for anchor in anchors}) == 31


def test_the_choice_is_the_same_each_time_and_another_with_another_seed() -> None:
    texts, teacher = rows([300, 20, 1, 0])
    assert choose_anchors(texts, teacher, LABELS, 31) == choose_anchors(texts, teacher, LABELS, 31)
    assert choose_anchors(texts, teacher, LABELS, 31) != choose_anchors(texts, teacher, LABELS, 31, seed=1)


def test_few_rows_are_all_anchors() -> None:
    texts, teacher = rows([2, 1, 0, 0])
    assert {anchor.text for anchor in choose_anchors(texts, teacher, LABELS)} == set(texts)
