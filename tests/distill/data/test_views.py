"""Views differ from every text that is known, alter as much as they should, and stay the same for the same text."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from distill.data.splits import Train, cast, join
from distill.data.views import inherit_gold, make_views, paraphrase_rows
from distill.sections import Views

LONG = " ".join(f"word{number}" for number in range(400))
TEXTS = tuple(f"please {verb} my {noun} now" for verb in ("send", "stop", "refund") for noun in ("card", "order"))


def train(*texts: str) -> Train:
    return Train(tuple(f"id of {text}" for text in texts), texts, ("gold",) * len(texts))


@pytest.mark.parametrize("section", [Views(per_text=3), Views(drop=0), Views(swap=0), Views(drop=0.9, swap=0)])
def test_a_view_is_no_text_of_any_split_and_no_other_view(section):
    held_out = ("Please SEND card now",)
    views = make_views(train(*TEXTS, "send card"), held_out, section)
    known = [text.casefold() for text in (*views.texts, *TEXTS, "send card", *held_out)]
    assert len(set(known)) == len(known)
    assert set(views.gold) == {None}
    assert len(set(views.ids)) == len(views) > len(TEXTS) / 2


def test_a_dropped_word_is_missing_and_no_word_is_new():
    (view,) = make_views(train(LONG), (), Views(drop=0.2, swap=0)).texts
    kept = view.split()
    assert kept == [word for word in LONG.split() if word in kept]
    assert 0.7 < len(kept) / 400 < 0.9


def test_a_swapped_word_moves_by_one_place():
    (view,) = make_views(train(LONG), (), Views(drop=0, swap=0.2)).texts
    words, swapped = LONG.split(), view.split()
    assert Counter(swapped) == Counter(words)
    moved = [abs(words.index(word) - place) for place, word in enumerate(swapped)]
    assert set(moved) == {0, 1}
    assert 0.2 < sum(moved) / 400 < 0.5  # two words of a pair


def test_a_text_of_one_word_has_no_view():
    assert len(make_views(train("hello", " hello "), (), Views(per_text=4))) == 0


def test_what_is_altered_depends_on_the_row_and_the_seed_alone():
    section = Views(per_text=2)
    whole, part = (make_views(train(*texts), (), section) for texts in (TEXTS, TEXTS[3:]))
    of = dict(zip(whole.ids, whole.texts, strict=True))
    assert all(of[name] == text for name, text in zip(part.ids, part.texts, strict=True))
    again, other = make_views(train(*TEXTS), (), section), make_views(train(*TEXTS), (), Views(per_text=2, seed=1))
    assert again == whole
    assert other.texts != whole.texts


def test_a_section_that_alters_nothing_is_refused():
    with pytest.raises(ValidationError, match="drop and swap are both 0"):
        Views(drop=0, swap=0)


def test_views_and_paraphrases_inherit_the_gold_label_of_their_text():
    rows = Train(("a", "b", "c (view 1)"), ("send my card now", "stop it", "cancel my order"), ("card", None, "order"))
    views = make_views(rows, (), Views(per_text=2))
    written = paraphrase_rows(rows, (), [["please send the card"], ["end it"], ["no order"]])
    altered = cast(join(rows, views, written), Train)
    assert len(altered) > len(rows) + len(written)
    found = inherit_gold(altered, rows, paraphrases=True)
    labels = dict(zip(found.ids, found.gold, strict=True))
    assert labels == {name: "card" if name.startswith("a") else "order" for name in altered.ids if name[0] != "b"}
    assert not any("paraphrase" in name for name in inherit_gold(altered, rows, paraphrases=False).ids)
