"""Gold rows calibrate a teacher, rows asked twice measure it, and neither becomes part of what anybody learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from distill.data.splits import Examples, Test, Train, Validation
from distill.errors import DataError, DistillError
from distill.labelling.answer_store import AnswerStore
from distill.labelling.audit import (
    Audited,
    AuditTexts,
    gold_rows,
    label_and_audit,
    rows_to_repeat,
    shared_with_fit,
    terms_of,
)
from distill.sections import FileSource
from distill.task import Calibration
from distill.teachers import Answer, parse
from distill.teachers.base import AnswerOutcome, Method

LABELS = ("a", "b", "c")
SECTION = Calibration(data=FileSource(path=Path("unread.csv"), label="label"), method="temperature")


def number(text: str) -> int:
    return int(text.split()[-1])


class Overconfident:
    """Says the label of `number % 3` with 0.998; every fifth text is another's, and each draw of a seventh differs."""

    config_type = BaseModel
    name, version, labels, batch_size, concurrency = "played", "1", LABELS, 8, 1

    def __init__(self, method: Method = "votes") -> None:
        self.method = method
        self.asked: list[tuple[str, int]] = []
        self.outcomes: dict[tuple[str, int], AnswerOutcome] = {}

    def says(self, text: str, repeat: int = 0) -> np.ndarray:
        label = (number(text) + (number(text) % 7 == 0) * repeat) % 3
        row: np.ndarray = np.full(3, 0.001, dtype=np.float32)
        row[label] = 0.998
        return row

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> list[Answer]:
        self.asked += [(text, repeat) for text in texts]
        outcomes = [self.outcomes.get((text, repeat), "ok") for text in texts]
        return [
            Answer(self.says(text, repeat) if outcome == "ok" else None, self.method, outcome=outcome)
            for text, outcome in zip(texts, outcomes, strict=True)
        ]

    async def aclose(self) -> None:
        pass


class Steps:
    """All that a progress bar was told."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.advance = self.known = self.counts.append


def examples(kind: type[Any], name: str, count: int) -> Any:
    """Rows `NAME 0` to `NAME count`; a fifth of the gold labels are not what the teacher says."""
    texts = tuple(f"{name} {row}" for row in range(count))
    return kind(
        tuple(f"{name}-{row}" for row in range(count)),
        texts,
        tuple(LABELS[(row + (row % 5 == 0)) % 3] for row in range(count)),
    )


TRAIN, VALIDATION, TEST = (
    examples(Train, "train", 60),
    examples(Validation, "validation", 30),
    examples(Test, "test", 20),
)
GOLD = examples(Examples, "gold", 120)
POOL = Examples(
    TRAIN.ids + VALIDATION.ids + TEST.ids,
    TRAIN.texts + VALIDATION.texts + TEST.texts,
    TRAIN.gold + VALIDATION.gold + TEST.gold,
)


def extra(gold: Examples | None = GOLD, twice: int = 0, section: Calibration = SECTION) -> AuditTexts:
    return AuditTexts(None if gold is None else section, gold, rows_to_repeat(VALIDATION, TRAIN, 0), twice)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "answers.sqlite"


async def audited(path: Path, teacher: Any, wanted: AuditTexts, **hooks: Any) -> Audited:
    with AnswerStore(path) as store:
        return await label_and_audit(teacher, POOL, wanted, store, **hooks)


async def test_the_pool_is_calibrated_and_what_was_said_is_kept(path):
    teacher = Overconfident()
    found = await audited(path, teacher, extra())
    soft, record = found.labelling.soft, found.record["calibration"]
    assert soft.ids == POOL.ids  # no gold row among them
    assert soft.raw is not None
    np.testing.assert_array_equal(soft.raw, [teacher.says(text) for text in POOL.texts])
    assert soft.probabilities.max(1) == pytest.approx(np.full(len(POOL), 0.8), abs=0.03)  # as often as it is right
    assert record["scaling"] == {"method": "temperature", "temperature": pytest.approx(1 / soft.scaling.scale[0])}
    assert (record["rows"], record["asked"], record["refused"], record["invalid"]) == (120, 120, 0, 0)
    assert record["log_loss"]["after"]["upper"] < record["log_loss"]["before"]["value"]
    assert "self_agreement" not in found.record


async def test_gold_rows_are_asked_before_the_pool(path):
    teacher = Overconfident()
    await audited(path, teacher, extra())
    texts = [text for text, _ in teacher.asked]
    assert set(texts[:120]) == set(GOLD.texts)
    assert set(texts[120:]) == set(POOL.texts)


async def test_without_the_section_nothing_is_asked_beside_the_pool(path):
    teacher = Overconfident()
    found = await audited(path, teacher, extra(None))
    assert (len(teacher.asked), found.record) == (len(POOL), {})
    assert found.labelling.soft.raw is found.labelling.soft.scaling is None
    np.testing.assert_array_equal(found.labelling.soft.probabilities, [teacher.says(text) for text in POOL.texts])


async def test_too_few_answers_to_gold_rows_stop_before_the_pool_is_asked(path):
    teacher = Overconfident()
    teacher.outcomes = {(text, 0): "refused" if row % 2 else "invalid" for row, text in enumerate(GOLD.texts[:24])}
    with pytest.raises(DistillError, match=r"played answered 96 of 120 rows \(12 refused, 12 invalid\): 96 gold rows,"):
        await audited(path, teacher, extra())
    assert {text for text, _ in teacher.asked} == set(GOLD.texts)


async def test_a_vector_needs_rows_of_each_label(path):
    gold = GOLD.take([row for row in range(120) if GOLD.gold[row] != "b"] * 2)
    gold = Examples(tuple(f"gold-{row}" for row in range(len(gold))), gold.texts, gold.gold)
    section = SECTION.model_copy(update={"method": "vector"})
    with pytest.raises(DistillError, match="1 of 3 labels have fewer than 10 gold rows"):
        await audited(path, Overconfident(), extra(gold, section=section))


async def test_validation_rows_are_asked_twice_and_then_those_of_train(path):
    teacher = Overconfident()
    found = await audited(path, teacher, extra(None, twice=20))
    again = [text for text, repeat in teacher.asked if repeat == 1]
    assert len(again) == len(set(again)) == 20
    assert {text.split()[0] for text in again} == {"validation"}
    differ = sum(number(text) % 7 == 0 for text in again)
    record = found.record["self_agreement"]
    assert record["agreement"]["value"] == pytest.approx(1 - differ / 20)
    assert record["variation"]["value"] == pytest.approx(0.997 * differ / 20)
    assert record["ceiling"]["value"] == pytest.approx(1 - differ / 40)
    assert (record["rows"], record["asked"], record["unanswered"], record["by_construction"]) == (20, 20, 0, False)
    assert 0 < differ < 20

    more = Overconfident()
    found = await audited(path, more, extra(None, twice=1000))
    assert found.record["self_agreement"]["rows"] == len(TRAIN) + len(VALIDATION)
    assert {text.split()[0] for text, _ in more.asked} == {"validation", "train"}  # never test
    assert len(more.asked) == len(TRAIN) + len(VALIDATION) - 20  # those of before are not asked again


async def test_a_restart_asks_nothing_and_finds_the_same(path):
    wanted = extra(twice=30)
    first = await audited(path, Overconfident(), wanted)
    teacher = Overconfident()
    again = await audited(path, teacher, wanted)
    assert teacher.asked == []
    np.testing.assert_array_equal(first.labelling.soft.probabilities, again.labelling.soft.probabilities)
    for record in (first.record, again.record):
        for part in record.values():
            del part["asked"]
    assert first.record == again.record


async def test_both_draws_are_compared_as_they_are_calibrated(path):
    plain, softened = [
        (await audited(path, Overconfident(), extra(gold, twice=90))).record["self_agreement"] for gold in (None, GOLD)
    ]
    assert plain["agreement"] == softened["agreement"]  # a temperature moves no first choice
    # Two answers that are sure to 0.8 and not to 0.998 differ by 0.7; those that are the same, by nothing.
    expected = 0.7 * (1 - plain["agreement"]["value"])
    assert softened["variation"]["value"] == pytest.approx(expected, rel=0.1)


async def test_rows_that_were_not_answered_twice_are_counted_and_left_out(path):
    teacher = Overconfident()
    order = rows_to_repeat(VALIDATION, TRAIN, 0)
    text_of = dict(zip(POOL.ids, POOL.texts, strict=True))
    teacher.outcomes = {
        (text_of[order[0]], 0): "refused",
        (text_of[order[1]], 1): "refused",
        (text_of[order[2]], 1): "invalid",
    }
    record = (await audited(path, teacher, extra(None, twice=10))).record["self_agreement"]
    assert (record["rows"], record["asked"], record["unanswered"]) == (8, 10, 2)
    assert (text_of[order[0]], 1) not in teacher.asked
    assert (text_of[order[10]], 1) in teacher.asked
    kept = [number(text_of[name]) for name in order[3:11]]
    assert record["agreement"]["value"] == pytest.approx(np.mean([row % 7 != 0 for row in kept]))


async def test_a_teacher_that_answers_nothing_twice_is_an_error(path):
    teacher = Overconfident()
    teacher.outcomes = {(text, 1): "refused" for text in POOL.texts}
    with pytest.raises(DistillError, match="answered none of 5 texts that it was asked twice"):
        await audited(path, teacher, extra(None, twice=5))


@pytest.mark.parametrize("method", ["local", "recorded"])
async def test_a_teacher_that_cannot_but_say_the_same_is_not_asked_again(path, method):
    teacher = Overconfident(method)
    steps = Steps()
    found = await audited(path, teacher, extra(None, twice=20), progress=steps)
    assert {repeat for _, repeat in teacher.asked} == {0}
    assert found.record["self_agreement"]["by_construction"]
    assert found.record["self_agreement"]["agreement"]["value"] == 1
    assert sum(steps.counts) == len(POOL) + extra(None, twice=20).count


async def test_progress_counts_every_text(path):
    steps = Steps()
    wanted = extra(twice=20)
    await audited(path, Overconfident(), wanted, progress=steps)
    assert sum(steps.counts) == len(POOL) + wanted.count == len(POOL) + 120 + 20


def test_rows_to_repeat_are_drawn_by_the_seed():
    order = rows_to_repeat(VALIDATION, TRAIN, 0)
    assert set(order[:30]) == set(VALIDATION.ids)
    assert set(order[30:]) == set(TRAIN.ids)
    assert order[:30] != list(VALIDATION.ids)
    assert order == rows_to_repeat(VALIDATION, TRAIN, 0) != rows_to_repeat(VALIDATION, TRAIN, 1)


def test_rows_of_the_test_split_cannot_be_asked_twice():
    with pytest.raises(TypeError, match="expected a Validation split, got a Test split"):
        rows_to_repeat(TEST, TRAIN, 0)


# Gold rows


def gold_file(folder: Path, rows: Sequence[tuple[str, str]], label: str | None = "label") -> Calibration:
    path = folder / "gold.csv"
    path.write_text("text,label\n" + "".join(f"{text},{gold}\n" for text, gold in rows))
    return SECTION.model_copy(update={"data": FileSource(path=path, label=label)})


ENOUGH = [(f"text {row}", LABELS[row % 3]) for row in range(120)]


def test_gold_rows_are_read(tmp_path):
    assert gold_rows(gold_file(tmp_path, ENOUGH), LABELS).texts == tuple(text for text, _ in ENOUGH)


@pytest.mark.parametrize(
    ("rows", "label", "said"),
    [
        (ENOUGH, None, "every row needs a gold label; name the column with `label`"),
        (
            [*ENOUGH, ("bare", "")],
            "label",
            "every row needs a gold label; 1 of 121 have none, such as gold-120: label or remove them",
        ),
        ([*ENOUGH, ("odd", "weather")], "label", r"gold labels \['weather'\] are not among the task's 3 labels"),
        (
            ENOUGH[:99],
            "label",
            "99 gold rows, and a temperature needs 100 at least.*add rows, or leave `calibration` out",
        ),
    ],
)
def test_gold_rows_that_will_not_do_are_refused(tmp_path, rows, label, said):
    with pytest.raises(DataError, match=rf"labelling\.calibration\.data: {said}"):
        gold_rows(gold_file(tmp_path, rows, label), LABELS)


def test_gold_rows_on_which_the_teacher_was_fitted_are_found():
    fitted = Examples(("x", "y", "z"), ("GOLD  3", "gold 7", "other"), ("a", "a", "a"))
    (finding,) = shared_with_fit(GOLD, fitted)
    assert finding.level == "warning"
    assert "2 of 120 texts are also in teacher.fit.data" in finding.message
    assert shared_with_fit(GOLD, TEST) == []


# Terms


def api(reference: str | None) -> dict[str, Any]:
    terms = {} if reference is None else {"terms": {"acknowledged": True, "reference": reference}}
    return {
        "kind": "openai",
        "base_url": "http://localhost:1/v1",
        "model": "m",
        "usd_per_million": {"input": 0, "output": 0},
        **terms,
    }


def test_terms_are_those_that_were_acknowledged():
    allowed = api("section 5")
    allowed["terms"]["permission"] = "our contract"
    assert terms_of(parse(api(None))) == ()
    assert terms_of(parse({"kind": "local", "model": "x"})) == ()
    assert terms_of(parse(api("section 5"))) == ({"acknowledged": True, "reference": "section 5"},)
    assert terms_of(parse(allowed)) == (allowed["terms"],)


def test_terms_of_members_are_kept_once_each():
    members = [{"teacher": api(reference)} for reference in ("one", "two", "one", None)]
    config = parse({"kind": "ensemble", "members": members})
    assert [terms["reference"] for terms in terms_of(config)] == ["one", "two"]
