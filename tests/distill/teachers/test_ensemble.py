"""An ensemble says the weighted mean of what its members say, of those that answered, and what all of it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distill.errors import TaskError
from distill.run import Run
from distill.task import load_task
from distill.teachers import Answer, TeacherError, create
from distill.teachers.account import NoAccount
from distill.teachers.ensemble import EnsembleConfig, EnsembleTeacher
from tests.support.stub_teacher import StubTeacher

LABELS = ("billing", "shipping")


def says(*probabilities: float, **more: Any) -> Callable[[str], Answer]:
    answer = Answer(np.array(probabilities, dtype=np.float32), "local", **more)
    return lambda text: answer


def declines(outcome: Any, **more: Any) -> Callable[[str], Answer]:
    return lambda text: Answer(None, "logprobs", outcome=outcome, **more)


@dataclass
class Stub(StubTeacher):
    """A teacher that answers by a function, and remembers how it was asked."""

    answer: Callable[[str], Answer]
    name: str = "stub"
    version: str = "1"
    batch_size: int = 4
    concurrency: int = 1
    labels: tuple[str, ...] = LABELS
    batches: list[list[str]] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    now: int = 0
    most: int = 0
    started: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Sequence[Answer]:
        self.batches.append(list(texts))
        self.repeats.append(repeat)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.started()
        self.now -= 1
        return [self.answer(text) for text in texts]


def ensemble(*members: Stub, weights: Sequence[float] = (), **settings: Any) -> EnsembleTeacher:
    given = weights or [1.0] * len(members)
    config = EnsembleConfig(
        members=[{"weight": weight, "teacher": {"kind": "local", "model": "m"}} for weight in given], **settings
    )
    return EnsembleTeacher(config, LABELS, members)


async def test_the_mean_is_weighted_and_what_it_took_is_added_up() -> None:
    asked = ensemble(
        Stub(says(0.9, 0.1, covered=1.0, tail=0.0, tokens=10, cost_usd=0.5, seconds=2.0)),
        Stub(says(0.3, 0.7, covered=0.4, tail=0.3, tokens=5, cost_usd=0.25, seconds=3.0)),
        weights=(2, 1),
    )
    (answer,) = await asked.ask(["hello"])
    assert answer.probabilities == pytest.approx([0.7, 0.3])
    assert answer.probabilities.dtype == np.float32
    assert (answer.method, answer.outcome) == ("ensemble", "ok")
    assert answer.covered == pytest.approx((2 * 1.0 + 0.4) / 3)
    assert answer.tail == pytest.approx(0.1)
    assert (answer.tokens, answer.cost_usd, answer.seconds) == (15, 0.75, 3.0)


async def test_answers_keep_the_order_of_the_texts() -> None:
    def first_letter(text: str) -> Answer:
        return Answer(np.array([1, 0] if text < "m" else [0, 1], dtype=np.float32), "local")

    texts = ["z", "a", "y", "b", "x"]
    asked = ensemble(Stub(first_letter, batch_size=2), Stub(first_letter, batch_size=1, concurrency=3))
    found = [int(answer.probabilities.argmax()) for answer in await asked.ask(texts)]
    assert found == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("outcomes", "quorum", "expected"),
    [
        (("refused", "ok"), 1.0, "refused"),
        (("invalid", "ok"), 1.0, "invalid"),
        (("invalid", "refused"), 0.1, "refused"),
        (("ok", "refused"), 0.75, "ok"),  # three quarters of the weight are enough
        (("refused", "ok"), 0.75, "refused"),
    ],
)
async def test_below_the_quorum_there_is_no_label(outcomes, quorum, expected) -> None:
    members = [
        Stub(says(0.8, 0.2, cost_usd=1.0) if outcome == "ok" else declines(outcome, cost_usd=1.0, tokens=3))
        for outcome in outcomes
    ]
    (answer,) = await ensemble(*members, weights=(3, 1), quorum=quorum).ask(["hello"])
    assert answer.outcome == expected
    assert (answer.probabilities is None) == (expected != "ok")
    assert answer.cost_usd == 2.0


async def test_those_that_answered_make_up_the_whole_and_covered_says_how_much_did() -> None:
    asked = ensemble(Stub(says(0.8, 0.2, covered=0.9)), Stub(declines("refused")), weights=(3, 1), quorum=0.5)
    (answer,) = await asked.ask(["hello"])
    assert answer.probabilities == pytest.approx([0.8, 0.2])
    assert answer.covered == pytest.approx(0.75 * 0.9)


async def test_all_weights_answering_are_a_full_quorum_however_they_add_up() -> None:
    members = [Stub(says(0.5, 0.5)) for _ in range(10)]
    (answer,) = await ensemble(*members, weights=[0.1] * 10).ask(["hello"])
    assert answer.outcome == "ok"


async def test_members_are_asked_at_the_same_time_each_as_it_takes_best() -> None:
    barrier = asyncio.Barrier(2)
    many = Stub(says(1, 0), batch_size=4, concurrency=1, started=barrier.wait)
    single = Stub(says(1, 0), batch_size=1, concurrency=2, started=lambda: asyncio.sleep(0))
    meets = Stub(says(1, 0), batch_size=4, concurrency=1, started=barrier.wait)  # neither goes on without the other
    asked = ensemble(many, single, meets)
    assert (asked.batch_size, asked.concurrency) == (4, 1)
    async with asyncio.timeout(30):
        await asked.ask(["a", "b", "c", "d", "e", "f"], repeat=2)
    assert many.batches == [["a", "b", "c", "d"], ["e", "f"]]
    assert many.most == 1
    assert sorted(map(len, single.batches)) == [1] * 6
    assert single.most == 2
    assert {*many.repeats, *single.repeats} == {2}


async def test_several_calls_at_once_do_not_overrun_a_member() -> None:
    local, api = Stub(says(1, 0), batch_size=2), Stub(says(1, 0), batch_size=1, concurrency=8)
    asked = ensemble(local, api)
    assert (asked.batch_size, asked.concurrency) == (2, 4)
    await asyncio.gather(*(asked.ask(["a", "b"]) for _ in range(asked.concurrency)))
    assert local.most == 1
    assert api.most == 8


async def test_a_member_that_fails_is_heard_after_the_others_are_done() -> None:
    async def fail() -> None:
        raise TeacherError("the key is wrong")

    slow = asyncio.Event()

    async def finish() -> None:
        await asyncio.sleep(0)
        slow.set()

    asked = ensemble(Stub(says(1, 0), started=fail), Stub(says(1, 0), started=finish))
    with pytest.raises(TeacherError, match="the key is wrong"):
        await asked.ask(["a"])
    assert slow.is_set()


async def test_a_member_that_leaves_out_an_answer_is_named() -> None:
    lazy = Stub(says(1, 0), name="lazy")
    lazy.ask = lambda texts, repeat=0: asyncio.sleep(0, [])  # type: ignore[method-assign]
    with pytest.raises(TeacherError, match="lazy gave 0 answers for 2 texts"):
        await ensemble(lazy, Stub(says(1, 0))).ask(["a", "b"])


async def test_every_member_is_closed() -> None:
    members = Stub(says(1, 0)), Stub(says(1, 0))
    await ensemble(*members).aclose()
    assert all(member.closed for member in members)


def test_what_changes_answers_changes_the_version_and_the_scale_of_weights_does_not() -> None:
    def version(weights: Sequence[float] = (2, 1), quorum: float = 1.0, member: str = "1") -> str:
        return ensemble(
            Stub(says(1, 0), version=member), Stub(says(1, 0), name="b"), weights=weights, quorum=quorum
        ).version

    assert version() == version(weights=(4, 2))
    assert len({version(), version(weights=(1, 2)), version(quorum=0.5), version(member="2")}) == 4


def test_texts_that_members_cut_are_counted() -> None:
    cutting = Stub(says(1, 0))
    cutting.truncated = 3  # type: ignore[attr-defined]
    assert ensemble(cutting, Stub(says(1, 0))).truncated == 3


# From a configuration


def openai(**more: Any) -> dict[str, Any]:
    price = {"input": 1, "output": 1}
    return {"kind": "openai", "base_url": "http://localhost:1", "model": "m", "usd_per_million": price, **more}


async def test_the_calls_of_members_that_make_calls_are_foreseen(tiny_teacher) -> None:
    config = {"kind": "ensemble", "members": [{"teacher": openai()}, {"teacher": bundle(tiny_teacher.path)}]}
    asked = create(config, tuple(tiny_teacher.manifest.labels), NoAccount())
    assert isinstance(asked, EnsembleTeacher)
    calls = await asked.plan("hello")
    await asked.aclose()
    assert [request.path for _, request in calls] == ["/chat/completions"]


def bundle(path: Path) -> dict[str, Any]:
    return {"kind": "bundle", "path": str(path)}


async def test_members_of_any_kind_answer_together(tiny_bundle, tiny_teacher) -> None:
    labels = tuple(tiny_bundle.manifest.labels)
    both = [{"weight": 3, "teacher": bundle(tiny_bundle.path)}, {"teacher": bundle(tiny_teacher.path)}]
    nested = {
        "kind": "ensemble",
        "members": [{"teacher": {"kind": "ensemble", "members": both}}, {"teacher": bundle(tiny_bundle.path)}],
    }
    asked, deep = create({"kind": "ensemble", "members": both}, labels), create(nested, labels)
    texts = ["refund late", "my password"]
    one, other = [
        np.stack([answer.probabilities for answer in await create(bundle(made.path), labels).ask(texts)])
        for made in (tiny_bundle, tiny_teacher)
    ]
    found = np.stack([answer.probabilities for answer in await asked.ask(texts)])
    np.testing.assert_allclose(found, 0.75 * one + 0.25 * other, atol=1e-6)
    deeper = np.stack([answer.probabilities for answer in await deep.ask(texts)])
    np.testing.assert_allclose(deeper, (found + one) / 2, atol=1e-6)


TASK = {
    "name": "together",
    "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}},
    "students": {"small": {"family": "static", "model": "m"}},
}


def written(folder: Path, *members: dict[str, Any], **settings: Any) -> Path:
    listed = [{"teacher": member} for member in members]
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump({**TASK, "teacher": {"kind": "ensemble", "members": listed, **settings}}))
    return file


def test_paths_of_members_are_relative_to_the_task_file(tmp_path) -> None:
    recording = {"array": "x", "rows": {"path": "rows.csv"}}
    file = written(
        tmp_path,
        {"kind": "causal", "model": "./lm"},
        {"kind": "recorded", "logits": "logits.npz", "recordings": [recording]},
        openai(key_file="key"),
    )
    teacher: Any = load_task(file).teacher
    causal, recorded, remote = (member.teacher for member in teacher.members)
    assert causal.model == str(tmp_path / "lm")
    assert recorded.logits == tmp_path / "logits.npz"
    assert recorded.recordings[0].rows.path == tmp_path / "rows.csv"
    assert remote.key_file == tmp_path / "key"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [{"kind": "local", "model": "m", "fit": {"data": {"path": "gold.csv"}}}, {"kind": "local", "model": "m"}],
            r"teacher\.members\.0\.teacher: a member of an ensemble is not fitted: fit it with a task of its own",
        ),
        (
            [{"kind": "local", "modle": "m"}, {"kind": "local", "model": "m"}],
            r"teacher\.members\.0\.teacher\.modle: unknown key",
        ),
        ([{"kind": "oracle"}, {"kind": "local", "model": "m"}], r"teacher\.members\.0\.teacher: kind: expected one of"),
        (["local", {"kind": "local", "model": "m"}], r"teacher\.members\.0\.teacher: expected a mapping with a `kind`"),
        ([{"kind": "local", "model": "m"}], r"teacher\.members: "),
    ],
)
def test_members_that_will_not_do_are_named(tmp_path, members, message) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(written(tmp_path, *members))


@pytest.mark.parametrize("changed", [0, 1])
def test_labels_are_out_of_date_when_the_model_of_a_member_changes(tmp_path, tiny_causal, write_csv, changed) -> None:
    for name in ("train.csv", "test.csv"):
        write_csv(tmp_path / name, [("a", "b")])
    folders = tiny_causal("llama"), tiny_causal("gpt2")
    members = ({"kind": kind, "model": str(one)} for kind, one in zip(("causal", "local"), folders, strict=True))
    file = written(tmp_path, *members)

    def fingerprint() -> str:
        return Run(load_task(file), tmp_path / "run").labels.fingerprint

    before = fingerprint()
    assert fingerprint() == before
    model = folders[changed] / "model.safetensors"
    weights = model.read_bytes()
    model.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert fingerprint() != before
