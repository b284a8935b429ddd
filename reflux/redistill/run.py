"""The stages of a redistillation, in the folder `redistill` of a task's run.

`rows` (a copy of the log) → `students/NAME` → `bundles/NAME` → `cascade`, if one is served → `report`. The data, the
labels and the fine-tuned teacher are those of the task's run. Rows of the log are only trained on: the task's
validation split, which chooses the epoch and gives the temperature, the bands and the SLO, stays as it is, because it
is a plain sample.

Like every stage these are whole or not there, so that a redistillation that was killed begins again where it was, with
the same rows, and no other folder is written to. `rows` alone holds texts of the log, and is deleted at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.prepared import Splits
from distill.data.splits import Train
from distill.labelling.soft_labels import SoftLabels
from distill.run import Run
from distill.stages import RECORD, Stage, write_atomic
from reflux.redistill.rows import LogRows

FOLDER = "redistill"
LAST = "last.json"
ROWS = "rows"


class Redistillation(Run):
    """The stages that make the students `names` of a finished `run` anew, with the rows of the stage `rows`."""

    def __init__(self, run: Run, names: Sequence[str], rows: Stage) -> None:
        task = run.task.model_copy(update={"students": {name: run.task.students[name] for name in names}})
        super().__init__(task, run.root / FOLDER)
        self._run, self._rows = run, rows

    @cached_property
    def data(self) -> Stage:
        """The data of the task's run."""
        return self._run.data

    @cached_property
    def labels(self) -> Stage:
        """The soft labels of the task's run."""
        return self._run.labels

    @cached_property
    def finetuned_teacher(self) -> Stage | None:
        """The fine-tuned teacher of the task's run."""
        return self._run.finetuned_teacher

    @cached_property
    def label_inputs(self) -> dict[str, Any]:
        """What determines the soft labels: those of the task's run, and the rows of the log."""
        return {**self._run.label_inputs, "log": self._rows.fingerprint}

    @property
    def embeddings(self) -> Stage | None:
        """The teacher's embeddings of the task's run; rows of the log have none."""
        return self._run.embeddings

    @cached_property
    def log_rows(self) -> LogRows:
        """The rows of the log."""
        return LogRows.read(self._rows.path, len(self._run.splits().labels))

    def splits(self) -> Splits:
        """Return the splits of the task's run, with the rows of the log among those to train on."""
        splits, rows = self._run.splits(), self.log_rows
        train = splits.train
        none = (None,) * len(rows.texts)
        return replace(splits, train=Train(train.ids + rows.ids, train.texts + rows.texts, train.gold + none))

    def soft_labels(self) -> SoftLabels:
        """Return the soft labels of the task's run and of the log."""
        return self.log_rows.added_to(self._run.soft_labels())

    def weights(self, learn: Train) -> npt.NDArray[np.float64]:
        """Return the weights of `learn`, [N]: 1 for rows of the task, those of the log for its rows."""
        known = dict(zip(self.log_rows.ids, self.log_rows.weights.tolist(), strict=True))
        return np.array([known.get(name, 1.0) for name in learn.ids])


def rows_stage(run: Run, inputs: Mapping[str, Any]) -> Stage:
    """Return the stage of the rows that were taken under these circumstances."""
    return Stage(run.root / FOLDER / ROWS, inputs)


def unfinished(run: Run, inputs: Mapping[str, Any]) -> Stage | None:
    """Return the rows of a redistillation that did not end, if it has these `inputs` among its own; None otherwise."""
    path = run.root / FOLDER / ROWS
    try:
        stored = json.loads((path / RECORD).read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        return None
    stage = Stage(path, stored)
    fits = stage.done and all(stored.get(name) == value for name, value in inputs.items())
    return stage if fits and last(run).rows != stage.fingerprint else None


@dataclass(frozen=True)
class Last:
    """What is known of the last redistillation that ended; all None if there was none.

    `rows` is the fingerprint of its rows, `tried` the time of the newest of them, and `latest` of the newest that is
    used up, both in Unix seconds. Rows of a candidate about which nothing is certain are not used up: with more
    held-out texts another may pass. `candidate` is its version.
    """

    rows: str | None = None
    latest: float | None = None
    tried: float | None = None
    candidate: str | None = None

    def since(self, current: str) -> float | None:
        """Return since when rows are new while the version `current` is served.

        A candidate that is served although nothing was certain, after a canary, has used its rows up.
        """
        return self.tried if current == self.candidate else self.latest


def last(run: Run) -> Last:
    """Return what is known of the last redistillation that ended."""
    try:
        found = json.loads((run.root / FOLDER / LAST).read_text(encoding="utf-8"))
        latest = found["latest"]
        return Last(found["rows"], latest, found.get("tried", latest), found.get("candidate"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Last()


def remember(run: Run, ended: Last) -> None:
    """Remember that a redistillation has ended."""
    write_atomic(run.root / FOLDER / LAST, json.dumps(asdict(ended)) + "\n")
