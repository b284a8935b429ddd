"""Views: altered copies of the training texts, which the teacher labels as it labels the texts themselves.

More text scored by the teacher is what raises a student's agreement with it (Stanton et al. 2021). The teacher judges
each view anew, so a view whose meaning changed is no wrong label. Words are what spaces separate: a text without spaces
has no views.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from distill.data.splits import Train, normalise
from distill.sections import Views

_MARK = " (view "


def make_views(train: Train, held_out: Iterable[str], section: Views) -> Train:
    """Return up to `per_text` views of each text of `train`, without gold labels.

    A view has some words dropped and some pairs of neighbours swapped, one of either at least. It depends on its text,
    the row's id and the seed alone, so a changed pool gets new views for its new texts only. No view equals a text of
    `train`, a `held_out` text or another view, apart from case and spacing; a text of one word has none.
    """
    known = {normalise(text) for text in (*train.texts, *held_out)}
    ids: list[str] = []
    texts: list[str] = []
    for name, text in zip(train.ids, train.texts, strict=True):
        words = text.split()
        for number in range(section.per_text if len(words) > 1 else 0):
            view = _altered(words, section, random.Random(f"{section.seed} {name} {number}"))
            if normalise(view) not in known:
                known.add(normalise(view))
                ids.append(f"{name}{_MARK}{number})")
                texts.append(view)
    return Train(tuple(ids), tuple(texts), (None,) * len(ids))


def source_of(name: str) -> str:
    """Return the id of the row that the row `name` is a view of; `name` itself if it is no view."""
    return name.rpartition(_MARK)[0] or name


def _altered(words: list[str], section: Views, generator: random.Random) -> str:
    """Drop each word with the probability `drop`, then swap each pair with the probability `swap`."""
    kept = [word for word in words if generator.random() >= section.drop] or [generator.choice(words)]
    at = 0
    while at < len(kept) - 1:
        if generator.random() < section.swap:
            kept[at : at + 2] = kept[at + 1], kept[at]
            at += 1  # a word moves by one place at most
        at += 1
    if kept == words and section.drop:
        del kept[generator.randrange(len(kept))]
    elif kept == words:
        first = generator.randrange(len(kept) - 1)
        kept[first : first + 2] = kept[first + 1], kept[first]
    return " ".join(kept)
