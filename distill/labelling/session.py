"""A labelling session: ask a task's teacher within a budget, in this process or on a Ray cluster, and show progress.

`distill.labelling.audit` says which texts are asked and what is computed from the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from distill import teachers
from distill.data.deduplicate import duplicates
from distill.data.prepared import Splits
from distill.data.splits import Examples, Train, join
from distill.errors import DistillError, StoppedError
from distill.labelling.account import StoredAccount, dollars
from distill.labelling.answer_store import AnswerStore
from distill.labelling.audit import Audited, AuditTexts, gold_rows, label_and_audit, rows_to_repeat
from distill.labelling.batch_account import StoredBatchAccount
from distill.labelling.dry_run import DryRunAccount, Stored, dry_run, priced
from distill.labelling.forecast import Forecast, lines_of
from distill.labelling.interrupts import interruptible, run_async
from distill.labelling.label import Engine, ask_missing, naming_rows
from distill.labelling.paraphrases import PaidParaphrases, foreseen, make_paraphraser, write_paraphrases
from distill.progress import bar, console, labelling_bar, status
from distill.task import Task
from distill.teachers import Teacher
from distill.teachers.api.teacher import Calling
from distill.teachers.batch import runner
from distill.teachers.prompting.paraphrases import Written

_MOST_NAMED = 3  # rows without a label that the message about them names


@dataclass(frozen=True, slots=True)
class LabellingOptions:
    """`max_usd` limits what all calls of a run cost, earlier ones included; None is no limit.

    With `batch`, calls go through the vendor's batch API. With `workers` above 0, that many workers of a Ray cluster
    make the calls.
    """

    max_usd: float | None = None
    batch: bool = False
    workers: int = 0


@dataclass(frozen=True, slots=True)
class LabellingSession:
    """Asks the teacher that `config` describes about the texts of `splits`, and stores the answers at `path`."""

    task: Task
    config: BaseModel
    splits: Splits
    path: Path

    def ask(self, options: LabellingOptions) -> Audited:
        """Ask about every text that has no stored answer, audit the answers, and record what was spent.

        Raises BudgetError when `max_usd` is too little and StoppedError on Ctrl-C; the answers so far stay stored.
        """
        with AnswerStore(self.path) as store:
            account = StoredAccount(store, options.max_usd)
            try:
                with self._engine(account, options.workers) as engine:
                    audited = run_async(self._ask(engine, store, account, options.batch))
            except (KeyboardInterrupt, asyncio.CancelledError):
                raise StoppedError(
                    f"stopped: every answer so far is stored, and {dollars(account.spent)} are spent on calls in all; "
                    "run the command again to go on, and nothing is asked or paid for twice"
                ) from None
        return replace(audited, record={"spent_usd": account.spent, **audited.record})

    def forecast(self) -> list[str]:
        """Return lines that say what the missing answers will cost and how long they take, without making a call."""
        kind = getattr(self.config, "kind", None)
        if not priced(teachers.teacher_class(kind)):
            return [f"a teacher of kind {kind} makes no paid calls: labelling costs nothing"]
        return lines_of(run_async(self._dry_run()))

    def _pool(self, paraphrases: Sequence[Sequence[str]] = ()) -> tuple[Examples, Train]:
        """The texts that students are trained on, chosen by and judged on, and the rows of paraphrases among them.

        They are those of the data, then views of them, then the `paraphrases` of each text to train on, if any, without
        those that nearly equal a text that chooses or judges.
        """
        views = self.splits.views(self.task.labelling.views)
        rows = self.splits.paraphrases(paraphrases or [()] * len(self.splits.train), views)
        held_out = {"validation": self.splits.validation, "test": self.splits.test}
        leaked = duplicates(rows.texts, held_out, self.task.data.near_duplicate) if len(rows) else []
        rows = rows.take([row for row, leaks in enumerate(leaked) if not leaks])
        return join(self.splits.everything, views, rows), rows

    @property
    def _audit_texts(self) -> AuditTexts:
        """The texts to ask about besides the pool."""
        section = self.task.labelling
        gold = None if section.calibration is None else gold_rows(section.calibration, self.splits.labels)
        order = rows_to_repeat(self.splits.validation, self.splits.train, self.task.data.seed)
        return AuditTexts(section.calibration, gold, order, section.self_agreement)

    @contextmanager
    def _engine(self, account: StoredAccount, workers: int) -> Iterator[Engine]:
        """Give the engine that asks the teacher: this process, or workers of a Ray cluster."""
        if not workers:
            yield ask_missing
            return
        try:
            from distill.labelling.ray.engine import RayEngine
        except ImportError as error:
            raise DistillError(f"--engine ray needs Ray ({error}): pip install 'reflux[ray]'") from error
        with RayEngine(self.config, account, workers) as engine:
            yield engine

    async def _ask(self, engine: Engine, store: AnswerStore, account: StoredAccount, batch: bool) -> Audited:
        with status("loading the teacher"):
            teacher = teachers.create(self.config, self.splits.labels, account)
        try:
            return await interruptible(
                self._ask_and_audit(teacher, engine, store, account, batch),
                lambda: console.print("stopping after the calls in flight, which cost money; Ctrl-C again drops them"),
            )
        finally:
            await account.close()
            await teacher.aclose()

    async def _ask_and_audit(
        self, teacher: Teacher, engine: Engine, store: AnswerStore, account: StoredAccount, batch: bool
    ) -> Audited:
        spent = (lambda: dollars(account.spent)) if priced(teacher) else str
        written = await self._write_paraphrases(teacher, store, account, spent, batch)
        pool, new = self._pool([one.texts for one in written or ()])
        extra = self._audit_texts
        if batch:
            with status(teacher.name) as report:
                lacking = [one for one in extra.questions(pool) if not store.has(teacher, *one)]
                with naming_rows(pool):
                    await runner.make_calls(teacher, lacking, StoredBatchAccount(store, account), notify=report)
        else:
            runner.refuse_open(teacher, StoredBatchAccount(store, account))
        with labelling_bar(f"{teacher.name} labels the pool", len(pool) + extra.count, spent) as progress:
            audited = await label_and_audit(teacher, pool, extra, store, progress, engine)
        labelled = audited.labelling
        if labelled.unlabelled:
            count, shown_rows = labelled.refused + labelled.invalid, "; ".join(labelled.unlabelled[:_MOST_NAMED])
            more = "; …" if count > _MOST_NAMED else ""
            message = f"{count:,} of {len(pool):,} rows have no label: {shown_rows}{more}"
            console.print(message, markup=False, highlight=False, soft_wrap=True)
        record = dict(audited.record)
        if cut := getattr(teacher, "truncated", 0) + getattr(engine, "truncated", 0):
            record["truncated"] = cut
        if written is not None:
            without = sum(not one.texts for one in written)
            total = sum(len(one.texts) for one in written)
            record["paraphrases"] = {"texts": len(written), "without": without, "written": total, "new": len(new)}
        return replace(audited, record=record)

    async def _write_paraphrases(
        self, teacher: Teacher, store: AnswerStore, account: StoredAccount, spent: Callable[[], str], batch: bool
    ) -> list[Written] | None:
        """Return the paraphrases of each text to train on, or None if the task asks for none."""
        section, train = self.task.labelling.paraphrases, self.splits.train
        if section is None:
            return None
        paraphraser = make_paraphraser(teacher, section.per_text)
        try:
            batches = StoredBatchAccount(store, account)
            with naming_rows(train):
                if batch:
                    calls = [(text, 0) for text in train.texts]
                    with status(paraphraser.name) as report:
                        await runner.make_calls(paraphraser, calls, batches, notify=report)
                else:
                    runner.refuse_open(paraphraser, batches)
                with labelling_bar(f"{paraphraser.name} writes", len(set(train.texts)), spent) as progress:
                    return await write_paraphrases(paraphraser, train.texts, progress)
        finally:
            await paraphraser.aclose()

    async def _dry_run(self) -> list[Forecast]:
        """Forecast the writing of paraphrases, if the task asks for some, and the labelling."""
        section, train = self.task.labelling.paraphrases, self.splits.train
        with AnswerStore(self.path) as store:
            account = DryRunAccount(StoredAccount(store))
            with status("loading the teacher"):
                teacher = teachers.create(self.config, self.splits.labels, account)
            if not priced(teacher):
                raise TypeError(f"{teacher.name} does not list its calls")
            try:
                if section is None:
                    return [await _foresee(teacher, self._audit_texts.questions(self._pool()[0]), store, account)]
                paraphraser = make_paraphraser(teacher, section.per_text)
                try:
                    calls = [(text, 0) for text in train.texts]
                    writing = await _foresee(paraphraser, calls, PaidParaphrases(paraphraser, store), account)
                    written = await foreseen(paraphraser, train.texts)
                finally:
                    await paraphraser.aclose()
                questions = self._audit_texts.questions(self._pool(written)[0])
                return [writing, await _foresee(teacher, questions, store, account)]
            finally:
                await teacher.aclose()


async def _foresee(
    teacher: Calling, questions: Sequence[tuple[str, int]], store: Stored, account: DryRunAccount
) -> Forecast:
    with bar(f"{teacher.name} counts the calls to make", len(questions)) as advance:
        return await dry_run(teacher, questions, store, account, advance)
