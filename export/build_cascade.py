"""Build a cascade from the bundles of a task's students: ask the stages, find the cut-offs, describe the whole.

The time of a stage is that of its manifest, measured when it was exported, as in the report beside it. Where the
teacher is the last stage, its answers are those of the validation rows, and it takes no time of this machine.

`cut_offs` has the statistics, `export.bundle.cascade` the format and the running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.data.splits import Validation, require
from distill.decision import Rule
from distill.errors import DistillError
from distill.progress import track
from distill.teachers.names import names_of, same_teacher, text_of
from export.build import Baseline, describe, library_versions
from export.bundle.cascade import Cascade, write_cascade
from export.bundle.classifier import Classifier
from export.bundle.format import CARD, Bundle, Manifest, cpu_features
from export.bundle.manifest_rules import CASCADE
from export.bundle.stages import TEACHER
from export.cut_offs import (
    LEVEL,
    MARGINS,
    CutOffs,
    NotCertifiedError,
    StageAnswers,
    find_cut_offs,
    margin_for,
    rows_needed,
)
from export.gates import Gate
from export.model_card import card

JOINED = "+"
"""What joins the names of stages to that of a cascade. No student has it in its name."""

CHEAPER = 0.5
"""A student is worth a stage if a text takes it at most this share of the next stage's time: it must pay for itself
with what it answers, and it reads every text that the next stage reads, too."""

WORTH = 0.7
"""A cascade is worth building by itself if it takes at most this share of its last stage's time per text. It holds the
graphs of all its stages in memory, and a text that is passed on waits longer: a saving below 30 % does not pay."""


HARDLY = 0.005
"""A stage that answers a smaller share of the texts than this, 0 % in a message, is not worth its time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The students of a cascade, the cheapest first, and the cut-offs that their answers to the validation texts give.

    The teacher answers after the last of them if `cut_offs.teacher_last`.
    """

    stages: tuple[Bundle, ...]
    cut_offs: CutOffs

    @property
    def name(self) -> str:
        """The name of the cascade: those of its stages, such as `static+encoder`."""
        return JOINED.join(self.answering)

    @property
    def answering(self) -> tuple[str, ...]:
        """The names of what answers: the students, and perhaps the teacher."""
        names = tuple(bundle.manifest.name for bundle in self.stages)
        return (*names, TEACHER) if self.cut_offs.teacher_last else names

    @property
    def share(self) -> float:
        """The expected time of a text, as a share of that of the last student."""
        return self.cut_offs.cost / self.cut_offs.last_cost

    @property
    def summary(self) -> str:
        """Say which stage answers how many texts, and what that saves."""
        shares = zip(self.answering, self.cut_offs.shares, strict=True)
        answered = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
        last = self.stages[-1].manifest.name
        return f"of the validation texts it answers by {answered}, in {100 * self.share:.0f} % of the time of {last}"


def stages_for(last: Bundle, others: Sequence[Bundle]) -> list[Bundle]:
    """Return the stages of the cascade that ends with `last`, the cheapest first: those of `others` that pay.

    A student pays if it takes at most half the time of the next stage. `last` alone is returned where none does.
    """
    stages = [last]
    for bundle in sorted(others, key=_milliseconds, reverse=True):
        if _milliseconds(bundle) <= CHEAPER * _milliseconds(stages[0]):
            stages.insert(0, bundle)
    return stages


def measure_stages(
    stages: Sequence[Bundle],
    baseline: Baseline,
    *,
    margin: float | None = None,
    defer: float | None = None,
    level: float = LEVEL,
) -> Measured:
    """Find the cut-offs of a cascade on the validation texts of `baseline`.

    `margin` is by how much its agreement with the teacher may be below that of the last stage; by default the smallest
    of `MARGINS` that so many rows can certify. With `defer`, the teacher answers after the last of `stages`, of which
    one is enough, and the whole agrees with it on at least this share of all requests.

    Raises NotCertifiedError when the rows are too few, or every text would be deferred, and DistillError for a margin
    and an agreement together or not in (0, 1), too few stages, the same one twice, a cascade or a teacher as one, and
    stages with other labels than the last one or with several labels per text.
    """
    validation = require(baseline.validation, Validation)
    _require_stages(stages, least=2 if defer is None else 1)
    margin = _margin(margin, defer, len(validation), level)
    classifiers = [Classifier.load(bundle) for bundle in stages]
    answers = []
    for bundle, classifier in zip(stages, classifiers, strict=True):
        name = f"asking {bundle.manifest.name}"
        given = [classifier.classify(text) for text in track(validation.texts, name, len(validation))]
        labels, scores = [answer.best for answer in given], [answer.score for answer in given]
        answers.append(StageAnswers(np.array(labels), np.array(scores), _milliseconds(bundle)))
    teacher = baseline.teacher.argmax(axis=1)
    if defer is not None:
        answers.append(StageAnswers(teacher, np.ones(len(teacher)), 0.0))
    found = find_cut_offs(answers, teacher, margin=margin, level=level, teacher_last=defer is not None)
    if defer is not None and found.shares[-1] == 1.0:
        raise NotCertifiedError(
            f"for {100 * defer:.6g} % agreement every text would be deferred to the teacher: the students are nowhere "
            "sure enough. Ask for less, or train a better student"
        )
    return Measured(tuple(stages), found)


def _margin(margin: float | None, defer: float | None, rows: int, level: float) -> float:
    """Return the margin to certify. Raises DistillError for one that makes no sense or that `rows` cannot certify."""
    if margin is not None and defer is not None:
        raise DistillError("a margin is kept towards the last student, and defer asks the teacher; give one of them")
    if defer is not None:
        if not 0 < defer < 1:
            raise DistillError(
                f"defer {defer:g}: must be more than 0 and less than 1; give the share of all requests on which to "
                "agree with the teacher, such as 0.99"
            )
        return round(1 - defer, 9)
    if margin is not None:
        if not 0 < margin < 1:
            raise DistillError(
                f"margin {margin:g}: must be more than 0 and less than 1; give a share such as 0.002, for 0.2 points "
                "of agreement"
            )
        return margin
    if (found := margin_for(rows, level)) is None:
        raise NotCertifiedError(
            f"{rows:,} validation rows certify no margin of {100 * MARGINS[-1]:g} points or less at "
            f"{100 * level:.0f} % if a single agreement is lost; {rows_needed(MARGINS[-1], level, 1):,} rows certify "
            f"{100 * MARGINS[-1]:g} points, and {rows_needed(MARGINS[0], level, 1):,} rows {100 * MARGINS[0]:g}. "
            "Add validation rows, or give cascade.margin"
        )
    return found


def find_cascade(
    stages: Sequence[Bundle],
    baseline: Baseline,
    margin: float | None = None,
    *,
    defer: float | None = None,
    always: bool = False,
) -> tuple[Measured | None, str]:
    """Return the measured stages if a cascade of them is worth building, else None; and why, in a sentence.

    With `always`, and with `defer`, it is worth building whatever it saves. It is never if no cut-off can be certified.
    """
    if len(stages) < 2 and defer is None:
        return None, f"no other student takes at most {100 * CHEAPER:.0f} % of the time of {stages[-1].manifest.name}"
    if any(bundle.manifest.multi_label for bundle in stages):
        return None, "a text has several labels"
    try:
        measured = measure_stages(stages, baseline, margin=margin, defer=defer)
    except NotCertifiedError as error:
        return None, str(error)
    if measured.share > WORTH and not always and defer is None:
        return None, f"{measured.summary}, and a cascade is built at {100 * WORTH:.0f} % or less"
    return measured, f"{measured.summary}. {measured.cut_offs.guarantee}"


def build_cascade(measured: Measured, path: Path, *, baseline: Baseline, decision: Rule | None = None) -> Bundle:
    """Write the cascade of measured stages at `path`, with the `decision` of the application if it has one.

    Its name is those of its stages, such as `static+encoder`.

    Its reference, golden texts, anchors and decision are about the answers of the whole to the validation texts of
    `baseline`. What is left to the teacher is no part of its bands and of its SLO: they are about students' answers.
    Raises BundleError for stages that do not fit together.
    """
    stages, found = measured.stages, measured.cut_offs
    last, validation = stages[-1].manifest, require(baseline.validation, Validation)
    name = measured.name
    classifiers = [Classifier.load(bundle) for bundle in stages]
    cut_offs, defer = (found.cut_offs[:-1], found.cut_offs[-1]) if found.teacher_last else (found.cut_offs, None)
    cascade = Cascade(classifiers, cut_offs, len(last.labels))
    answers = [cascade.classify(text) for text in track(validation.texts, f"asking {name}", len(validation))]
    described = describe(
        cascade,
        answers,
        name=name,
        labels=last.labels,
        baseline=baseline,
        unknown=any(classifier.tokenizer.unknown_id is not None for classifier in classifiers),
        decision=decision,
        kept=None if defer is None else [answer.stage < len(stages) - 1 or answer.score >= defer for answer in answers],
    )
    net = (found.losses - found.gains) / found.rows
    lost = f"agreement lost against {last.name} alone" if defer is None else "answered otherwise than by the teacher"
    gate = Gate(f"{lost}, on validation", net, found.margin, net < found.margin)
    manifest = Manifest(
        name=name,
        family=CASCADE,
        labels=last.labels,
        max_tokens=max(bundle.manifest.max_tokens for bundle in stages),
        variant=CASCADE,
        temperature=1.0,
        files={},
        teacher=last.teacher,
        gates={gate.name: asdict(gate)},
        measured={
            "milliseconds": found.cost,
            "milliseconds_by_variant": _times(stages),
            "rows": 1,
            "reason": measured.summary,
            "validation_rows": len(validation),
            "validation_agreement": 1 - described.reference.gap if defer is None else 1 - net,
            "bytes": sum(bundle.manifest.measured["bytes"] for bundle in stages),
            "shares": list(found.shares),
            "last_milliseconds": found.last_cost,
            "margin": found.margin,
            "guarantee": found.guarantee,
        },
        cpu=cpu_features(),
        libraries=library_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        truncation_side=last.truncation_side,
    )
    contents: dict[str, bytes | Path] = {
        **described.files,
        CARD: card(manifest, described.reference, decision, _lines(measured)).encode(),
    }
    return write_cascade(path, stages, cut_offs, contents, manifest, defer=defer)


def cascade_warnings(cascade: Manifest) -> list[str]:
    """Warn of what makes a cascade useless: a stage that answers hardly a text, and a whole slower than its last stage.

    Returns no warning for the manifest of another bundle.
    """
    found, names = cascade.measured, [stage.name.partition("-")[2] for stage in cascade.stages]
    warnings = [
        f"{cascade.name}: {name} answers {100 * share:.1f} % of the validation texts; leave this stage out"
        for name, share in zip(names, found.get("shares", ()), strict=False)
        if share < HARDLY
    ]
    if names and found["milliseconds"] > found["last_milliseconds"]:
        warnings.append(
            f"{cascade.name}: takes {found['milliseconds']:.3f} ms per text, {names[-1]} alone "
            f"{found['last_milliseconds']:.3f} ms; serve {names[-1]} alone"
        )
    return warnings


def teacher_warnings(stages: Sequence[Bundle]) -> list[str]:
    """Warn of stages of a cascade that learned from another teacher than the last one."""
    last = stages[-1].manifest
    known = names_of(last.teacher)
    return [
        f"{bundle.path}: learned from {text_of(names_of(bundle.manifest.teacher)[0])}, but {last.name} from "
        f"{text_of(known[0])}; what is guaranteed is about the answers of the task's teacher to its validation rows, "
        "and holds nonetheless"
        for bundle in stages[:-1]
        if not same_teacher(names_of(bundle.manifest.teacher), known)
    ]


def _lines(measured: Measured) -> list[str]:
    """Describe the stages and the guarantee for the card."""
    lines = []
    found = measured.cut_offs
    for bundle, cut_off, share in zip(measured.stages, (*found.cut_offs, None), found.shares, strict=False):
        answers = "every other text" if cut_off is None else f"a text with a score of {cut_off:.4f} or more"
        own = bundle.manifest
        seen = f"{100 * share:.1f} % of the validation texts"
        lines.append(f"- `{own.name}`, version {own.version}, answers {answers}: {seen}")
    if found.teacher_last:
        lines.append(f"- the teacher answers every other text: {100 * found.shares[-1]:.1f} % of the validation texts")
    return [*lines, f"- {found.guarantee}"]


def _require_stages(stages: Sequence[Bundle], *, least: int) -> None:
    if len(stages) < least:
        few = "two students or more, the cheapest first" if least > 1 else "a student before the teacher"
        raise DistillError(f"a cascade needs {few}")
    for bundle in stages:
        if bundle.manifest.stages:
            raise DistillError(f"{bundle.path}: is a cascade; name its stages one by one instead")
        if bundle.manifest.role != "student":
            raise DistillError(
                f"{bundle.path}: is the bundle of a teacher; a cascade is of students, and with defer the teacher "
                "itself answers last"
            )
        if bundle.manifest.multi_label:
            raise DistillError(f"{bundle.path}: multi-label; a cascade is of students that give one label per text")
        if bundle.manifest.labels != stages[-1].manifest.labels:
            raise DistillError(f"{bundle.path}: has other labels than {stages[-1].path}; take students of one task")
    versions = [bundle.manifest.version for bundle in stages]
    for place, version in enumerate(versions):
        if (first := versions.index(version)) < place:
            raise DistillError(
                f"{stages[place].path}: stages {first + 1} and {place + 1} have the same version, {version}, so that "
                "both give the same answers; name each stage once"
            )


def _times(stages: Sequence[Bundle]) -> dict[str, float]:
    """Return the milliseconds per text of each stage, by its name in answers and metrics."""
    return {f"{place}-{bundle.manifest.name}": _milliseconds(bundle) for place, bundle in enumerate(stages)}


def _milliseconds(bundle: Bundle) -> float:
    return float(bundle.manifest.measured["milliseconds"])
