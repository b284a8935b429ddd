"""What `POST /classify` answers, and what it says when it does not."""

import dataclasses
import itertools
import json

import pytest

from export.bundle.classifier import Classifier
from export.bundle.format import GOLDEN, golden_jsonl, write_bundle
from service.routes.classify import ClassifyResponse

LABELS = ["billing", "shipping", "account", "technical"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def client(shared_client):
    """One app for all: no answer leaves a trace in the next."""
    return shared_client


async def classify(client, **body):
    return await client.post("/classify", json=body)


async def result(client, **body):
    response = await classify(client, **body)
    assert response.status_code == 200, response.text
    return response.json()["results"][0]


def error(response, status, code):
    """The message of an error, once its shape is right."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    return body["error"]["message"]


async def test_one_text_is_answered_with_what_the_classifier_says(client, tiny_bundle, words):
    text = " ".join(words["shipping"][:3])
    prediction = Classifier.load(tiny_bundle).classify(text)
    response = await classify(client, text=text)
    assert response.json() == {
        "request_id": response.headers["x-request-id"],
        "model": "tiny",
        "version": tiny_bundle.manifest.version,
        "results": [
            {
                "label": "shipping",
                "score": pytest.approx(float(prediction.probabilities[1]), abs=1e-6),
                "top": [{"label": "shipping", "score": pytest.approx(float(prediction.probabilities[1]), abs=1e-6)}],
                "tokens": 4,
                "truncated": False,
            }
        ],
    }


async def test_several_texts_are_answered_in_order_and_as_each_would_be_alone(client, words):
    texts = [words[label][0] for label in LABELS]
    response = await classify(client, texts=texts)
    assert [item["label"] for item in response.json()["results"]] == LABELS
    assert response.json()["results"] == [await result(client, text=text) for text in texts]


async def test_a_list_of_one_is_answered_like_the_text(client):
    assert await result(client, texts=["invoice"]) == await result(client, text="invoice")


@pytest.mark.parametrize(("top_k", "listed"), [(None, 1), (1, 1), (3, 3), (4, 4), (5, 4), (10**30, 4)])
async def test_top_k_lists_that_many_labels_or_all_there_are(client, top_k, listed):
    answer = await result(client, text="refund invoice courier", **({"top_k": top_k} if top_k else {}))
    assert len(answer["top"]) == listed
    assert answer["top"][0] == {"label": answer["label"], "score": answer["score"]}
    scores = [item["score"] for item in answer["top"]]
    assert scores == sorted(scores, reverse=True)
    if listed == len(LABELS):
        assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("asked", [{}, {"logits": True}, {"embedding": True}, {"logits": True, "embedding": True}])
async def test_logits_and_embedding_are_given_to_whoever_asks(client, tiny_bundle, asked):
    prediction = Classifier.load(tiny_bundle).classify("my invoice")
    answer = await result(client, text="my invoice", **asked)
    assert {name for name in ("logits", "embedding") if name in answer} == set(asked)
    for name in asked:
        assert answer[name] == pytest.approx(getattr(prediction, name).tolist(), abs=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
async def test_the_answer_written_by_hand_is_what_its_model_would_write(running, make_bundle, tmp_path, multi_label):
    odd = ('say "hi"', "back\\slash\n\ttab", "naïve 日本 🎉 \u2028\x00", "</script>")
    tiny = make_bundle(tmp_path / "tiny", multi_label=multi_label)
    named = dict(zip(tiny.manifest.labels, odd, strict=True))
    contents = {name: tiny.path / name for name in tiny.manifest.files}
    contents[GOLDEN] = golden_jsonl([dataclasses.replace(row, label=named[row.label]) for row in tiny.golden()])
    bundle = write_bundle(tmp_path / "odd", contents, dataclasses.replace(tiny.manifest, name='a "name"', labels=odd))
    async with running(bundle=bundle.path) as client:
        for top_k, logits, embedding in itertools.product((1, 2, 9), (False, True), (False, True)):
            asked = {"texts": ["invoice", "my parcel is late", "please"], "top_k": top_k}
            response = await classify(client, **asked, logits=logits, embedding=embedding)
            read = ClassifyResponse.model_validate_json(response.content, strict=True, extra="forbid")
            assert response.json() == read.model_dump(exclude_none=True)
            assert (read.model, read.version) == ('a "name"', bundle.manifest.version)
            for item in read.results:
                assert (item.label, item.score) == (item.top[0].label, item.top[0].score)
                assert len({one.label for one in item.top}) == len(item.top) == min(top_k, 4)
                assert (item.logits is not None, item.embedding is not None) == (logits, embedding)
            assert [item.label for item in read.results[:2]] == [odd[0], odd[1]]


async def test_of_equal_scores_the_first_label_wins(client):
    assert (await result(client, text="hello"))["label"] == LABELS[0]


@pytest.mark.parametrize(
    "text", ["🎉 colis n° 5 déjà livré", "\0", "nul \0 within", "‮right to left", "a" * 500, "\u200b", "한국어 텍스트"]
)
async def test_any_visible_or_invisible_character_is_answered(client, text):
    assert (await result(client, text=text))["label"] in LABELS


async def test_case_and_escapes_do_not_change_a_text(client):
    body = r'{"text": "\u0069nvoice"}'
    response = await client.post("/classify", content=body, headers={"content-type": "application/json"})
    assert response.json()["results"][0] == await result(client, text="invoice")


async def test_a_long_text_is_read_as_far_as_the_graph_reads_and_the_answer_says_so(client):
    answer = await result(client, text="invoice " * 1000)
    assert (answer["label"], answer["tokens"], answer["truncated"]) == ("billing", 32, True)


async def test_a_text_of_a_megabyte_is_answered_where_the_limits_allow_it(running):
    async with running(max_body_bytes=2_000_000, max_characters=1_000_000) as client:
        answer = await result(client, text="courier " * 125_000)
        assert (answer["label"], answer["truncated"]) == ("shipping", True)


async def test_a_text_of_a_megabyte_is_refused_by_default(client):
    message = error(await classify(client, text="a" * 1_000_000), 422, "invalid")
    assert message == "text: at most 100000 characters, got 1000000"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "body: give exactly one of `text` and `texts`"),
        ({"text": "a", "texts": ["b"]}, "body: give exactly one of `text` and `texts`"),
        ({"text": None}, "body: give exactly one of `text` and `texts`"),
        ({"text": 3}, "text: Input should be a valid string"),
        ({"text": ["a"]}, "text: Input should be a valid string"),
        ({"text": ""}, r"text: String should match pattern '\S'"),
        ({"text": " \n\t"}, r"text: String should match pattern '\S'"),
        ({"texts": "a"}, "texts: Input should be a valid array"),
        ({"texts": []}, "texts: List should have at least 1 item after validation, not 0"),
        ({"texts": ["a", None, "b"]}, "texts[1]: Input should be a valid string"),
        ({"texts": ["a", " "]}, r"texts[1]: String should match pattern '\S'"),
        ({"texts": ["a"] * 65}, "texts: at most 64 per request, got 65"),
        ({"text": "a", "top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"text": "a", "top_k": -1}, "top_k: Input should be greater than or equal to 1"),
        ({"text": "a", "top_k": "2"}, "top_k: Input should be a valid integer"),
        ({"text": "a", "top_k": 1.5}, "top_k: Input should be a valid integer"),
        ({"text": "a", "top_k": True}, "top_k: Input should be a valid integer"),
        ({"text": "a", "inputs": "b"}, "inputs: Extra inputs are not permitted"),
        ([], "body: Input should be an object"),
        ("a", "body: Input should be an object"),
        (None, "body: Input should be an object"),
    ],
)
async def test_a_field_that_does_not_fit_is_named_with_what_was_expected(client, body, message):
    response = await client.post("/classify", content=json.dumps(body), headers={"content-type": "application/json"})
    assert error(response, 422, "invalid") == message


async def test_many_wrong_fields_are_summed_up(client):
    message = error(await classify(client, texts=[1] * 10), 422, "invalid")
    assert message.endswith("texts[2]: Input should be a valid string; and 7 more")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"text": "a"} x',
        b"text=a",
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        '{"text": "a"}'.encode("utf-16"),
        b"[" * 100_000,
    ],
)
async def test_a_body_that_is_not_json_is_malformed(client, body):
    response = await client.post("/classify", content=body, headers={"content-type": "application/json"})
    assert error(response, 400, "malformed").startswith("the body is not JSON in UTF-8: ")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/ld+json"])
async def test_json_by_any_of_its_names_is_read(client, content_type):
    response = await client.post("/classify", content=b'{"text": "a"}', headers={"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "text/json"])
async def test_a_body_declared_as_something_else_is_refused(client, content_type):
    response = await client.post("/classify", content=b'{"text": "a"}', headers={"content-type": content_type})
    assert "application/json" in error(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused_be_its_length_declared_or_not(running, declared):
    body = json.dumps({"text": "a" * 1000}).encode()

    async def chunks():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    headers = {"content-type": "application/json"}
    for limit, status in ((len(body), 200), (len(body) - 1, 413)):
        async with running(max_body_bytes=limit) as client:
            response = await client.post("/classify", content=body if declared else chunks(), headers=headers)
            assert response.status_code == status
    assert str(limit) in error(response, 413, "too_large")


@pytest.mark.parametrize("body", [{"text": "poison"}, {"texts": ["invoice", "poison", "courier"]}])
async def test_a_text_that_the_graph_fails_on_is_an_error_and_never_an_answer(client, body):
    error(await client.post("/classify", json=body), 500, "inference_failed")
    assert (await result(client, text="invoice"))["label"] == "billing"


async def test_a_classifier_that_raises_anything_fails_one_request(client, monkeypatch):
    def fail(self, rows):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "run", fail)
        message = error(await classify(client, text="invoice"), 500, "inference_failed")
        assert "bug" not in message
    assert (await result(client, text="invoice"))["label"] == "billing"


async def test_what_cannot_be_answered_in_time_is_refused_before_any_work(client, monkeypatch):
    encoded = []
    monkeypatch.setattr(Classifier, "encode", lambda self, text: encoded.append(text))
    response = await client.post("/classify", json={"text": "a"}, headers={"x-request-timeout-ms": "0.000001"})
    error(response, 429, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert encoded == []
