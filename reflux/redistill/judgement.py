"""The decision on a candidate: its gap less that of the current bundle, on the log and on the task's test split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.labelling.soft_labels import SoftLabels
from distill.run import Run
from export.bundle.format import Bundle
from reflux.exit_codes import GateResult
from reflux.replay import Replayed, best_labels
from service.monitor.paired import PairedDifference, paired_difference


@dataclass(frozen=True)
class Judgement:
    """The gate of a candidate, in a sentence too, from the log's held-out texts and the task's test split."""

    gate: GateResult
    message: str
    log: Replayed
    test: PairedDifference | None
    test_rows: int


def judge(run: Run, candidate: Bundle, current: Bundle, log: Replayed) -> Judgement:
    """Judge by what both bundles say of texts that neither learned from.

    The log decides, which is of the traffic; a candidate that is certainly worse on the test split fails all the same,
    for it has lost what the task is about.
    """
    test, rows = _on_test(run.soft_labels(), run, candidate, current)
    if test is not None and test.lower > log.margin:
        worse = f"{100 * test.difference:+.2f} points [{100 * test.lower:+.2f}, {100 * test.upper:+.2f}]"
        return Judgement(
            GateResult.FAIL,
            f"on the task's test split the candidate's gap differs by {worse}; {log.message}",
            log,
            test,
            rows,
        )
    return Judgement(log.gate, log.message, log, test, rows)


def _on_test(soft: SoftLabels, run: Run, candidate: Bundle, current: Bundle) -> tuple[PairedDifference | None, int]:
    """Return the difference on the labelled rows of the test split, and their number."""
    known, test = set(soft.ids), run.splits().test
    rows = test.take([row for row, name in enumerate(test.ids) if name in known])
    if not len(rows):
        return None, 0
    teacher = np.array(soft.labels)[soft.hard[soft.rows_of(rows.ids)]]
    wrong = [best_labels(bundle, rows.texts) != teacher for bundle in (candidate, current)]
    ones = np.ones(len(rows))
    found = paired_difference(np.array([float(len(rows))]), np.zeros(len(rows), dtype=np.intp), ones, *wrong)
    return found, len(rows)
