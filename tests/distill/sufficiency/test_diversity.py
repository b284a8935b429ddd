"""Diversity sees new words, near twins and rare labels."""

from __future__ import annotations

import numpy as np
import pytest

from distill.sufficiency import probe
from distill.sufficiency.diversity import measure

WORDS = [f"word{number}" for number in range(60)]


def texts(count, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, 8)) for _ in range(count)]


def test_the_share_of_unknown_words_is_that_of_all_words_said():
    train = texts(200, 0)
    held_out = ["word1 word2 never seen", "word3 word4 word5 WORD6"]
    classes = np.zeros(200, dtype=np.intp)
    assert measure(train, held_out, probe.features(train), classes).unknown == pytest.approx(2 / 8)


def test_twins_are_texts_that_differ_in_little():
    train = texts(200, 0)
    twins = [f"{text} again" for text in train[:50]]
    inputs = probe.features([*train, *twins])
    both = measure([*train, *twins], train, inputs, np.zeros(250, dtype=np.intp))
    alone = measure(train, train, probe.features(train), np.zeros(200, dtype=np.intp))
    assert alone.twins < 0.05
    assert both.twins == pytest.approx(100 / 250, abs=0.04)


def test_equally_frequent_labels_count_whole_and_rare_ones_less():
    train = texts(200, 0)
    inputs = probe.features(train)
    even = measure(train, train, inputs, np.arange(200) % 4)
    assert even.labels == pytest.approx(4.0)
    uneven = measure(train, train, inputs, (np.arange(200) % 20 == 0).astype(np.intp))
    assert 1 < uneven.labels < 1.3
