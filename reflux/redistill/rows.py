"""The rows of the shadow log that a candidate learns from: one for each text, with a weight.

The log is no plain sample of the traffic: a request was sampled with a propensity π that is larger where the student is
uncertain, and that grows with the rate, which somebody may have changed. For the gap both are undone, but a student
need not be trained for the traffic as it is. More uncertain texts than there are teach it more: on the demo a gap of
10.9 % became 6.6 % so, and 7.1 % where each answer counted 1 / π (`benchmarks/redistill.py`). Such weights also make
the sample worth less (Kish 1965). So nothing is undone between confidence bands. Within a band an answer counts 1 / π,
relative to the band's mean: a day with a raised rate counts as any other.

Equal texts are one row: its soft label is the mean of the teacher's answers, its weight the sum of theirs. One text or
one hour can so outweigh all others, which makes training noisy; weights are therefore cut at √n times their mean (the
truncated importance sampling of Ionides 2008), a bias that vanishes as the log grows. Last they are scaled to a mean of
1: a text of the log counts as much as a row of the task's own, whose weight is 1.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from distill.labelling.soft_labels import SoftLabels
from distill.owned import PRIVATE
from distill.stages import write_atomic
from service.shadow.outbox.training_rows import TrainingLog
from service.shadow.redaction.kinds import KINDS

ROWS = "rows.parquet"
FACTS = "rows.json"
_PLACEHOLDER = re.compile("|".join(f"<{kind}>" for kind in KINDS))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BandFacts:
    """A confidence band: the `answers` of the log that were taken, the share of the traffic that they stand for.

    `disagreed` counts answers in which the student of that time put another label first.
    """

    band: int
    answers: int
    share: float
    disagreed: int


@dataclass(frozen=True)
class Facts:
    """What was taken: `answers` about `texts` different ones, `redacted` of which hold a placeholder.

    `new` were answered since the redistillation before, also those that are held out (`held_out` in all). `duplicates`
    of held-out rows of the task were left out, as were `erased` texts and answers of `others`, other teachers or
    labels. `effective` is Kish's effective number of texts, (Σw)² / Σw². `since` and `latest` are in Unix seconds.
    """

    answers: int
    texts: int
    redacted: int
    new: int
    held_out: int
    duplicates: int
    erased: int
    others: int
    effective: float
    since: float | None
    latest: float
    bands: tuple[BandFacts, ...]


@dataclass(frozen=True)
class LogRows:
    """N different texts with the teacher's mean answers float32 [N, K], and weights [N] whose mean is 1."""

    texts: tuple[str, ...]
    answers: npt.NDArray[np.float32]
    weights: Floats
    facts: Facts

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that no row of the task has."""
        return tuple(f"shadow-log:{row}" for row in range(len(self.texts)))

    @classmethod
    def of(cls, log: TrainingLog, duplicate: npt.NDArray[np.bool_], since: float | None) -> Self:
        """Make the rows of a log without those that are a `duplicate` [N] of a held-out row of the task."""
        kept = np.flatnonzero(~duplicate)
        known: dict[str, int] = {}
        place = np.array([known.setdefault(log.texts[row], len(known)) for row in kept], dtype=np.intp)
        inverse = 1.0 / log.propensity[kept]
        count = np.bincount(place, minlength=len(known))
        answers = np.zeros((len(known), log.answers.shape[1]))
        np.add.at(answers, place, log.answers[kept])
        texts = tuple(known)
        band = log.band[kept]
        mean = np.bincount(band, inverse) / np.maximum(np.bincount(band), 1)
        weights = weights_of(np.bincount(place, inverse / mean[band], len(known)).astype(np.float64))
        facts = Facts(
            answers=len(kept),
            texts=len(texts),
            redacted=sum(_PLACEHOLDER.search(text) is not None for text in texts),
            new=log.since(since),
            held_out=len(log.held_out),
            duplicates=int(duplicate.sum()),
            erased=log.erased,
            others=log.others,
            effective=float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0,
            since=since,
            latest=log.latest,
            bands=tuple(
                BandFacts(
                    band=int(each),
                    answers=int((band == each).sum()),
                    share=float(inverse[band == each].sum() / inverse.sum()),
                    disagreed=int((~log.agreed[kept][band == each]).sum()),
                )
                for each in np.unique(band)
            ),
        )
        return cls(texts, (answers / np.maximum(count, 1)[:, None]).astype(np.float32), weights, facts)

    def write(self, folder: Path) -> None:
        """Write the rows and what is known of them into a folder."""
        table = pyarrow.table(
            {"text": list(self.texts), "answer": list(self.answers), "weight": self.weights},
            schema=pyarrow.schema(
                [
                    ("text", pyarrow.string()),
                    ("answer", pyarrow.list_(pyarrow.float32())),
                    ("weight", pyarrow.float64()),
                ]
            ),
        )
        (folder / ROWS).touch(mode=PRIVATE)  # what people wrote, as in the outbox
        pyarrow.parquet.write_table(table, folder / ROWS)
        write_atomic(folder / FACTS, json.dumps(asdict(self.facts), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path, classes: int) -> Self:
        """Read what `write` wrote, with answers about so many `classes`."""
        table = pyarrow.parquet.read_table(folder / ROWS)
        stored: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        bands = tuple(BandFacts(**band) for band in stored.pop("bands"))
        flat = table["answer"].combine_chunks().flatten().to_numpy()
        return cls(
            tuple(table["text"].to_pylist()),
            flat.reshape(-1, classes).astype(np.float32),
            table["weight"].to_numpy(),
            Facts(**stored, bands=bands),
        )

    def added_to(self, soft: SoftLabels) -> SoftLabels:
        """Return the soft labels with these rows, calibrated as the others are."""
        count = len(self.texts)
        raw = self.answers / np.maximum(self.answers.sum(axis=1, keepdims=True), 1e-12)
        ours = raw if soft.scaling is None else soft.scaling.apply(raw)
        return SoftLabels(
            ids=soft.ids + self.ids,
            texts=soft.texts + self.texts,
            labels=soft.labels,
            probabilities=np.concatenate([soft.probabilities, ours.astype(np.float32)]),
            methods=soft.methods + ("shadow",) * count,
            covered=np.concatenate([soft.covered, np.ones(count)]),
            tail=np.concatenate([soft.tail, np.zeros(count)]),
            tokens=np.concatenate([soft.tokens, np.zeros(count, dtype=np.int64)]),
            cost_usd=np.concatenate([soft.cost_usd, np.zeros(count)]),
            seconds=np.concatenate([soft.seconds, np.zeros(count)]),
            teacher=soft.teacher,
            teacher_version=soft.teacher_version,
            raw=None if soft.raw is None else np.concatenate([soft.raw, raw.astype(np.float32)]),
            scaling=soft.scaling,
            terms=soft.terms,
        )


def weights_of(given: Floats) -> Floats:
    """Return weights [N] with a mean of 1, cut at √N times the mean that they have as they are given."""
    if not len(given):
        return given
    cut = np.minimum(given, given.mean() * np.sqrt(len(given)))
    return np.asarray(cut / cut.mean())
