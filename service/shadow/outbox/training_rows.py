"""The answered texts of a shadow store as rows to train on. Reads, and changes nothing.

A text teaches whichever student answered it, so that rows of all bundle versions are read. `answered` reads what was
compared with one version, to judge by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.shadow.outbox.sql import Connection


@dataclass(frozen=True)
class TrainingLog:
    """N answered texts of the split `train`, redacted as they are stored, the oldest first.

    `answers` float32 [N, K] are the teacher's probabilities as it gave them, in the order of the labels asked for.
    `band` and `propensity` [N] are those at which each text was sampled, `agreed` [N] whether the student of that time
    put the same label first, `answered` [N] when the teacher answered (Unix seconds).

    `held_out` [M] has the same times for the split `eval`, which is never trained on. `erased` texts are not kept,
    `others` were answered by another teacher or version, or for other labels.
    """

    texts: list[str]
    answers: npt.NDArray[np.float32]
    band: npt.NDArray[np.intp]
    propensity: npt.NDArray[np.float64]
    agreed: npt.NDArray[np.bool_]
    answered: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.float64]
    erased: int
    others: int

    def since(self, time: float | None) -> int:
        """Return how many texts of both splits were answered after `time` in Unix seconds; None: all."""
        if time is None:
            return len(self.answered) + len(self.held_out)
        return int((self.answered > time).sum() + (self.held_out > time).sum())

    @property
    def latest(self) -> float:
        """When the newest text was answered, in Unix seconds; 0 without one."""
        return float(np.concatenate([self.answered, self.held_out]).max(initial=0.0))


def read_training_log(
    connection: Connection, teachers: Sequence[str], labels: Sequence[str], since: float = 0.0
) -> TrainingLog:
    """Read what `teachers`, each `name@version`, answered about texts from `since` on (Unix seconds).

    Rows of bundles whose labels are not those of `labels` [K], in any order, are left out.
    """
    orders = {}
    for version, stored in connection.execute("SELECT version, labels FROM bundles", ()).fetchall():
        names = json.loads(stored)
        if sorted(names) == sorted(labels):
            orders[version] = np.array([names.index(label) for label in labels])
    taken = [
        row
        for row in connection.execute(
            "SELECT bundle, split, text, answer, band, propensity, agree, answered, teacher FROM rows"
            " WHERE outcome = 'completed' AND time >= ? ORDER BY seq",
            (since,),
        )
        if row[0] in orders and row[8] in teachers
    ]
    (every,) = connection.execute(
        "SELECT count(*) FROM rows WHERE outcome = 'completed' AND time >= ?", (since,)
    ).fetchone()
    kept = [row for row in taken if row[2] is not None]
    held_out = [row for row in kept if row[1] != "train"]
    judge = {row[2] for row in held_out}  # a text has one split, unless shadow.split_key was changed
    train = [row for row in kept if row[1] == "train" and row[2] not in judge]
    answers = [np.frombuffer(row[3], dtype="<f4")[orders[row[0]]] for row in train]
    return TrainingLog(
        texts=[row[2] for row in train],
        answers=np.array(answers, dtype=np.float32).reshape(len(train), len(labels)),
        band=np.array([row[4] for row in train], dtype=np.intp),
        propensity=np.array([row[5] for row in train], dtype=np.float64),
        agreed=np.array([row[6] == 1 for row in train], dtype=np.bool_),
        answered=np.array([row[7] for row in train], dtype=np.float64),
        held_out=np.array([row[7] for row in held_out], dtype=np.float64),
        erased=len(taken) - len(kept),
        others=int(every) - len(taken),
    )
