"""Stored answers of a teacher count before a labelling has finished, and more have a price, without any call."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.interrupts import run_async
from distill.run import ANSWERS, Run
from distill.sufficiency.check import check
from distill.sufficiency.report import lines
from distill.sufficiency.teacher import teacher_facts
from distill.task import load_task
from distill.teachers import Answer, create
from tests.support.labelling_job import NAMES, LabellingJob

POOL, TEST = 400, 20
NOWHERE = "http://127.0.0.1:9"  # a call would fail


@pytest.fixture
def job(tmp_path):
    return LabellingJob.write(tmp_path, NOWHERE, pool=POOL, test=TEST)


def answer(label, usd=0.002):
    return Answer(np.eye(3, dtype=np.float32)[label], "logprobs", covered=0.9, cost_usd=usd)


def store(run, texts, answers, repeat=0):
    """Put answers in the store of a run, as `reflux label` does."""

    async def put():
        with AnswerStore(run.root / ANSWERS) as file:
            teacher = create(run.task.teacher, NAMES, StoredAccount(file))
            await file.add(teacher, texts, answers, repeat)
            await teacher.aclose()

    run_async(put())


def test_answers_so_far_count_and_their_cost_is_the_price_of_more(job):
    run = Run(load_task(job.file), job.root)
    splits = run.make_data()
    given = [answer(number % 3) for number in range(300)]
    given[0] = Answer(None, "logprobs", outcome="refused")
    given[1] = Answer(None, "logprobs", outcome="invalid")
    store(run, job.texts[:300], given)
    store(run, job.texts[200:250], [answer((number + (number < 210)) % 3) for number in range(200, 250)], repeat=1)
    facts = teacher_facts(run, splits)
    assert (len(facts.chosen), facts.texts, facts.refused, facts.invalid) == (298, POOL + TEST, 1, 1)
    assert facts.covered == pytest.approx(0.9)
    assert facts.again is not None
    assert (facts.again["rows"], facts.again["agreement"]["value"]) == (50, 0.8)
    assert facts.usd_per_1000 is not None
    assert facts.usd_per_1000 > 0
    by_text = dict(zip(splits.everything.ids, splits.everything.texts, strict=True))
    assert all(chosen == job.texts.index(by_text[name]) % 3 for name, chosen in facts.chosen.items())
    found = check(run)
    assert found["labels"]["of"] == "teacher"
    told = "\n".join(lines(found))
    assert "it has labelled 298 of 420 texts (71.0 %), refused 1, and named no label for 1" in told
    assert "it agrees with itself on 80.0 %" in told
    assert "the teacher's labels cost $" in told
    assert run.labels.done is False


def test_before_the_first_call_the_price_is_foreseen(job):
    run = Run(load_task(job.file), job.root)
    facts = teacher_facts(run, run.make_data())
    assert facts.chosen == {}
    assert facts.usd_per_1000 is not None
    assert 0 < facts.usd_per_1000 < 100
    assert "teacher: it has labelled no text yet" in "\n".join(lines(check(run)))


def test_when_all_is_answered_the_mean_cost_is_the_price(job):
    run = Run(load_task(job.file), job.root)
    splits = run.make_data()
    store(run, job.texts, [answer(0, usd=0.003)] * len(job.texts))
    assert teacher_facts(run, splits).usd_per_1000 == pytest.approx(3.0)


def labelling(job, **section):
    """Open a run of the job with this section `labelling`."""
    described = yaml.safe_load(job.file.read_text())
    described["labelling"] = section
    job.file.write_text(yaml.safe_dump(described))
    return Run(load_task(job.file), job.root)


def test_a_text_costs_what_its_views_cost_too_and_all_counts_include_them(job):
    run = labelling(job, views={"per_text": 3})
    splits = run.make_data()
    views = splits.views(run.task.labelling.views)
    texts = [*splits.everything.texts, *views.texts]
    given = [answer(0, usd=0.003)] * len(texts)
    given[-1] = Answer(None, "logprobs", outcome="refused", cost_usd=0.003)
    store(run, texts, given)
    facts = teacher_facts(run, splits)
    assert facts.usd_per_1000 == pytest.approx(3.0 * (1 + len(views) / len(splits.train)))
    assert facts.usd_per_1000 > 6.0
    assert (facts.texts, facts.altered) == (len(texts), len(views))
    assert len(facts.chosen) + facts.refused == len(texts)
    told = "\n".join(lines(check(run)))
    assert f"labelled {len(texts) - 1:,} of {len(texts):,} texts, {len(views):,} of them views or paraphrases" in told


def test_paraphrases_are_foreseen_as_written_and_labelled(job):
    plain = Run(load_task(job.file), job.root)
    alone = teacher_facts(plain, plain.make_data()).usd_per_1000
    run = labelling(job, paraphrases={"per_text": 2})
    facts = teacher_facts(run, run.make_data())
    assert facts.usd_per_1000 > 3.5 * alone


def test_a_teacher_that_cannot_be_made_has_no_price_and_the_check_goes_on(job):
    described = yaml.safe_load(job.file.read_text())
    described["teacher"]["headers"] = {"api-key": "$NO_SUCH_KEY"}
    job.file.write_text(yaml.safe_dump(described))
    run = Run(load_task(job.file), job.root)
    facts = teacher_facts(run, run.make_data())
    assert facts.usd_per_1000 is None
    assert facts.price.startswith("price not known: ")
    assert "api-key names a variable that is not set" in facts.price
    assert check(run)["verdict"] == "too little"


def test_a_teacher_on_this_machine_takes_its_time_alone(job):
    described = yaml.safe_load(job.file.read_text())
    described["teacher"] = {"kind": "bundle", "path": "none"}
    job.file.write_text(yaml.safe_dump(described))
    run = Run(load_task(job.file), job.root)
    facts = teacher_facts(run, run.make_data())
    assert (facts.usd_per_1000, facts.price) == (None, "its labels take this machine's time alone")
    assert not (job.root / ANSWERS).exists()
