"""Train the served student anew on the task's rows and the shadow log's, and judge the candidate. Deploys nothing.

Of a cascade, every stage that is a student of the task is trained anew, and the cascade of the stages built again.

The log's texts are as they are stored, redacted: where people wrote an address the student reads `<EMAIL>`, as the
teacher did whose answers these are. Answers are taken only of the teacher that labelled the task, in that version.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.data.deduplicate import duplicates
from distill.labelling.soft_labels import SoftLabels
from distill.owned import OwnedFile
from distill.progress import bar
from distill.run import Run
from distill.stages import Stage
from distill.teachers.names import names_of, same_teacher, text_of
from export.build_cascade import JOINED
from export.bundle.anchors import read_anchors
from export.bundle.format import Bundle
from export.bundle.teacher import own_name
from export.cut_offs import NotCertifiedError
from export.delivery.transfer import push
from export.run import TEACHER, ExportRun, teacher_entry
from reflux.exit_codes import GateResult
from reflux.redistill.graphs import Graph, compared
from reflux.redistill.judgement import Judgement, judge
from reflux.redistill.report import MARKDOWN, write_report
from reflux.redistill.rows import LogRows
from reflux.redistill.run import FOLDER, ROWS, Last, Redistillation, last, remember, rows_stage, unfinished
from reflux.replay import ReplayError, replay
from service.shadow.outbox.answered import ShadowLog, read_log
from service.shadow.outbox.checks import Checks
from service.shadow.outbox.sql import Connection
from service.shadow.outbox.training_rows import TrainingLog, read_training_log
from service.shadow.settings import ShadowSettings
from service.shadow.teacher_record import TeacherRecord
from service.shadow.teacher_report import teacher_drift

Source = Callable[[], AbstractContextManager[Connection]]
"""Opens the log for reading, each time anew."""


class TeacherChangedError(ReplayError):
    """The log's teacher is not, or no longer, the one that the student learned from, so nothing is learned from it."""


@dataclass(frozen=True)
class Options:
    """How a candidate is made. `student` is the served one by default, or each stage of a cascade that is served.

    Fewer than `min_rows` new answers are nothing to do. `margin` is how much more often the candidate may disagree, in
    [0, 1]; texts older than `days` are left out, None: none. Unless it fails, the candidate is pushed to `target`.
    """

    min_rows: int
    margin: float
    student: str | None = None
    days: float | None = None
    target: str | None = None
    sign_key: Path | None = None


@dataclass(frozen=True)
class Redistilled:
    """A candidate, its judgement, the report about both, and its digest if it was pushed.

    `graphs` says what both graphs cost; `note` why the candidate is no cascade although the current bundle is one, and
    is None otherwise.
    """

    candidate: Bundle
    judged: Judgement
    report: Path
    digest: str | None
    graphs: str
    note: str | None


def redistill(run: Run, current: Bundle, source: Source, options: Options) -> Redistilled | str:
    """Make a candidate of the log that `source` opens, or return why there is nothing to do.

    `run` is the finished run of the task; what is written lies in its folder `redistill`. `current` is the bundle that
    is served. One that was interrupted goes on with the rows that it took.

    Raises TeacherChangedError, ReplayError if the bundle, the run and the log do not fit, OutboxError if the log cannot
    be read, and what training, export and push raise.
    """
    run.data.require("check")
    run.labels.require("label")
    soft = run.soft_labels()
    stages = _stages(run, current, options.student)
    _require_same(current, soft, run)
    since = 0.0 if options.days is None else max(datetime.now(UTC).timestamp() - options.days * 86400.0, 0.0)
    with _alone(run.root / FOLDER):
        with source() as connection:
            teachers = _teachers(run, soft)
            log = read_log(connection, current.manifest.version, since)
            _require_teacher(connection, log, current, teachers)
            training = read_training_log(connection, teachers, soft.labels, since)
        inputs = {"labels": run.labels.fingerprint, "teachers": teachers}
        rows = _rows(run, training, inputs, options.min_rows, current)
        if isinstance(rows, str):
            return rows
        again = Redistillation(run, [stage for stage in stages if isinstance(stage, str)], rows)
        candidate, note = _candidate(again, stages, None if options.student else current)
        replayed = replay(candidate, current, source(), margin=options.margin, days=options.days)
        judged = judge(run, candidate, current, replayed)
        folder = run.root / FOLDER / "report"
        facts = again.log_rows.facts
        graphs = Graph.of(candidate), Graph.of(current)
        write_report(folder, again.task, candidate, graphs, facts, judged, note)
        digest = None
        if options.target is not None and judged.gate is not GateResult.FAIL:
            digest = push(candidate.path, options.target, sign_key=options.sign_key).digest
        used = facts.since if judged.gate is GateResult.INCONCLUSIVE else facts.latest
        remember(run, Last(rows.fingerprint, used, facts.latest, candidate.manifest.version))
        shutil.rmtree(rows.path)  # the texts, which somebody may erase from the log
    return Redistilled(candidate, judged, folder / MARKDOWN, digest, compared(*graphs), note)


def _stages(run: Run, current: Bundle, given: str | None) -> list[str | Bundle]:
    """Return what the candidate consists of, the cheapest first: students to train, and stages to keep as they are.

    A stage that is no student of the task, such as one of another run, is kept. Raises ReplayError if none is one.
    """
    own = run.task.students
    bundles = [current.stage(stage) for stage in current.manifest.stages] or [current]
    names = [bundle.manifest.name for bundle in bundles] if given is None else [given]
    if not any(name in own for name in names):
        what = f"--student {given}" if given else f"{current.path} is {current.manifest.name}, and it"
        raise ReplayError(
            f"{what} is no student of the task, which has {', '.join(own)}; give one of them as --student"
        )
    if len(set(names)) < len(names):
        raise ReplayError(f"{current.path} has several stages of one name; give the student to train as --student")
    if given is not None:
        return [given]
    return [name if name in own else bundle for name, bundle in zip(names, bundles, strict=True)]


def _candidate(run: Run, stages: Sequence[str | Bundle], current: Bundle | None) -> tuple[Bundle, str | None]:
    """Train and export the students among `stages`, and make the cascade of all if that is what `current` is.

    The cascade keeps the margin that the current one promises, towards its last student or the teacher. Where the new
    students cannot keep it, the candidate is the last one alone, and a sentence says so. Raises NotCertifiedError if
    that one is not one of the new students.
    """
    exports, bundles = ExportRun(run), []
    for stage in stages:
        if isinstance(stage, str):
            run.make_student(stage)
        bundles.append(exports.make_bundle(stage) if isinstance(stage, str) else stage)
    if current is None or not current.manifest.stages:
        return bundles[0], None
    parts = [stage if isinstance(stage, str) else str(stage.path) for stage in stages]
    promised: dict[str, float | None] = {"margin": current.manifest.measured.get("margin")}
    if current.manifest.deferred_below is not None and (margin := promised.pop("margin")) is not None:
        promised = {"defer": 1 - margin}
    try:
        return exports.cascades.make(parts, run.root / "cascade", **promised)[0], None
    except NotCertifiedError as error:
        if not isinstance(stages[-1], str):
            raise
        joined = JOINED.join(bundle.manifest.name for bundle in bundles)
        return bundles[-1], f"the candidate is {stages[-1]} alone, since no cascade {joined} can be made: {error}"


def _require_same(current: Bundle, soft: SoftLabels, run: Run) -> None:
    """Raise ReplayError unless the served student learned the labels of this run from their teacher."""
    manifest = current.manifest
    learned = names_of(manifest.teacher)
    if not same_teacher(learned, names_of(teacher_entry(run, soft))):
        raise ReplayError(
            f"{current.path} learned from {text_of(learned[0])}, but the labels of {run.root} are of "
            f"{soft.teacher}@{soft.teacher_version}; give the bundle that is served, and the run that it came from"
        )
    if sorted(manifest.labels) != sorted(soft.labels) or manifest.multi_label:
        raise ReplayError(f"{current.path} has other labels than {run.root}; give the run that the bundle came from")


def _teachers(run: Run, soft: SoftLabels) -> list[str]:
    """Return the names under which a log has the teacher of the labels.

    They are its own, that of the teacher that it was exported from, and that of the bundle exported from it.
    """
    found = list(names_of(teacher_entry(run, soft)))
    if run.finetuned_teacher is not None and (stage := ExportRun(run).bundle_stage(TEACHER)).done:
        found.append(own_name(Bundle.open(stage.path).manifest))
    return [text_of(name) for name in found]


def _require_teacher(connection: Connection, log: ShadowLog, current: Bundle, teachers: list[str]) -> None:
    """Raise TeacherChangedError unless the log's teacher is one of these, and answers the anchors as it did."""
    if log.teacher not in teachers:
        raise TeacherChangedError(
            f"the log is answered by {log.teacher}, but the task's labels are of {teachers[0]}; label the task with "
            "the teacher of today (`reflux run`), serve that student, and redistil from its log"
        )
    record = TeacherRecord(ShadowSettings(), read_anchors(current), current.manifest.labels)
    record.load(Checks(log.bundle, log.teacher).load(connection))
    _, drifted = teacher_drift(record)
    if drifted is not None:
        raise TeacherChangedError(
            f"nothing is learned from a teacher that drifts. {drifted}. See docs/runbook.md; if the teacher is to stay "
            "as it is, label the task anew"
        )


def _rows(run: Run, log: TrainingLog, inputs: Mapping[str, object], least: int, current: Bundle) -> Stage | str:
    """Return the rows to learn from: those of a redistillation that did not end, or else of the log as it is now.

    Returns instead why there are too few.
    """
    if (kept := unfinished(run, inputs)) is not None:
        return kept
    shutil.rmtree(
        run.root / FOLDER / ROWS, ignore_errors=True
    )  # of one that was killed at its very end, or is obsolete
    before = last(run)
    since = before.since(current.manifest.version)
    if since != before.tried and not log.since(before.tried):
        return "no text was answered since the last candidate, about which nothing is certain"
    new = log.since(since)
    if new < least or not log.texts:
        told = "" if since is None else f" since {datetime.fromtimestamp(since, UTC):%Y-%m-%d %H:%M} UTC"
        erased = f"; {log.erased} more are erased, as REFLUX_SHADOW__STORE_TEXT is off" if log.erased else ""
        others = f"; {log.others} are of other teachers or labels" if log.others else ""
        return f"{new} new texts were answered{told}, and --min-rows is {least}{erased}{others}"
    splits = run.splits()
    held_out = {"validation": splits.validation, "test": splits.test}
    with bar("comparing texts", len(log.texts)) as advance:
        duplicate = np.array(duplicates(log.texts, held_out, run.task.data.near_duplicate, advance))
    stage = rows_stage(run, {**inputs, "latest": log.latest, "answers": len(log.texts)})
    stage.build(LogRows.of(log, duplicate, since).write)
    return stage


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made. Raises ReplayError while another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = OwnedFile(folder / "lock")
    try:
        lock.take()
    except BlockingIOError:
        raise ReplayError(f"{folder}: another `reflux redistill` is at work here; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()
