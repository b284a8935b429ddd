from __future__ import annotations

import asyncio
import json
import math
import threading

import pytest
from prometheus_client import CollectorRegistry

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.shadow import teacher as shadow_teacher
from service.shadow.errors import ShadowError
from service.shadow.outcome import OUTCOMES
from service.shadow.pipeline import ShadowPipeline
from service.shadow.settings import ShadowSettings
from tests.support.waiting import until

from .conftest import LABELS, VERSION, PlayedTeacher, agree, answer, disagree, prediction


def test_invalid_settings_are_refused():
    for wrong in ({"rat": 0.1}, {"rate": 0.0}, {"rate": 1.1}, {"usd_per_hour": 0}, {"concurrency": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ShadowSettings(**wrong)


async def test_comparisons_reach_the_gap(make_shadow):
    shadow = await make_shadow(lambda texts: disagree(texts) if texts[0].endswith("7") else agree(texts)).start()
    await shadow.process(40)
    found = shadow.pipeline.gap()
    assert found["counts"] == {"requests": 40, "sampled": 40, "compared": 40, "disagreements": 4}
    assert found["gap"]["ratio"] == pytest.approx(0.1)
    assert found["gap"]["lower"] < 0.1 < found["gap"]["upper"]
    assert found["gap"]["always_valid"]["upper"] > found["gap"]["upper"]
    assert found["gap"]["worst_case"] == {"lower": pytest.approx(0.1), "upper": pytest.approx(0.1)}
    assert found["rectifier"] == pytest.approx(0.1 - found["expected_gap"])
    assert found["teacher"] == {"name": "played", "version": "1", "models": []}
    assert found["model_version"] == VERSION
    assert found["evidence"]["log_evalue"] != 0
    assert found["divergence"]["js"]["mean"] > 0
    assert (shadow.metric("shadow_compared_total", agree="true"), shadow.metric("gap_ratio")) == (36, 0.1)
    assert shadow.outcomes() == {"completed": 40}


async def test_a_bundle_as_teacher_gives_the_true_gap(tiny_bundle: Bundle, tiny_teacher: Bundle, tmp_path, words):
    student, teacher = Classifier.load(tiny_bundle), Classifier.load(tiny_teacher)
    labels = tiny_bundle.manifest.labels
    texts = [" ".join([word, *words[label][:extra]]) for label in labels for word in words[label] for extra in (0, 1)]
    wrong = sum(
        student.classify(text).probabilities.argmax() != teacher.classify(text).probabilities.argmax() for text in texts
    )
    assert 0 < wrong < len(texts)
    teacher_config = {"kind": "bundle", "path": tiny_teacher.path}
    settings = ShadowSettings(enabled=True, teacher=teacher_config, rate=1.0, path=tmp_path / "shadow.sqlite")
    pipeline = ShadowPipeline(settings, tiny_bundle, Reference.open(tiny_bundle), CollectorRegistry())
    await pipeline.start()
    for text in texts:
        pipeline.observe(text, student.classify(text))
    # A report takes milliseconds; asked for all the time, it would leave the teacher's thread little.
    await until(lambda: pipeline.gap()["counts"]["compared"] == len(texts), pause=0.1)
    found = pipeline.gap()
    await pipeline.stop()
    assert found["gap"]["ratio"] == pytest.approx(wrong / len(texts))
    assert found["gap"]["lower"] <= wrong / len(texts) <= found["gap"]["upper"]


async def test_the_event_loop_runs_while_a_teacher_is_made(make_shadow, monkeypatch):
    shadow, others_went_on = make_shadow(agree), threading.Event()

    def create(config, labels, **_):
        assert others_went_on.wait(5), "the event loop stands still"
        return shadow.teacher

    monkeypatch.setattr(shadow_teacher, "create", create)
    asyncio.get_running_loop().call_later(0.01, others_went_on.set)
    await shadow.pipeline.start()
    await shadow.process()
    assert shadow.outcomes() == {"completed": 1}


async def test_labels_are_compared_by_name(make_shadow):
    backwards = PlayedTeacher(labels=LABELS[::-1])

    async def reply(texts):
        return [answer("account")]  # the first of its labels, reversed: billing

    backwards.reply = reply
    shadow = await make_shadow(backwards).start()
    shadow.observe(label="billing")
    await shadow.process(label="account")
    assert [agree for (agree,) in shadow.rows("agree")] == [1, 0]


async def test_if_disabled_only_requests_are_counted(make_shadow):
    shadow = await make_shadow(enabled=False, teacher=None).start()
    shadow.observe(10)
    found = shadow.pipeline.gap()
    assert (found["verdict"], found["enabled"]) == ("blind", False)
    assert "shadow.enabled" in found["message"]
    assert found["counts"]["requests"] == 10
    assert found["counts"]["sampled"] == 0
    assert found["expected_gap"] == pytest.approx(shadow.metric("expected_disagreement_total") / 10)
    assert found["gap"]["ratio"] is None
    assert shadow.metric("requests_total", band="b2") == 10
    assert not shadow.settings.path.exists()
    await shadow.pipeline.stop()


async def test_the_report_is_json_in_every_state(make_shadow):
    shadow = make_shadow()
    states = [shadow.pipeline.gap()]
    await shadow.start()
    states.append(shadow.pipeline.gap())
    shadow.observe(5)
    states.append(shadow.pipeline.gap())
    await shadow.settled()
    states.append(shadow.pipeline.gap())
    await shadow.process(150)
    states.append(shadow.pipeline.gap())
    for state in states:
        json.dumps(state, allow_nan=False)
    assert [state["verdict"] for state in states] == ["blind", "watch", "watch", "watch", "stay"]
    assert all(state.keys() == states[0].keys() for state in states)
    assert "No text has been compared" in states[2]["message"]
    assert "by 5 comparisons" in states[3]["message"]


PER_BAND = ("requests", "expected_disagreement", "shadow_sampled", "shadow_resumed", "shadow_weight")


@pytest.mark.parametrize(
    ("name", "labels"),
    [("shadow_results", {"outcome": str(outcome)}) for outcome in OUTCOMES]
    + [("shadow_compared", {"agree": agrees}) for agrees in ("true", "false")]
    + [(name, {}) for name in PER_BAND],
)
async def test_every_label_set_exists_from_the_start(make_shadow, name, labels):
    shadow = make_shadow()
    for band in range(5):
        everything = {"model_version": VERSION, "band": f"b{band}", **labels}
        assert shadow.registry.get_sample_value(f"reflux_{name}_total", everything) == 0


async def test_a_gap_has_no_series_before_the_first_comparison_and_no_gauge_is_nan(make_shadow):
    gap = {"reflux_gap_ratio", "reflux_gap_lower", "reflux_gap_upper"}

    def names():
        samples = [sample for family in shadow.registry.collect() for sample in family.samples]
        assert not [sample for sample in samples if math.isnan(sample.value)]
        return {sample.name for sample in samples}

    shadow = await make_shadow().start()
    assert names() & gap == set()
    await shadow.process(1)
    assert names() >= gap
    await shadow.pipeline.stop()
    assert names() >= gap
    shadow = await make_shadow(version="of a reload").start()
    assert names() & gap == set()


async def test_the_log_evalue_follows_from_counters_and_constants(make_shadow):
    shadow = await make_shadow(lambda texts: disagree(texts) if texts[0].endswith("3") else agree(texts)).start()
    for top in (0.9999, 0.97, 0.5):
        shadow.observe(20, top=top)
    await shadow.settled()
    components: dict[tuple[str, str], float] = {}
    for family in shadow.registry.collect():
        for sample in family.samples:
            if sample.name == "reflux_gap_llr":
                band, alt, agreed = (sample.labels[name] for name in ("band", "alt", "agree"))
                count = shadow.metric("shadow_compared_total", band=band, agree=agreed)
                key = ("", alt) if alt == "spread" else (band, alt)
                components[key] = components.get(key, 0.0) + sample.value * count
    assert {alt for _, alt in components} == {"1.5", "5", "spread"}
    assert len(components) == 11
    mean = sum(math.exp(value) for value in components.values()) / 11
    assert math.log(mean) == pytest.approx(shadow.pipeline.gap()["evidence"]["log_evalue_bands"])


@pytest.mark.parametrize(
    ("text", "left", "countries", "kind"),
    [
        ("I am jane@example.org, card 4111 1111 1111 1111", "I am <EMAIL>, card <CARD>", [], "CARD"),
        ("０３０ １２３４５６７ oder a@b.org", "<PHONE> oder <EMAIL>", ["DE"], "PHONE"),
    ],
)
async def test_texts_are_redacted_before_disk_and_teacher(make_shadow, text, left, countries, kind):
    shadow = await make_shadow(phone_countries=countries).start()
    await shadow.process(text=text)
    assert shadow.teacher.asked == [left]
    assert shadow.rows("text") == [(left,)]
    assert shadow.metric("shadow_redactions_total", kind=kind) == 1
    content = b"".join(file.read_bytes() for file in shadow.settings.path.parent.glob("shadow.sqlite*"))
    assert not any(private in content for private in (b"jane", b"4111", "１２３".encode(), b"a@b"))


@pytest.mark.parametrize(("configured", "taken", "at_once"), [(8, 1, 1), (2, 5, 2), (3, 3, 3)])
async def test_concurrent_calls_are_limited_by_the_settings_and_by_the_teacher(make_shadow, configured, taken, at_once):
    asked = most = 0

    async def reply(texts):
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0)  # so that others may ask
        await asyncio.sleep(0)
        asked -= 1
        return await agree(texts)

    teacher = PlayedTeacher(reply)
    teacher.concurrency = taken
    shadow = await make_shadow(teacher, concurrency=configured).start()
    await shadow.process(40)
    assert shadow.outcomes() == {"completed": 40}
    assert most == at_once


async def test_a_text_with_half_a_surrogate_pair_is_processed(make_shadow):
    shadow = await make_shadow().start()
    await shadow.process(text="half \ud800 a pair, and a \0")
    assert shadow.outcomes() == {"completed": 1}


async def test_a_tenth_of_the_texts_is_for_evaluation(make_shadow):
    shadow = await make_shadow(concurrency=16).start()
    for _ in range(2):
        shadow.count = 0
        await shadow.process(400)
    splits = shadow.rows("text, split")
    assert 0.05 < sum(split == "eval" for _, split in splits) / len(splits) < 0.16
    assert len(set(splits)) == 400  # the same text is always on the same side


async def test_rows_have_the_columns_that_training_reads(make_shadow):
    shadow = await make_shadow(rate=0.5).start()
    while not shadow.metric("shadow_sampled_total"):
        shadow.observe(top=0.5)
    await shadow.settled()
    columns = "bundle, band, propensity, outcome, teacher, length(probabilities), length(answer), method, agree, split"
    (row, *_) = shadow.rows(columns)
    propensity = shadow.metric("shadow_propensity", band="b4")
    assert row[:9] == (VERSION, 4, propensity, "completed", "played@1", 12, 12, "local", 1)
    assert shadow.metric("shadow_weight_total", band="b4") == pytest.approx(1 / propensity)


async def test_equal_texts_are_asked_for_one_by_one(make_shadow):
    shadow = await make_shadow().start()
    for _ in range(3):
        shadow.pipeline.observe("the same", prediction())
    await shadow.settled()
    assert shadow.outcomes() == {"completed": 3}


async def test_texts_that_cannot_be_counted_are_counted_as_defects(make_shadow):
    shadow = await make_shadow().start()
    broken = prediction()._replace(score=math.nan)
    shadow.pipeline.observe("text", broken)
    assert shadow.metric("shadow_defects_total") == 1
    assert shadow.metric("requests_total") == 0


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (None, r"shadow\.enabled needs shadow\.teacher"),
        ({"kind": "oracle"}, r"shadow\.teacher: kind: expected one of .*bundle"),
    ],
)
async def test_enabled_without_an_available_teacher_is_refused(make_shadow, teacher, message):
    with pytest.raises(ShadowError, match=message):
        await make_shadow(teacher=teacher).pipeline.start()


async def test_a_teacher_of_other_labels_is_refused_and_closed(make_shadow):
    shadow = make_shadow(PlayedTeacher(labels=("a", "b", "c")))
    with pytest.raises(ShadowError, match="does not know the task's labels"):
        await shadow.start()
    assert shadow.teacher.closed
    await make_shadow().start()  # the outbox is free


async def test_an_outbox_in_use_is_refused(make_shadow):
    await make_shadow().start()
    other = make_shadow()
    with pytest.raises(ShadowError, match="another process uses this outbox"):
        await other.start()
    assert other.teacher.closed


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_multi_label_bundle_is_served_but_not_shadowed(make_bundle, tiny_teacher: Bundle, tmp_path, enabled):
    bundle = make_bundle(tmp_path / "bundle", multi_label=True)
    teacher = {"kind": "bundle", "path": tiny_teacher.path}
    settings = ShadowSettings(enabled=enabled, teacher=teacher, rate=1.0, path=tmp_path / "shadow.sqlite")
    pipeline = ShadowPipeline(settings, bundle, Reference.open(bundle), CollectorRegistry())
    if enabled:
        with pytest.raises(ShadowError, match=r"the bundle tiny is multi-label.*set shadow\.enabled to false"):
            await pipeline.start()
        assert not (tmp_path / "shadow.sqlite").exists()
    else:
        await pipeline.start()
        pipeline.observe("invoice", Classifier.load(bundle).classify("invoice"))
        assert pipeline.gap()["counts"]["requests"] == 1
    await pipeline.stop()
