"""Views and paraphrases: altered copies of the training texts, which the teacher labels as it labels those.

More text scored by the teacher is what raises a student's agreement with it (Stanton et al. 2021). The teacher judges
each view anew, so a view whose meaning changed is no wrong label. Words are what spaces separate: a text without spaces
has no views.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

from distill.data.splits import Train, normalise
from distill.sections import Views

_VIEW, _PARAPHRASE = "view", "paraphrase"


def make_views(train: Train, held_out: Iterable[str], section: Views) -> Train:
    """Return up to `per_text` views of each text of `train`, without gold labels.

    A view has some words dropped and some pairs of neighbours swapped, one of either at least. It depends on its text,
    the row's id and the seed alone, so a changed pool gets new views for its new texts only. No view equals a text of
    `train`, a `held_out` text or another view, apart from case and spacing; a text of one word has none.
    """
    views = []
    for name, text in zip(train.ids, train.texts, strict=True):
        words = text.split()
        seeds = (f"{section.seed} {name} {number}" for number in range(section.per_text if len(words) > 1 else 0))
        views.append([_altered(words, section, random.Random(seed)) for seed in seeds])
    return _new_rows(train, held_out, views, _VIEW)


def paraphrase_rows(train: Train, others: Iterable[str], written: Sequence[Sequence[str]]) -> Train:
    """Return the paraphrases that were `written` of each text of `train`, without gold labels.

    Those that equal a text of `train` or of the `others`, or another paraphrase, apart from case and spacing, are left
    out. Texts that are held out must be among the others: one that a model has written must not be trained on.
    """
    return _new_rows(train, others, written, _PARAPHRASE)


def _new_rows(train: Train, others: Iterable[str], altered: Sequence[Sequence[str]], mark: str) -> Train:
    known = {normalise(text) for text in (*train.texts, *others)}
    ids: list[str] = []
    texts: list[str] = []
    for name, versions in zip(train.ids, altered, strict=True):
        for number, text in enumerate(versions):
            if normalise(text) not in known:
                known.add(normalise(text))
                ids.append(f"{name} ({mark} {number})")
                texts.append(text)
    return Train(tuple(ids), tuple(texts), (None,) * len(ids))


def source_of(name: str) -> str:
    """Return the id of the row that the row `name` is a view of; `name` itself if it is no view."""
    return _source_of(name, (_VIEW,))


def inherit_gold(rows: Train, train: Train, *, paraphrases: bool) -> Train:
    """Return those of the rows that have a gold label, where views have that of their text in `train`.

    Paraphrases have it too, as they are written to mean the same; with `paraphrases: False` they are left out.
    """
    gold_of = dict(zip(train.ids, train.gold, strict=True))
    marks = (_VIEW, _PARAPHRASE) if paraphrases else (_VIEW,)
    sources = (name if name in gold_of else _source_of(name, marks) for name in rows.ids)
    gold = tuple(gold_of.get(source) for source in sources)
    return Train(rows.ids, rows.texts, gold).with_gold()


def _source_of(name: str, marks: Iterable[str]) -> str:
    return re.sub(rf" \(({'|'.join(marks)}) \d+\)\Z", "", name)


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
