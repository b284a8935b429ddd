"""A multi-label bundle gives each text as many labels as it has, from none to all; other bundles say nothing of it."""

import pytest

from reflux_client.answers import Classification
from service.errors import StartupError

LABELS = ["billing", "shipping", "account", "technical"]


@pytest.fixture(scope="module")
def several(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "several", multi_label=True)


async def results(client, texts, **body):
    response = await client.post("/classify", json={"texts": texts, **body})
    assert response.status_code == 200, response.text
    return response.json()["results"]


async def test_each_text_has_the_labels_from_the_threshold_best_first(running, several):
    texts = ["invoice", "parcel invoice parcel", "please help", "login invoice parcel"]
    async with running(bundle=several.path) as client:
        found = await results(client, texts)
    assert [answer["labels"] for answer in found] == [
        ["billing"],
        ["shipping", "billing"],
        [],
        ["billing", "shipping", "account"],
    ]


async def test_the_most_probable_label_is_told_also_where_none_is_given(running, several):
    async with running(bundle=several.path) as client:
        clear, none = await results(client, ["parcel invoice parcel", "please help"], top_k=4)
    assert (clear["label"], clear["score"]) == (clear["top"][0]["label"], clear["top"][0]["score"])
    assert clear["label"] == "shipping"
    assert sum(one["score"] for one in clear["top"]) > 1
    assert none["label"] == "billing"
    assert none["score"] < 0.5


@pytest.mark.parametrize(("threshold", "labels"), [(0.2, LABELS), (0.7, ["billing"]), (0.99, [])])
async def test_the_threshold_is_the_bundles_own(running, make_bundle, tmp_path, threshold, labels):
    bundle = make_bundle(tmp_path / "bundle", multi_label=True, threshold=threshold)
    async with running(bundle=bundle.path) as client:
        assert (await results(client, ["invoice"]))[0]["labels"] == labels


async def test_a_probability_of_exactly_the_threshold_is_enough(running, make_bundle, several, tmp_path):
    exact = next(row for row in several.golden() if row.text == "my invoice is late")
    threshold = max(exact.probabilities)
    bundle = make_bundle(tmp_path / "bundle", multi_label=True, threshold=threshold)
    async with running(bundle=bundle.path) as client:
        (answer,) = await results(client, [exact.text])
    assert answer["labels"] == ["billing", "shipping"]


async def test_one_label_is_given_or_not(running, make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", labels=("billing",), multi_label=True)
    async with running(bundle=bundle.path) as client:
        given, none = await results(client, ["invoice", "parcel please"], top_k=1)
        assert (await client.get("/model")).json()["labels"] == ["billing"]
    assert (given["label"], given["labels"], none["labels"]) == ("billing", ["billing"], [])
    assert none["score"] < 0.5 < given["score"]


async def test_a_bundle_of_one_label_per_text_says_nothing_of_several(client):
    (answer,) = await results(client, ["invoice"])
    assert "labels" not in answer


async def test_the_client_reads_them(running, several):
    async with running(bundle=several.path) as client:
        response = await client.post("/classify", json={"texts": ["parcel invoice parcel", "please help"]})
    read = Classification.from_json(response.json())
    assert [result.labels for result in read.results] == [("shipping", "billing"), ()]


async def test_it_is_not_shadowed(running, several, tmp_path, tiny_teacher):
    shadow = {"path": tmp_path / "s.sqlite", "enabled": True, "teacher": {"kind": "bundle", "path": tiny_teacher.path}}
    with pytest.raises(StartupError, match="shadow: the bundle tiny is multi-label"):
        async with running(bundle=several.path, shadow=shadow):
            pass
