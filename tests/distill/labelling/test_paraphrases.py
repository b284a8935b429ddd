"""A language model writes paraphrases of the training texts, once and within the budget, and labels them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from distill.errors import TaskError
from distill.labelling.session import LabellingOptions
from distill.run import RECORD, Run
from distill.sufficiency.teacher import teacher_facts
from distill.task import load_task
from distill.teachers import TeacherError, create
from distill.teachers.account import BudgetError
from distill.teachers.api.pricing import Usage
from tests.support.accounts import MemoryAccount
from tests.support.batch_vendors import OpenAI
from tests.support.http_server import serving
from tests.support.labelling_job import NAMES, PRICE, ChargingApi, LabellingJob, text_of
from tests.support.script import Script

POOL, TEST = 30, 6


def paraphrases(text: str, count: int) -> list[str]:
    """What the server writes of a text."""
    return [f"{number} put otherwise: {text}" for number in range(count)]


def alike(text: str) -> str:
    """What is the same for two texts of the pool."""
    return f"the same {int(text.split()[1]) // 2}" if text.startswith("text ") else text.upper()


class Writer(ChargingApi):
    """A chat API that also writes paraphrases; `said` makes its answer from a text. `wrote` has the texts it was given.

    The text of its call that the server is asked at first is of no pool.
    """

    said: Callable[[str], str] = staticmethod(lambda text: json.dumps({"paraphrases": paraphrases(text, 2)}))

    def __init__(self) -> None:
        super().__init__()
        self.wrote: Counter[str] = Counter()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if "response_format" not in body:
            return await super().__call__(request)
        text = text_of(request)
        self.wrote[text] += 1
        usage = {"prompt_tokens": len(request.content), "completion_tokens": 20}
        self.usd += PRICE.cost(Usage(input=usage["prompt_tokens"], output=20))
        choice = {"message": {"role": "assistant", "content": self.said(text)}, "finish_reason": "stop"}
        return httpx.Response(200, json={"model": "m", "choices": [choice], "usage": usage})

    @property
    def texts(self) -> Counter[str]:
        """The texts of the pool that were paraphrased."""
        return Counter({text: count for text, count in self.wrote.items() if text.startswith("text ")})


def job(folder: Path, url: str, per_text: int = 2, **teacher: Any) -> LabellingJob:
    made = LabellingJob.write(folder, url, pool=POOL, test=TEST, **teacher)
    task = yaml.safe_load(made.file.read_text())
    task["labelling"] = {"paraphrases": {"per_text": per_text}}
    made.file.write_text(yaml.safe_dump(task))
    return made


async def label(made: LabellingJob, **options: Any) -> Run:
    """Label in a thread, as the server is in this event loop."""
    run = Run(load_task(made.file), made.root)
    run.make_data()
    await asyncio.to_thread(run.make_labels, LabellingOptions(**options))
    return run


def spent(made: LabellingJob) -> float:
    (usd,) = made.rows("money", "spent")
    return float(usd)


async def test_paraphrases_of_the_texts_to_train_on_are_labelled_and_trained_on(tmp_path) -> None:
    writer = Writer()
    async with serving(writer) as server:
        run = await label(job(tmp_path, server.url))
    train, choose = run.splits().train, run.splits().validation
    assert writer.texts == Counter(train.texts)
    learn, chosen = run.labelled()
    assert learn.texts[len(train) :] == tuple(one for text in train.texts for one in paraphrases(text, 2))
    assert learn.ids[len(train)] == f"{train.ids[0]} (paraphrase 0)"
    assert (set(learn.gold), chosen) == ({None}, choose)
    soft = run.soft_labels()
    assert len(soft) == len(learn) + len(choose) + TEST
    assert "0 of 27 texts without paraphrases, 54 of 54 paraphrases are new texts" in run.labelling()
    assert not any("paraphrases" in warning for warning in run.label_warnings())
    assert spent(LabellingJob(tmp_path / "task.yaml", tmp_path / "run", [])) == pytest.approx(writer.usd)


async def test_nothing_is_written_or_paid_for_twice_after_a_budget_ran_out(tmp_path) -> None:
    writer = Writer()
    async with serving(writer) as server:
        made = job(tmp_path, server.url, concurrency=2)
        with pytest.raises(BudgetError, match="raise --max-usd"):
            await label(made, max_usd=0.02)
        assert 2 < sum(writer.texts.values()) < 27
        assert spent(made) == pytest.approx(writer.usd)
        assert writer.usd <= 0.02
        run = await label(made, max_usd=1.0)
        assert writer.texts == Counter(run.splits().train.texts)
        assert set(writer.wrote.values()) == {1}
        paid = writer.usd
        (made.root / "labels" / "stage.json").unlink()
        await label(made)
    assert writer.usd == paid
    assert paid == pytest.approx(spent(made))


async def test_a_dry_run_prices_writing_and_labelling_before_either_and_after_a_part(tmp_path) -> None:
    writer = Writer()
    async with serving(writer) as server:
        made = job(tmp_path, server.url, concurrency=2)
        run = Run(load_task(made.file), made.root)
        run.make_data()
        before = await asyncio.to_thread(run.forecast)
        assert writer.wrote == Counter()
        assert before[0].startswith("openai:m (paraphrases): 27 of 27 texts to ask")
        # 36 texts of the data and two paraphrases of each of the 27 to train on
        assert f"openai:m: {36 + 54} of {36 + 54} texts to ask; no call was made for this forecast" in before
        assert before[-2] == "paid so far  $0.00"
        assert before[-1].startswith("in all ")
        assert sum(line.startswith("paid so far") for line in before) == 1
        with pytest.raises(BudgetError):
            await label(made, max_usd=0.02)
        written, reached = sum(writer.texts.values()), spent(made)
        part = await asyncio.to_thread(run.forecast)
        assert part[0].startswith(f"openai:m (paraphrases): {27 - written} of 27 texts to ask")
        assert f"learnt from {written} texts" in part[5]
        await label(made)
        after = await asyncio.to_thread(run.forecast)
    assert [line.split(" texts")[0] for line in after if "to ask" in line] == [
        "openai:m (paraphrases): 0 of 27",
        "openai:m: 0 of 90",
    ]
    assert reached < spent(made)


async def test_what_was_written_is_never_a_text_that_judges_or_one_of_the_pool(tmp_path) -> None:
    writer = Writer()
    async with serving(writer) as server:
        made = job(tmp_path, server.url)
        taken = [*made.texts[-TEST:], made.texts[0].upper()]
        writer.said = lambda text: json.dumps({"paraphrases": [taken[len(writer.wrote) % len(taken)], alike(text)]})
        run = await label(made)
    learn, _ = run.labelled()
    assert learn.texts[len(run.splits().train) :] == tuple(dict.fromkeys(map(alike, run.splits().train.texts)))


async def test_what_was_written_is_no_view_and_no_near_duplicate_of_a_text_that_judges(tmp_path) -> None:
    writer = Writer()
    async with serving(writer) as server:
        made = job(tmp_path, server.url)
        task = yaml.safe_load(made.file.read_text())
        task["labelling"]["views"] = {"drop": 0, "swap": 1}
        task["data"]["near_duplicate"] = 0.9
        (tmp_path / "test.csv").write_text("text\nplease tell me where the parcel is that I ordered on Monday\n")
        made.file.write_text(yaml.safe_dump(task))
        near = "Please tell me where the parcel is that I ordered on Monday!"

        def said(text: str) -> str:
            words = text.split()
            view = " ".join([words[1], words[0], *words[2:]])
            return json.dumps({"paraphrases": [near if words[1] == "3" else f"so {text}", view]})

        writer.said = said
        run = await label(made)
    learn, _ = run.labelled()
    splits = run.splits()
    added = learn.texts[len(splits.train) + len(splits.views(run.task.labelling.views)) :]
    assert "text 3 xxx" in splits.train.texts
    assert added == tuple(f"so {text}" for text in splits.train.texts if text != "text 3 xxx")


async def test_halves_of_surrogate_pairs_are_dropped_and_texts_with_nul_left_out(tmp_path) -> None:
    writer = Writer()
    odd = "text 3 xxx"
    # Both escapes are in the JSON that the model writes, so the server's own JSON is valid.
    writer.said = lambda text: (
        r'{"paraphrases": ["Where is it? \ud83d", "\udc00", "a\u0000b", "Fine \ud83d\ude00"]}'
        if text == odd
        else json.dumps([f"so {text}"])
    )
    async with serving(writer) as server:
        run = await label(job(tmp_path, server.url, per_text=4))
    learn, _ = run.labelled()
    assert {"Where is it?", "Fine \U0001f600"} <= set(learn.texts)
    assert not any("\0" in text or not text for text in learn.texts)


async def test_texts_that_the_model_declines_have_no_paraphrases(tmp_path) -> None:
    writer = Writer()
    odd = {"text 3 xxx", "text 5 xxxxx"}
    writer.said = lambda text: "I cannot help." if text in odd else json.dumps({"paraphrases": paraphrases(text, 1)})
    async with serving(writer) as server:
        run = await label(job(tmp_path, server.url, per_text=1))
    train = run.splits().train
    assert odd <= set(train.texts)
    assert len(run.labelled()[0]) == 2 * len(train) - 2
    assert "2 of 27 texts without paraphrases" in run.labelling()


async def test_a_model_that_writes_none_is_found_at_once_or_after_twenty_texts(tmp_path) -> None:
    writer = Writer()
    writer.said = lambda text: "Sure! Which one?"
    async with serving(writer) as server:
        made = job(tmp_path, server.url, concurrency=1)
        with pytest.raises(TeacherError, match=r"writes no paraphrases \(no list in 'Sure! Which one\?'\)"):
            await label(made)
        assert writer.wrote.total() == 1
        writer.said = lambda text: "none" if text.startswith("text ") else json.dumps({"paraphrases": ["and so"]})
        (tmp_path / "run" / "answers.sqlite").unlink()
        with pytest.raises(
            TeacherError, match=r"gave no new paraphrases of 20 texts .* run the command again to go on"
        ):
            await label(made)
        assert 20 <= writer.texts.total() <= 20 + 2
        run = await label(made)  # what is stored stops nothing
    assert set(writer.texts.values()) == {1}
    assert "27 of 27 texts without paraphrases" in run.labelling()
    assert any("added 0 rows for 27 texts" in warning for warning in run.label_warnings())


@pytest.mark.parametrize("said", [lambda text: [text.upper()] * 2, lambda text: ["One moment.", "one  moment."]])
async def test_a_model_that_repeats_the_text_or_itself_is_stopped(tmp_path, said) -> None:
    writer = Writer()
    writer.said = lambda text: json.dumps({"paraphrases": said(text)})
    async with serving(writer) as server:
        made = job(tmp_path, server.url, concurrency=1)
        with pytest.raises(TeacherError, match="it repeats the text, or what it wrote before"):
            await label(made)
    assert 20 <= writer.texts.total() <= 21 + 2


async def test_texts_without_paraphrases_for_several_reasons_stop_nothing(tmp_path) -> None:
    writer = Writer()
    replies = ["Sorry", json.dumps({"paraphrases": ["a b"]})]
    writer.said = lambda text: json.dumps(["x"]) if "text" not in text else replies[len(writer.wrote) % 2]
    async with serving(writer) as server:
        run = await label(job(tmp_path, server.url, concurrency=1))
    record = json.loads((run.labels.path / RECORD).read_text())["paraphrases"]
    assert (record["texts"], record["new"]) == (27, 1)


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ({"paraphrases": "one text"}, ("one text",)),
        ([{"text": "one"}, {"paraphrase": "two"}, {"id": 3}], ("one", "two")),
        ({"original": ["it"], "others": ["one"]}, ()),
        ({"original": ["it"], "paraphrases": ["one"]}, ("one",)),
        ({"original": "it", "others": ["one"]}, ("one",)),
        ({"paraphrases": ["<text>\nIs 1 &lt; 2?\n</text>", "&lt;text>"]}, ("Is 1 < 2?", "<text>")),
    ],
)
async def test_paraphrases_are_read_in_other_forms_and_none_is_guessed(answer, texts) -> None:
    config = {"kind": "openai", "base_url": "http://127.0.0.1:9", "model": "m", "usd_per_million": PRICE.model_dump()}
    teacher = create(config, NAMES, MemoryAccount())
    paraphraser = teacher.paraphraser(4)  # type: ignore[attr-defined]
    choice = {"message": {"role": "assistant", "content": json.dumps(answer)}, "finish_reason": "stop"}
    assert paraphraser.read({"choices": [choice]}).texts == texts
    await paraphraser.aclose()
    await teacher.aclose()


async def test_paraphrases_can_be_written_in_batches(tmp_path) -> None:
    vendor = OpenAI()
    async with serving(vendor) as server:
        made = job(tmp_path, server.url, batch={"interval_seconds": 0.01})
        run = await label(made, batch=True)
    train = run.splits().train
    assert len(run.labelled()[0]) == 3 * len(train)
    kinds = [["response_format" in body for _, body in one.requests] for one in vendor.made]
    assert [(len(one), set(one)) for one in kinds] == [(27, {True}), (36 + 54, {False})]
    assert not any(text.startswith("text ") for text in vendor.asked_alone)


async def test_paraphrases_are_asked_of_the_messages_api_in_its_format() -> None:
    def reply(body: Any) -> httpx.Response:
        said = json.dumps({"paraphrases": ["Where is it &lt;3?", " Where is it &lt;3?", "When will it come?", "third"]})
        usage = {"input_tokens": 10, "output_tokens": 8}
        content = [{"type": "text", "text": said}]
        return httpx.Response(200, json={"content": content, "stop_reason": "end_turn", "usage": usage})

    script = Script(reply)
    async with serving(script) as server:
        config = {"kind": "anthropic", "base_url": server.url, "model": "m", "usd_per_million": PRICE.model_dump()}
        teacher = create(config, NAMES, MemoryAccount())
        paraphraser = teacher.paraphraser(2)  # type: ignore[attr-defined]
        written = await paraphraser.write("Where <is> my order?")
        await paraphraser.aclose()
        await teacher.aclose()
    assert written.texts == ("Where is it <3?", "When will it come?")
    body = script.asked[-1]
    assert script.paths == ["/v1/messages"] * 2  # the first one checks the model
    assert body["messages"] == [{"role": "user", "content": "<text>\nWhere &lt;is> my order?\n</text>"}]
    assert "2 different paraphrases" in body["system"][0]["text"]
    assert body["output_config"]["format"]["schema"]["properties"] == {
        "paraphrases": {"type": "array", "items": {"type": "string"}}
    }


async def test_a_server_that_names_the_token_limit_otherwise_is_asked_again() -> None:
    def reply(body: Any) -> httpx.Response:
        if "max_tokens" in body:
            return httpx.Response(400, json={"error": {"message": "use max_completion_tokens, not max_tokens"}})
        said = json.dumps(["one", "two"])
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 5}})

    async with serving(Script(reply)) as server:
        config = {"kind": "openai", "base_url": f"{server.url}/v1", "model": "m", "usd_per_million": PRICE.model_dump()}
        teacher = create(config, NAMES, MemoryAccount())
        paraphraser = teacher.paraphraser(1)  # type: ignore[attr-defined]
        assert (await paraphraser.write("text")).texts == ("one",)
        await paraphraser.aclose()
        await teacher.aclose()


@pytest.mark.parametrize("kind", ["local", "decisions", "recorded", "causal"])
def test_a_teacher_that_writes_no_texts_is_refused_with_the_kinds_that_do(tmp_path, kind) -> None:
    made = job(tmp_path, "http://127.0.0.1:9")
    task = yaml.safe_load(made.file.read_text())
    rows = {"array": "a", "rows": {"path": "train.csv"}}
    settings: dict[str, dict[str, Any]] = {
        "local": {"model": "package:none"},
        "causal": {"model": "package:none"},
        "decisions": {"base_url": "http://127.0.0.1:9", "model": "m", "dialect": "openai"},
        "recorded": {"logits": "logits.npz", "recordings": [rows]},
    }
    task["teacher"] = {"kind": kind, **settings[kind]}
    made.file.write_text(yaml.safe_dump(task))
    with pytest.raises(TaskError, match=f"labelling.paraphrases: a teacher of kind {kind} writes no texts; remove it"):
        load_task(made.file)


async def test_what_one_more_text_would_cost_counts_its_paraphrases_their_writing_and_all_labels(tmp_path):
    writer = Writer()
    async with serving(writer) as server:
        made = job(tmp_path, server.url)
        run = await label(made)
    facts = await asyncio.to_thread(teacher_facts, run, run.splits())
    soft, train = made.labels(), len(run.splits().train)
    held_out = len(run.splits().everything) - train
    spent = writer.usd - held_out * soft.cost_usd.mean()
    assert facts.usd_per_1000 * train / 1000 == pytest.approx(spent, rel=0.1)  # what was asked first is spent, too
    assert len(facts.chosen) + facts.refused + facts.invalid == facts.texts == len(soft)
    assert facts.altered == len(soft) - train - held_out
