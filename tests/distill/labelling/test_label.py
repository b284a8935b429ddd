"""Nothing is asked twice, nothing that was answered is lost, and what is no distribution never becomes a label."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from distill.data.splits import Examples
from distill.errors import DistillError
from distill.labelling.answer_store import AnswerStore, teacher_key, text_key
from distill.labelling.label import LabelledPool, ask_missing, label
from distill.teachers import Answer, TeacherError
from tests.support.disk import nearly_full
from tests.support.stub_teacher import StubTeacher

ROOT = Path(__file__).parents[3]
LABELS = ("a", "b", "c")


def distribution(text: str) -> np.ndarray:
    """A distribution that belongs to this text alone."""
    weights = np.array([1.0 + byte for byte in text_key(text).encode()[: len(LABELS)]], dtype=np.float32)
    return weights / weights.sum()


def right(texts: Sequence[str]) -> list[Answer]:
    return [Answer(distribution(text), "votes", 0.75, 0.25, len(text), 0.01, 0.5) for text in texts]


class Steps:
    """What a progress bar was told."""

    def __init__(self) -> None:
        self.answered: list[int] = []
        self.stored: list[int] = []
        self.advance, self.known = self.answered.append, self.stored.append


class Played(StubTeacher):
    """A teacher whose answers a test decides, and which remembers what it was asked."""

    name = "played"

    def __init__(self, play: Callable[[Sequence[str]], Any] = right, *, batch_size: int = 2, **other: Any) -> None:
        self.play, self.batch_size = play, batch_size
        self.concurrency = other.get("concurrency", 1)
        self.version = other.get("version", "1")
        self.labels = other.get("labels", LABELS)
        self.batches: list[list[str]] = []

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        self.batches.append(list(texts))
        answers = self.play(texts)
        return await answers if asyncio.iscoroutine(answers) else answers


def examples(*texts: str) -> Examples:
    return Examples(tuple(f"id-{row}" for row in range(len(texts))), texts, (None,) * len(texts))


def pool(count: int, start: int = 0) -> Examples:
    return examples(*(f"text {number}" for number in range(start, start + count)))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run" / "answers.sqlite"


async def labelled(path: Path, teacher: Any, rows: Examples, **options: Any) -> LabelledPool:
    """Label with a store of its own, as a process that starts anew would."""
    with AnswerStore(path) as store:
        return await label(teacher, rows, store, **options)


def stored(path: Path, teacher: Any) -> set[str]:
    """The keys of the texts whose answers are on disk, as a reader beside the process sees it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        rows = reader.execute("SELECT text FROM answers WHERE teacher = ?", (teacher_key(teacher),))
        return {key for (key,) in rows}


def keys(texts: Sequence[str]) -> set[str]:
    return {text_key(text) for text in texts}


async def test_every_row_gets_its_own_answer_with_its_provenance(path):
    rows = examples("short", "a longer text", "mid text")
    soft = (await labelled(path, Played(), rows)).soft
    assert (soft.ids, soft.texts, soft.labels) == (rows.ids, rows.texts, LABELS)
    np.testing.assert_array_equal(soft.probabilities, [distribution(text) for text in rows.texts])
    assert soft.methods == ("votes",) * 3
    assert soft.tokens.tolist() == [len(text) for text in rows.texts]
    assert (set(soft.covered), set(soft.tail), set(soft.cost_usd), set(soft.seconds)) == ({0.75}, {0.25}, {0.01}, {0.5})
    assert (soft.teacher, soft.teacher_version) == ("played", "1")


async def test_a_restart_asks_nothing_and_answers_the_same(path):
    first = await labelled(path, Played(), pool(7))
    teacher = Played()
    again = await labelled(path, teacher, pool(7))
    assert (first.asked, again.asked, teacher.asked) == (7, 0, [])
    np.testing.assert_array_equal(first.soft.probabilities, again.soft.probabilities)


async def test_a_pool_that_overlaps_asks_only_for_what_is_new(path):
    await labelled(path, Played(), pool(6))
    teacher = Played()
    result = await labelled(path, teacher, pool(6, start=4))
    assert set(teacher.asked) == {f"text {number}" for number in range(6, 10)}
    assert (result.asked, len(result.soft)) == (4, 6)


async def test_a_text_that_stands_there_twice_is_asked_once_and_labelled_twice(path):
    teacher = Played()
    result = await labelled(path, teacher, examples("same", "other", "same"))
    assert sorted(teacher.asked) == ["other", "same"]
    assert result.soft.texts == ("same", "other", "same")
    np.testing.assert_array_equal(result.soft.probabilities[0], result.soft.probabilities[2])


@pytest.mark.parametrize("other", [{"version": "2"}, {"labels": ("c", "b", "a")}])
async def test_another_teacher_is_asked_for_itself(path, other):
    await labelled(path, Played(), pool(3))
    teacher = Played(**other)
    await labelled(path, teacher, pool(3))
    assert len(teacher.asked) == 3
    again = Played()
    await labelled(path, again, pool(3))
    assert again.asked == []


async def test_batches_are_of_the_teachers_size_longest_texts_first(path):
    teacher = Played(batch_size=2)
    await labelled(path, teacher, examples("a", "ccc", "bb", "dddd", "eeeee"))
    assert teacher.batches == [["eeeee", "dddd"], ["ccc", "bb"], ["a"]]


async def test_an_answer_is_on_disk_before_the_next_question(path):
    def play(texts: Sequence[str]) -> list[Answer]:
        asked_before = [text for batch in teacher.batches[:-1] for text in batch]
        assert stored(path, teacher) == keys(asked_before)
        return right(texts)

    teacher = Played(play)
    await labelled(path, teacher, pool(5))
    assert len(teacher.batches) == 3


async def test_progress_counts_every_row_once_and_tells_those_apart_that_need_not_be_asked_for(path):
    await labelled(path, Played(), pool(3))
    steps = Steps()
    await labelled(path, Played(), examples(*pool(8).texts, "text 7", "text 0"), progress=steps)
    assert (sum(steps.answered), steps.stored) == (5, [5])  # three that were known, and two that repeat


# What is no label


@pytest.mark.parametrize(
    "probabilities",
    [
        None,
        np.array([0.5, 0.5]),
        np.array([0.25, 0.25, 0.25, 0.25]),
        np.array([[0.2, 0.3, 0.5]]),
        np.array([np.nan, 0.5, 0.5]),
        np.array([np.inf, 0.0, 0.0]),
        np.array([-0.2, 0.6, 0.6]),
        np.array([0.2, 0.2, 0.2]),
        np.zeros(3),
    ],
)
async def test_what_is_no_distribution_over_the_labels_is_invalid(path, probabilities):
    def play(texts: Sequence[str]) -> list[Answer]:
        bad = Answer(None if probabilities is None else probabilities.astype(np.float32), "local", cost_usd=2.0)
        return [bad if text == "bad" else right([text])[0] for text in texts]

    result = await labelled(path, Played(play), examples("fine", "bad", "bad"))
    assert result.soft.texts == ("fine",)
    assert (result.refused, result.invalid) == (0, 2)
    again = Played(play)
    assert (await labelled(path, again, examples("fine", "bad"))).invalid == 1
    assert again.asked == []  # it was paid for


async def test_refused_and_invalid_are_counted_and_never_labels(path):
    def play(texts: Sequence[str]) -> list[Answer]:
        return [
            Answer(distribution(text), "logprobs", outcome=cast(Any, text))
            if text in ("refused", "invalid")
            else right([text])[0]
            for text in texts
        ]

    rows = examples("refused", "ok 1", "invalid", "refused", "ok 2")
    result = await labelled(path, Played(play), rows)
    assert result.soft.texts == ("ok 1", "ok 2")
    assert result.soft.ids == ("id-1", "id-4")
    assert (result.refused, result.invalid) == (2, 1)


async def test_a_rejection_with_half_a_surrogate_pair_is_stored(path):
    def play(texts: Sequence[str]) -> list[Answer]:
        rejected = Answer(None, "logprobs", outcome="invalid", reason="no \ud83d!")
        return [rejected if text == "bad" else right([text])[0] for text in texts]

    assert (await labelled(path, Played(play), examples("fine", "bad"))).unlabelled == ("id-1 invalid: no ?!",)


async def test_a_teacher_that_labels_nothing_is_an_error(path):
    teacher = Played(lambda texts: [Answer(None, "logprobs", outcome="refused") for _ in texts])
    with pytest.raises(DistillError, match=r"played answered none of 3 texts with a label .*'refused': 3"):
        await labelled(path, teacher, pool(3))


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_teacher_that_returns_another_number_of_answers_is_an_error(path, count):
    def play(texts: Sequence[str]) -> list[Answer]:
        return right(texts) if len(teacher.batches) == 1 else (right(texts) * 2)[:count]

    teacher = Played(play)
    with pytest.raises(DistillError, match=f"played gave {count} answers for 2 texts"):
        await labelled(path, teacher, pool(6))
    assert stored(path, teacher) == keys(teacher.batches[0])


# A teacher that fails


async def test_what_was_answered_before_a_failure_is_kept(path):
    def play(texts: Sequence[str]) -> list[Answer]:
        if len(teacher.batches) == 3:
            raise TeacherError("quota used up", retryable=True)
        return right(texts)

    teacher = Played(play)
    with pytest.raises(TeacherError, match="quota used up"):
        await labelled(path, teacher, pool(10))
    assert stored(path, teacher) == keys([*teacher.batches[0], *teacher.batches[1]])
    again = Played()
    assert (await labelled(path, again, pool(10))).asked == 6
    assert not set(again.asked) & {*teacher.batches[0], *teacher.batches[1]}


async def test_answers_in_flight_when_the_teacher_fails_are_stored(path):
    failed, flying = asyncio.Event(), asyncio.Barrier(3)

    async def play(texts: Sequence[str]) -> list[Answer]:
        last = len(teacher.batches) == 3
        await flying.wait()
        if last:
            failed.set()
            raise TeacherError("quota used up")
        await failed.wait()
        for _ in range(10):
            await asyncio.sleep(0)  # well after the failure
        return right(texts)

    teacher = Played(play, concurrency=3)
    with pytest.raises(TeacherError, match="quota used up"):
        await labelled(path, teacher, pool(20))
    assert len(teacher.batches) == 3  # nothing was asked after the failure
    assert stored(path, teacher) == keys([*teacher.batches[0], *teacher.batches[1]])


async def test_concurrent_questions_share_the_pool(path):
    flying = asyncio.Barrier(4)

    async def play(texts: Sequence[str]) -> list[Answer]:
        await flying.wait()  # only four at once get on
        return right(texts)

    teacher = Played(play, concurrency=4)
    result = await labelled(path, teacher, pool(16))
    assert sorted(teacher.asked) == sorted(pool(16).texts)
    np.testing.assert_array_equal(result.soft.probabilities, [distribution(text) for text in pool(16).texts])


async def test_what_fails_first_is_what_is_told(path):
    flying = asyncio.Barrier(3)

    async def play(texts: Sequence[str]) -> list[Answer]:
        number = len(teacher.batches)
        await flying.wait()
        for _ in range(10 * (4 - number)):
            await asyncio.sleep(0)
        raise TeacherError(f"failure {number}")

    teacher = Played(play, concurrency=3)
    with pytest.raises(TeacherError, match="failure 3"):
        await labelled(path, teacher, pool(20))
    assert len(teacher.batches) == 3


async def test_a_pool_that_fails_is_told_and_what_was_asked_before_is_stored(path):
    def texts() -> Iterator[str]:
        yield from pool(64).texts
        raise DistillError("the file ends in the middle")

    teacher = Played(batch_size=2)
    with AnswerStore(path) as store, pytest.raises(DistillError, match="ends in the middle"):
        await ask_missing(teacher, texts(), store)
    assert stored(path, teacher) == keys(teacher.asked)


# Being stopped


@dataclass
class Held:
    """A teacher's play that goes on when it is released, and says when so many are in it."""

    flying: asyncio.Barrier
    released: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: int = 0

    async def __call__(self, texts: Sequence[str]) -> list[Answer]:
        await self.flying.wait()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return right(texts)


async def test_what_is_in_flight_when_labelling_is_cancelled_is_waited_for_and_stored(path):
    play = Held(asyncio.Barrier(4))
    teacher = Played(play, concurrency=3)
    with AnswerStore(path) as store:
        asking = asyncio.create_task(ask_missing(teacher, pool(20).texts, store))
        await play.flying.wait()
        asking.cancel()
        await asyncio.sleep(0)
        assert not asking.done()
        play.released.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert len(teacher.batches) == 3
    assert stored(path, teacher) == keys(teacher.asked)


class Waiting(Played):
    """A teacher whose server wants to be left alone."""

    def __init__(self) -> None:
        super().__init__(self.wait, concurrency=2)
        self.stopped = asyncio.Event()
        self.stop = self.stopped.set

    async def wait(self, texts: Sequence[str]) -> list[Answer]:
        await self.stopped.wait()
        raise TeacherError("stopped")


async def test_labelling_that_is_cancelled_does_not_wait_for_a_server_that_asked_to_be_left_alone(path):
    teacher = Waiting()
    with AnswerStore(path) as store:
        asking = asyncio.create_task(ask_missing(teacher, pool(20).texts, store))
        while len(teacher.batches) < 2:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert len(teacher.batches) == 2


async def test_labelling_that_fails_does_not_wait_for_such_a_server_either(path):
    class Late(Waiting):
        async def wait(self, texts: Sequence[str]) -> list[Answer]:
            if len(self.batches) == 2:
                raise TeacherError("out of money")
            return await super().wait(texts)

    with AnswerStore(path) as store:
        with pytest.raises(TeacherError, match="out of money"):
            await ask_missing(Late(), pool(20).texts, store)


async def test_labelling_that_is_cancelled_twice_gives_up_what_is_in_flight(path):
    play = Held(asyncio.Barrier(4))
    teacher = Played(play, concurrency=3)
    with AnswerStore(path) as store:
        asking = asyncio.create_task(ask_missing(teacher, pool(20).texts, store))
        await play.flying.wait()
        asking.cancel()
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)
    assert play.given_up == 3
    assert stored(path, teacher) == set()


async def test_texts_are_taken_as_they_are_asked_for(path):
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for text in pool(5000).texts:
            taken += 1
            yield text

    play = Held(asyncio.Barrier(3))
    teacher = Played(play, concurrency=2, batch_size=2)
    with AnswerStore(path) as store:
        asking = asyncio.create_task(ask_missing(teacher, texts(), store))
        await play.flying.wait()
        assert taken < 1000
        asking.cancel()
        play.released.set()
        with pytest.raises(asyncio.CancelledError):
            await asking


# A disk that fails


async def test_a_full_disk_is_told_and_loses_nothing(path):
    teacher = Played(batch_size=20)
    with AnswerStore(path) as store:
        await label(teacher, pool(40), store)
        with nearly_full(path):
            with pytest.raises(DistillError, match=r"answers\.sqlite: answers could not be stored .*make room"):
                await label(teacher, pool(4000), store)
        kept = stored(path, teacher)
        assert keys(pool(40).texts) <= kept
        result = await label(teacher, pool(100), store)
    assert len(result.soft) == 100
    assert kept <= stored(path, teacher)
    np.testing.assert_array_equal(result.soft.probabilities, [distribution(text) for text in pool(100).texts])


async def test_a_store_that_may_not_be_written_is_told():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.sqlite"
        await labelled(path, Played(), pool(3))
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)  # root may write everything
            with pytest.raises(DistillError, match=r"the store of answers cannot be opened .*denied.*make it writable"):
                AnswerStore(path)
        finally:
            if root:
                os.seteuid(0)
            Path(folder).chmod(0o755)
            path.chmod(0o644)
        assert stored(path, Played()) == keys(pool(3).texts)


def test_a_store_that_is_something_else_is_left_alone(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, but a file of some length" * 100)
    with pytest.raises(DistillError, match=r"answers\.sqlite: the store of answers cannot be opened .*move it away"):
        AnswerStore(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_store_in_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DistillError, match="cannot be opened"):
        AnswerStore(tmp_path / "file" / "answers.sqlite")


# A process that is killed


HARNESS = """
import asyncio, json, os, signal, sqlite3, sys
from pathlib import Path

import numpy as np

from distill.data.splits import Examples
from distill.labelling.answer_store import AnswerStore, teacher_key, text_key
from distill.labelling.label import label
from distill.teachers import Answer

path, moments = Path(sys.argv[1]), json.loads(sys.argv[2])
texts = tuple(f"text {number}" for number in range(150))
pool = Examples(texts, texts, (None,) * len(texts))


class Teacher:
    name, version, labels, batch_size, concurrency = "counting", "1", ("a", "b"), 2, 1

    def __init__(self, told=None):
        self.told = told

    async def ask(self, batch, repeat=0):
        os.write(self.told, "".join(f"{text}\\n" for text in batch).encode())
        return [Answer(np.array([len(text) / 16, 1 - len(text) / 16], np.float32), "local") for text in batch]


def known():
    if not path.exists():
        return []
    reader = sqlite3.connect(path)
    return sorted(key for (key,) in reader.execute("SELECT text FROM answers"))


for moment in [*moments, None]:
    before = known()
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        with AnswerStore(path) as store:
            result = asyncio.run(label(Teacher(tells), pool, store))
        os._exit(0 if result.soft.probabilities[:, 0].tolist() == [len(text) / 16 for text in texts] else 1)
    os.close(tells)
    with os.fdopen(told) as lines:
        asked = [line.strip() for _, line in zip(range(moment), lines)] if moment else []
        if moment:
            os.kill(child, signal.SIGKILL)
        asked += [line.strip() for line in lines]
    _, status = os.waitpid(child, 0)
    print(json.dumps({
        "before": before, "asked": [text_key(text) for text in asked], "after": known(),
        "status": os.waitstatus_to_exitcode(status),
    }))
"""


def test_a_killed_process_loses_no_stored_answer_and_asks_for_none_again(path):
    generator = random.Random(4)
    moments = [generator.randint(1, 30) for _ in range(8)]
    out = subprocess.run(
        [sys.executable, "-c", HARNESS, str(path), json.dumps(moments)], cwd=ROOT, check=True, capture_output=True
    )
    *killed, finished = [json.loads(line) for line in out.stdout.splitlines()]
    assert any(life["status"] == -9 for life in killed)
    for life in [*killed, finished]:
        before, asked, after = set(life["before"]), life["asked"], set(life["after"])
        assert before <= after
        assert not before & set(asked)
        assert len(asked) == len(set(asked))
        assert after == before | (after & set(asked))
        assert len(set(asked) - after) <= 2  # the batch in flight
    assert finished["status"] == 0
    assert len(finished["after"]) == 150
