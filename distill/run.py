"""A run: the folder of one task's stages, from data to trained students. What comes after them is `export.run`.

`data` → `teacher` (where it must be fitted) → `labels` → `students/NAME`. Each stage is skipped when nothing that
determines it has changed; answers of the teacher are kept in `answers.sqlite` for as long as the folder stands.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from pydantic import BaseModel

from distill import teachers
from distill.appraisal import (
    Appraised,
    Extra,
    gold_rows,
    label_and_appraise,
    rows_to_repeat,
    shared_with_fit,
    terms_of,
)
from distill.artifacts import Stage, file_digest, fingerprint, write_atomic
from distill.batchbook import Batchbook
from distill.cashbook import Cashbook, dollars
from distill.data import tickets
from distill.data.duplicates import clean
from distill.data.sources import read
from distill.data.splits import Examples, S, Test, Train, Validation, hold_out
from distill.data.sufficiency import Finding, examine, shared_with_test
from distill.errors import DataError, DistillError, StoppedError
from distill.forecast import Forecast
from distill.interrupts import interruptible
from distill.labelling import AnswerStore, Engine, answer
from distill.planning import Ledger, foresee, priced
from distill.progress import asking_bar, bar, console, status
from distill.sections import FileSource, TicketSource
from distill.soft_labels import SCHEMA, SoftLabels
from distill.task import TEACHER, Task
from distill.teachers import batches
from distill.teachers.causal import CausalConfig
from distill.teachers.local import Fit, LocalConfig
from distill.weights import display_name, weights_version

REPORT = "data.json"
LABELS = "labels.parquet"
ANSWERS = "answers.sqlite"
RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class Splits:
    """The data of a run as its stage left it, with the labels and the account of how it was made."""

    train: Train
    validation: Validation
    test: Test
    labels: tuple[str, ...]
    report: dict[str, Any]

    @property
    def findings(self) -> list[Finding]:
        """What was found wrong, or thin."""
        return [Finding(**finding) for finding in self.report["findings"]]


class Run:
    """The stages of a task under one folder."""

    def __init__(self, task: Task, root: Path) -> None:
        self.task = task
        self.root = root
        self._asked = 0

    @cached_property
    def data(self) -> Stage:
        """Rows read, cleaned and split."""
        task = self.task
        sources = [task.data.train, task.data.test, task.data.validation]
        if task.labels is None and (fit := _fit_section(task.teacher)):
            sources.append(fit.data)  # its gold labels are among the task's
        if task.labelling.calibration is not None:
            sources.append(task.labelling.calibration.data)
        inputs = {
            "data": task.data.model_dump(mode="json"),
            "labels": task.labels,
            "files": [_source_digest(source) for source in sources if not isinstance(source, float)],
        }
        return Stage(self.root / "data", inputs)

    @cached_property
    def fitted_teacher(self) -> Stage | None:
        """The teacher fine-tuned on gold labels, for a task that asks for it."""
        teacher = self.task.teacher
        if not isinstance(teacher, LocalConfig) or teacher.fit is None:
            return None
        inputs = {
            "teacher": teacher.model_dump(mode="json", exclude={"batch_size", "usd_per_hour"}),
            "weights": weights_version(teacher.model),
            "files": [_source_digest(teacher.fit.data)],
            "data": self.data.fingerprint,
        }
        return Stage(self.root / "teacher", inputs)

    @cached_property
    def learned_from(self) -> dict[str, Any]:
        """What determines the soft labels, and so what students learn."""
        fitted, calibration = self.fitted_teacher, self.task.labelling.calibration
        return {
            "schema": SCHEMA,
            "data": self.data.fingerprint,
            "teacher": fitted.fingerprint if fitted else _config_digest(self.task.teacher),
            "calibration": calibration and calibration.method,  # its rows are among those that determine the data
        }

    @cached_property
    def labels(self) -> Stage:
        """The teacher's soft labels for every split, and what was found out about it."""
        return Stage(self.root / "labels", {**self.learned_from, "twice": self.task.labelling.self_agreement})

    def student(self, name: str) -> Stage:
        """A trained student."""
        config = self.task.students[name]
        inputs = {
            "student": config.model_dump(mode="json"),
            # What determines the labels has the fingerprint of a fitted teacher in it.
            "weights": None if config.model == TEACHER else weights_version(config.model),
            "labels": fingerprint(self.learned_from),
        }
        return Stage(self.root / "students" / name, inputs)

    def make_data(self) -> Splits:
        """The data stage, made unless it is up to date. Raises DataError where the data has a problem."""
        self.data.ensure(self._write_data)
        return self.splits()

    def splits(self) -> Splits:
        """The data of the finished stage."""
        folder = self.data.require("check")
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return Splits(
            _read_split(folder / "train.parquet", Train),
            _read_split(folder / "validation.parquet", Validation),
            _read_split(folder / "test.parquet", Test),
            tuple(report["labels"]),
            report,
        )

    def make_teacher(self) -> None:
        """Fit the teacher, where the task asks for it and it is not up to date."""
        if self.fitted_teacher is not None:
            self.fitted_teacher.ensure(self._fit_teacher)

    def teacher_config(self) -> BaseModel:
        """What to ask: the teacher as configured, or the fitted one."""
        config = self.task.teacher
        if self.fitted_teacher is None or not isinstance(config, LocalConfig):
            return config
        return config.model_copy(
            update={
                "fit": None,
                "model": str(self.fitted_teacher.require("label")),
                "name": config.name or display_name(config.model),
            }
        )

    def make_labels(self, max_usd: float | None = None, *, batch: bool = False, workers: int = 0) -> SoftLabels:
        """The soft labels, asked for unless they are up to date. No text that was answered before is asked again.

        With `batch`, calls are made through the vendor's batch API; with `workers`, by so many of a Ray cluster. What
        calls cost in this run, now and before, does not exceed `max_usd`. Raises BudgetError when that is not enough,
        and StoppedError for Ctrl-C; what was answered is kept.
        """
        splits = self.splits()
        self.make_teacher()
        self.labels.ensure(lambda folder: self._write_labels(folder, splits, max_usd, batch, workers))
        return self.soft_labels()

    def forecast(self) -> list[str]:
        """What labels that are not there yet will cost and take, in lines. No call is made, and no model loaded."""
        splits = self.splits()
        kind = getattr(self.task.teacher, "kind", None)
        if not priced(teachers.teacher_class(kind)):
            return [f"a teacher of kind {kind} makes no calls that are paid for: labelling costs nothing"]
        texts = (*self._extra(splits).gold_texts, *_everything(splits).texts)
        return asyncio.run(self._foresee(texts, splits.labels)).lines()

    def labelling(self) -> str:
        """What came of labelling, in a line."""
        record = json.loads((self.labels.require("label") / RECORD).read_text(encoding="utf-8"))
        cut = f", {record['truncated']:,} cut to what the model reads" if "truncated" in record else ""
        return (
            f"{record['refused']:,} refused, {record['invalid']:,} invalid{cut}; {self._asked:,} asked now; "
            f"{dollars(record['spent_usd'])} spent on calls in all"
        )

    def soft_labels(self) -> SoftLabels:
        """The soft labels of the finished stage."""
        return SoftLabels.read(self.labels.require("label") / LABELS)

    def make_student(self, name: str) -> Path:
        """Train a student unless it is up to date. Gives its folder."""
        from distill.training import on_every_process

        self.labels.require("label")
        stage = self.student(name)
        return on_every_process(stage, lambda folder: self._train(folder, name))

    def _write_data(self, folder: Path) -> None:
        task = self.task
        pool = read(task.data.train, "train")
        test = read(task.data.test, "test")
        given = None if isinstance(task.data.validation, float) else read(task.data.validation, "validation")
        held = {"test": test} if given is None else {"validation": given, "test": test}
        with bar("comparing texts", len(pool) + sum(map(len, held.values()))) as advance:
            pool, cleaning = clean(pool, held, task.data.near_duplicate, advance)
        if not len(pool):
            raise DataError("train: every row duplicates a held-out row; check that train and test are different files")
        calibration = task.labelling.calibration
        gold = [] if calibration is None else [read(calibration.data, "gold")]
        labels = task.labels or _labels_of([pool, *held.values(), *gold], task.teacher)
        if given is None:
            train, validation = hold_out(pool, float(task.data.validation), task.data.seed)  # type: ignore[arg-type]
        else:
            train, validation = _cast(pool, Train), _cast(given, Validation)
        splits: dict[str, Examples] = {"train": train, "validation": validation, "test": _cast(test, Test)}
        if not len(validation):
            raise DataError("validation: no rows; raise data.validation or give it a source of its own")
        if len(set(ids := [name for split in splits.values() for name in split.ids])) < len(ids):
            raise DataError("an id stands in two splits; ids must differ across train, validation and test")
        findings = examine(splits, labels) + self._overlaps(splits["test"], given, labels)
        if problems := [finding.message for finding in findings if finding.level == "problem"]:
            raise DataError("; ".join(problems))
        for name, split in splits.items():
            _write_split(folder / f"{name}.parquet", split)
        report = {
            "labels": labels,
            "rows": {name: len(split) for name, split in splits.items()},
            "cleaning": asdict(cleaning),
            "findings": [asdict(finding) for finding in findings],
        }
        write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")

    def _overlaps(self, test: Examples, validation: Examples | None, labels: tuple[str, ...]) -> list[Finding]:
        """Texts of the test split that fit or calibrate the teacher, or choose the student too."""
        findings = [] if validation is None else shared_with_test("validation", validation, test)
        fit = _fit_section(self.task.teacher)
        fitted = None if fit is None else read(fit.data, "gold")
        if fitted is not None:
            findings += shared_with_test("teacher.fit.data", fitted, test)
        if (calibration := self.task.labelling.calibration) is not None:
            gold = gold_rows(calibration, labels)
            findings += shared_with_test("labelling.calibration.data", gold, test)
            findings += [] if fitted is None else shared_with_fit(gold, fitted)
        return findings

    def _fit_teacher(self, folder: Path) -> None:
        from distill.teachers.fit import fit

        config = self.task.teacher
        if not isinstance(config, LocalConfig) or config.fit is None:
            raise TypeError(f"a {type(config).__name__} is not fitted")
        teacher, record = fit(
            config.model,
            read(config.fit.data, "gold"),
            self.splits().labels,
            max_tokens=config.max_tokens,
            validation=config.fit.validation,
            optimisation=config.fit.optimisation,
        )
        teacher.save(folder)
        write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")

    def _write_labels(self, folder: Path, splits: Splits, max_usd: float | None, batch: bool, workers: int) -> None:
        with AnswerStore(self.root / ANSWERS) as store:
            book = Cashbook(store, max_usd)
            try:
                with self._engine(book, workers) as engine:
                    appraised = asyncio.run(self._ask(engine, store, book, splits, batch))
            except (KeyboardInterrupt, asyncio.CancelledError):
                raise StoppedError(
                    f"stopped: every answer so far is stored, and {dollars(book.spent)} are spent on calls in all; run "
                    "the command again to go on, and nothing is asked or paid for twice"
                ) from None
        labelled = appraised.labelling
        replace(labelled.soft, terms=terms_of(self.task.teacher)).write(folder / LABELS)
        record = {"asked": labelled.asked, "refused": labelled.refused, "invalid": labelled.invalid}
        record = {**record, "spent_usd": book.spent, **appraised.record}
        write_atomic(folder / RECORD, json.dumps(record, indent=2) + "\n")
        self._asked = labelled.asked

    def _extra(self, splits: Splits) -> Extra:
        """What to ask the teacher beside the pool."""
        section = self.task.labelling
        gold = None if section.calibration is None else gold_rows(section.calibration, splits.labels)
        order = rows_to_repeat(splits.validation, splits.train, self.task.data.seed)
        return Extra(section.calibration, gold, order, section.self_agreement)

    @contextmanager
    def _engine(self, book: Cashbook, workers: int) -> Iterator[Engine]:
        """Who asks the teacher: this process, or workers of a Ray cluster."""
        if not workers:
            yield answer
            return
        try:
            from distill.cluster.engine import RayEngine
        except ImportError as error:
            raise DistillError(f"--engine ray needs Ray ({error}): pip install 'reflux[ray]'") from error
        with RayEngine(self.teacher_config(), book, workers) as engine:
            yield engine

    async def _ask(self, engine: Engine, store: AnswerStore, book: Cashbook, splits: Splits, batch: bool) -> Appraised:
        teacher = teachers.create(self.teacher_config(), splits.labels, book)
        try:
            return await interruptible(
                self._appraise(teacher, engine, store, book, splits, batch),
                lambda: console.print("stopping after the calls in flight, as they are paid; Ctrl-C again drops them"),
            )
        finally:
            await book.close()
            await teacher.aclose()

    async def _appraise(
        self,
        teacher: teachers.Teacher,
        engine: Engine,
        store: AnswerStore,
        book: Cashbook,
        splits: Splits,
        batch: bool,
    ) -> Appraised:
        examples, extra = _everything(splits), self._extra(splits)
        spent = (lambda: dollars(book.spent)) if priced(teacher) else str
        if batch:
            with status(teacher.name) as told:
                new = [one for one in extra.questions(examples) if not store.has(teacher, *one)]
                await batches.fill(teacher, new, Batchbook(store, book), told=told)
        else:
            batches.refuse_open(teacher, Batchbook(store, book))
        with asking_bar(f"{teacher.name} labels the pool", len(examples) + extra.texts, spent) as shown:
            appraised = await label_and_appraise(
                teacher, examples, extra, store, advance=shown.advance, known=shown.known, engine=engine
            )
        cut = getattr(teacher, "truncated", 0) + getattr(engine, "truncated", 0)
        return replace(appraised, record={**appraised.record, "truncated": cut}) if cut else appraised

    async def _foresee(self, texts: tuple[str, ...], labels: tuple[str, ...]) -> Forecast:
        with AnswerStore(self.root / ANSWERS) as store:
            ledger = Ledger(Cashbook(store))
            teacher = teachers.create(self.task.teacher, labels, ledger)
            if not priced(teacher):
                raise TypeError(f"{teacher.name} cannot plan")
            try:
                with bar(f"{teacher.name} plans its calls", len(texts)) as advance:
                    return await foresee(teacher, texts, store, ledger, advance)
            finally:
                await teacher.aclose()

    def _train(self, folder: Path, name: str) -> None:
        from distill.students.distil import distil

        splits, soft = self.splits(), self.soft_labels()
        known = set(soft.ids)
        config = self.task.students[name]
        if config.model == TEACHER and self.fitted_teacher is not None:
            config = config.model_copy(update={"model": str(self.fitted_teacher.path)})
        distilled = distil(
            config,
            soft,
            _labelled(splits.train, known),
            _labelled(splits.validation, known),
            f"training {name}",
        )
        distilled.student.save(folder)
        write_atomic(folder / RECORD, json.dumps(distilled.record, indent=2) + "\n")


def _everything(splits: Splits) -> Examples:
    """All the texts that the teacher labels."""
    return _concatenate([splits.train, splits.validation, splits.test])


def _labelled(split: S, known: set[str]) -> S:
    """The rows of a split that the teacher answered with a label."""
    return split.take([row for row, name in enumerate(split.ids) if name in known])


def _labels_of(splits: list[Examples], teacher: BaseModel) -> tuple[str, ...]:
    """The labels that the data names, sorted. Raises DataError when it names fewer than two."""
    gold = {label for split in splits for label in split.gold if label is not None}
    if fit := _fit_section(teacher):
        gold |= {label for label in read(fit.data, "gold").gold if label is not None}
    if len(gold) < 2:
        raise DataError("the data names fewer than two gold labels; list the task's `labels`")
    return tuple(sorted(gold))


def _fit_section(teacher: BaseModel) -> Fit | None:
    """How the teacher is to be fitted, where it is."""
    return teacher.fit if isinstance(teacher, LocalConfig) else None


def _source_digest(source: FileSource | TicketSource) -> str:
    """What determines a source's rows."""
    if isinstance(source, TicketSource):
        folder = Path(tickets.__file__).parent
        code = [file_digest(file) for file in sorted(folder.glob("ticket*.py"))]
        return fingerprint([source.model_dump(), code])
    try:
        return fingerprint([source.model_dump(mode="json", exclude={"path"}), file_digest(source.path)])
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror or error}); correct the path") from error


def _config_digest(config: BaseModel) -> str:
    """What determines a configured teacher: its settings, and the content of the files they name."""
    files = [str(path) for path in _paths(config)]
    digests = [file_digest(Path(path)) for path in files if Path(path).is_file()]
    weights = list(_weights(config))
    manifests = [
        file_digest(Path(path) / "manifest.json") for path in files if (Path(path) / "manifest.json").is_file()
    ]
    return fingerprint([config.model_dump(mode="json"), digests, weights, manifests])


def _weights(value: Any) -> Iterator[str]:
    """What determines each model on this machine that a configuration names, those of an ensemble's members too."""
    if isinstance(value, LocalConfig):
        yield weights_version(value.model)
    elif isinstance(value, CausalConfig):
        yield value.weights()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _weights(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _weights(item)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, Path):
        yield value


def _cast(split: Examples, kind: type[S]) -> S:
    return kind(split.ids, split.texts, split.gold)


def _concatenate(splits: list[Examples]) -> Examples:
    return Examples(
        tuple(name for split in splits for name in split.ids),
        tuple(text for split in splits for text in split.texts),
        tuple(gold for split in splits for gold in split.gold),
    )


def _write_split(path: Path, split: Examples) -> None:
    table = pyarrow.table(
        {"id": list(split.ids), "text": list(split.texts), "gold": pyarrow.array(split.gold, pyarrow.string())}
    )
    pyarrow.parquet.write_table(table, path)


def _read_split(path: Path, kind: type[S]) -> S:
    columns = pyarrow.parquet.read_table(path).to_pydict()
    return kind(tuple(columns["id"]), tuple(columns["text"]), tuple(columns["gold"]))
