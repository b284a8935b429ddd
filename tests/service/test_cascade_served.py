"""A cascade is served, shadowed, watched by a witness, compared and replaced like any other bundle."""

from __future__ import annotations

import pytest

from export.bundle.cascade import Cascade
from export.bundle.classifier import Classifier, GraphTokenizer
from export.bundle.format import GOLDEN, Golden, golden_jsonl, write_bundle
from export.bundle.witness import WITNESS, WitnessReference
from service.errors import StartupError
from tests.support.tiny_bundle import WORDS, build_bundle, build_cascade, build_witness, rewritten
from tests.support.waiting import until

SURE, UNSURE = "invoice", "my invoice is late"
CUT_OFF = 0.8
on_each = pytest.mark.parametrize("plan", [{"workers": 0}, {"workers": 1}, {"workers": 2}], ids=str)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A student that takes the word `invoice` for the label account, and one that is right about it."""
    folder = tmp_path_factory.mktemp("stages")
    return [
        build_bundle(folder / "quick", name="quick", flip={"invoice": "account"}),
        build_bundle(folder / "right", name="right"),
    ]


@pytest.fixture(scope="module")
def cascade(stages, tmp_path_factory):
    return build_cascade(tmp_path_factory.mktemp("cascades") / "cascade", stages, [CUT_OFF])


def publish(bundle, path):
    """Replace the bundle at `path` by a copy of `bundle`."""
    return write_bundle(path, {name: bundle.path / name for name in bundle.manifest.files}, bundle.manifest).path


async def answers(client, *texts, **body):
    response = await client.post("/classify", json={"texts": texts, **body})
    assert response.status_code == 200, response.text
    return response.json()["results"]


@on_each
async def test_each_result_names_the_stage_that_answered(running, cascade, plan):
    expected = Cascade.load(cascade).answer([SURE, UNSURE])
    async with running(bundle=cascade.path, **plan) as client:
        results = await answers(client, SURE, UNSURE, logits=True, embedding=True)
    assert [one["stage"] for one in results] == ["0-quick", "1-right"]
    for result, prediction in zip(results, expected, strict=True):
        assert result["label"] == cascade.manifest.labels[prediction.best]
        assert result["score"] == pytest.approx(prediction.score, abs=1e-5)
        assert result["logits"] == pytest.approx(prediction.logits, abs=1e-4)
        assert result["embedding"] == pytest.approx(prediction.embedding, abs=1e-4)


@on_each
async def test_three_stages_answer_as_they_do_offline_and_each_is_counted(running, stages, tmp_path, plan):
    middle = build_bundle(tmp_path / "middle", name="middle", flip={"invoice": "technical"})
    bundle = build_cascade(tmp_path / "cascade", [stages[0], middle, stages[1]], [CUT_OFF, 0.5])
    texts = [SURE, "my invoice", UNSURE, "parcel", "the parcel"]
    expected = Cascade.load(bundle).answer(texts)
    assert [one.stage for one in expected] == [0, 1, 2, 0, 1]
    names = ["0-quick", "1-middle", "2-right"]
    async with running(bundle=bundle.path, **plan) as client:
        results = await answers(client, *texts)
        model = (await client.get("/model")).json()
    assert [one["stage"] for one in results] == [names[one.stage] for one in expected]
    assert [one["label"] for one in results] == ["account", "technical", "billing", "shipping", "shipping"]
    assert [one["score"] for one in results] == pytest.approx([one.score for one in expected], abs=1e-5)
    assert model["answers_by_stage"] == dict(zip(names, (2, 2, 1), strict=True))


async def test_a_text_that_is_passed_on_is_tokenised_once_unless_a_stage_cuts_it(
    running, stages, tmp_path, monkeypatch
):
    shorter = rewritten(stages[1], tmp_path / "shorter", max_tokens=6)
    bundle = build_cascade(tmp_path / "cascade", [stages[0], shorter], [CUT_OFF])
    long, encoded, encode = f"{UNSURE} {UNSURE}", [], GraphTokenizer.encode
    async with running(bundle=bundle.path, workers=1) as client:
        monkeypatch.setattr(GraphTokenizer, "encode", lambda self, text: encoded.append(text) or encode(self, text))
        results = await answers(client, SURE, UNSURE, long)
    assert [(one["stage"], one["tokens"], one["truncated"]) for one in results] == [
        ("0-quick", 2, False),
        ("1-right", 5, False),
        ("1-right", 6, True),
    ]
    assert sorted(encoded) == sorted([SURE, UNSURE, long, long])


async def test_the_results_of_other_bundles_name_no_stage(client):
    (result,) = await answers(client, SURE)
    assert "stage" not in result
    model = (await client.get("/model")).json()
    assert (model.get("stages"), model["answers_by_stage"]) == (None, {})
    assert "reflux_cascade" not in (await client.get("/metrics")).text


async def test_the_answers_of_each_stage_are_counted(running, cascade):
    async with running(bundle=cascade.path) as client:
        await answers(client, SURE, UNSURE, SURE)
        model = (await client.get("/model")).json()
        page = (await client.get("/metrics")).text
    assert model["answers_by_stage"] == {"0-quick": 2, "1-right": 1}
    assert [(one["folder"], one["cut_off"]) for one in model["stages"]] == [
        ("stages/0-quick", CUT_OFF),
        ("stages/1-right", None),
    ]
    version = cascade.manifest.version
    assert f'reflux_cascade_answers_total{{model_version="{version}",stage="0-quick"}} 2.0' in page
    for stage in ("0-quick", "1-right"):
        (line,) = (
            one for one in page.splitlines() if f'run_seconds_total{{model_version="{version}",stage="{stage}"' in one
        )
        assert float(line.split()[1]) > 0
    assert f'reflux_input_tokens_count{{model_version="{version}"}} 3.0' in page


async def test_a_reload_replaces_a_bundle_by_a_cascade_and_back(running, stages, cascade, tmp_path):
    path = publish(stages[1], tmp_path / "served")
    async with running(bundle=path, admin=True) as client:
        for bundle, stage in ((cascade, "0-quick"), (stages[1], None), (cascade, "0-quick")):
            publish(bundle, path)
            assert (await client.post("/admin/reload")).status_code == 200
            (result,) = await answers(client, SURE)
            assert result.get("stage") == stage


async def test_a_cascade_may_be_the_candidate_beside_one_of_its_students(running, stages, cascade):
    async with running(bundle=stages[1].path, candidate=cascade.path) as client:
        for variant, label in (("stable", "billing"), ("candidate", "account")):
            response = await client.post("/classify", json={"text": SURE}, headers={"x-reflux-variant": variant})
            assert response.json()["results"][0]["label"] == label


async def test_a_golden_text_that_another_stage_answers_ends_the_start(running, stages, cascade, tmp_path):
    right = Classifier.load(stages[1]).classify(SURE)
    row = Golden(SURE, cascade.manifest.labels[right.best], tuple(right.probabilities.tolist()))
    other = rewritten(cascade, tmp_path / "other", {GOLDEN: golden_jsonl([row])})
    with pytest.raises(StartupError, match="golden row 1 of 1"):
        async with running(bundle=other.path):
            pass


async def test_the_gap_of_the_whole_is_estimated_with_a_witness(running, stages, cascade, tmp_path):
    witness = build_witness(tmp_path / "witness", cascade, stages[1])
    teacher = {"kind": "bundle", "path": str(stages[1].path)}
    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": teacher}
    async with running(bundle=cascade.path, shadow={**shadow, "witness": witness.path}) as client:
        await answers(client, *["invoice"] * 20, *["refund"] * 40, UNSURE)
        found = {}

        async def compared():
            found.update((await client.get("/gap")).json())
            return found["counts"]["compared"] == 61

        await until(compared)
    assert found["model_version"] == cascade.manifest.version
    assert found["gap"]["ratio"] == pytest.approx(20 / 61, abs=0.01)
    assert found["witness"]["seen"] == 61


async def test_a_cascade_may_be_the_witness_and_the_teacher(running, stages, cascade, tmp_path):
    joint = WitnessReference.open(build_witness(tmp_path / "witness", stages[1], stages[0]))
    witness = rewritten(cascade, tmp_path / "cascade", {WITNESS: joint.to_bytes()})
    teacher = {"kind": "bundle", "path": str(cascade.path)}
    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": teacher}
    async with running(bundle=stages[1].path, shadow={**shadow, "witness": witness.path}) as client:
        await answers(client, SURE, UNSURE, *[words[1] for words in WORDS.values()])
        found = {}

        async def compared():
            found.update((await client.get("/gap")).json())
            return found["counts"]["compared"] == found["witness"]["seen"] == 6

        await until(compared)
    assert found["witness"]["agreement"] == pytest.approx(5 / 6)
    assert found["gap"]["ratio"] == pytest.approx(1 / 6, abs=0.01)
