"""The Open Inference Protocol: its routes, its tensors in JSON and in bytes, and its real clients."""

import asyncio
import json

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from service.compat.open_inference.tensors import write_strings
from service.inference import dataplane

from .conftest import LABELS, refused, scores, tensor

PATH = "/v2/models/tiny/infer"


async def infer(client, texts, path=PATH, **options):
    response = await client.post(path, json={"inputs": [tensor(texts)], **options})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("binary", [True, False])
async def test_triton_s_client_gets_the_native_answers(server, native, texts, binary):
    results = await native(server, texts)

    def ask():
        client = triton.InferenceServerClient(server.base_url.netloc.decode())
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.get_model_metadata("tiny")["outputs"][1]["shape"] == [-1, 4]
        given = triton.InferInput("text", [len(texts)], "BYTES")
        given.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")]
        whole = client.infer("tiny", [given], request_id="42", outputs=wanted, timeout=10_000_000)
        usual = client.infer("tiny", [given])
        ranked = client.infer("tiny", [given], outputs=[triton.InferRequestedOutput("probabilities", class_count=2)])
        return whole, usual, ranked

    whole, usual, ranked = await asyncio.to_thread(ask)
    assert whole.get_response()["id"] == "42"
    labels = [label.decode() if isinstance(label, bytes) else label for label in whole.as_numpy("label").tolist()]
    assert labels == [result["label"] for result in results]
    np.testing.assert_allclose(whole.as_numpy("probabilities"), [scores(result) for result in results], atol=1e-6)
    np.testing.assert_array_equal(usual.as_numpy("label").astype(str), labels)
    np.testing.assert_allclose(usual.as_numpy("probabilities"), [scores(result) for result in results], atol=1e-6)
    for row, result in zip(ranked.as_numpy("probabilities").astype(str), results, strict=True):
        for item, expected in zip(row, result["top"][:2], strict=True):
            score, index, label = item.split(":")
            assert (label, LABELS[int(index)]) == (expected["label"], expected["label"])
            assert float(score) == pytest.approx(expected["score"], abs=1e-6)


async def test_triton_s_client_shows_the_error(server):
    def ask():
        client = triton.InferenceServerClient(server.base_url.netloc.decode())
        given = triton.InferInput("text", [1], "BYTES")
        given.set_data_from_numpy(np.array(["invoice"], dtype=np.object_))
        client.infer("other", [given])

    with pytest.raises(InferenceServerException, match="the model other is not served here") as raised:
        await asyncio.to_thread(ask)
    assert raised.value.status() == "404"


@pytest.mark.parametrize("binary", [True, False])
async def test_kserve_s_client_gets_the_native_answers(server, native, texts, binary):
    kserve = pytest.importorskip("kserve", reason="kserve brings kubernetes, grpc and pandas: not in `dev`")
    results = await native(server, texts)
    given = kserve.InferInput("text", [len(texts)], "BYTES")
    given.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
    request = kserve.InferRequest("tiny", [given], request_id="42", parameters={"binary_data_output": binary})
    base = str(server.base_url)
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=30)) as client:
        assert await client.is_server_live(base)
        assert await client.is_server_ready(base)
        assert await client.is_model_ready(base, "tiny")
        reply = await client.infer(base, request, model_name="tiny")
    assert reply.id == "42"
    labels = reply.get_output_by_name("label").as_numpy().tolist()
    assert [label.decode() if isinstance(label, bytes) else label for label in labels] == [
        result["label"] for result in results
    ]
    np.testing.assert_allclose(
        reply.get_output_by_name("probabilities").as_numpy(), [scores(result) for result in results], atol=1e-6
    )


async def test_label_and_probabilities_are_the_default_outputs(client, native, texts, tiny_bundle):
    results = await native(client, texts)
    reply = await infer(client, texts, id="42")
    assert reply == {
        "model_name": "tiny",
        "model_version": tiny_bundle.manifest.version,
        "id": "42",
        "outputs": [
            {"name": "label", "shape": [3], "datatype": "BYTES", "data": [result["label"] for result in results]},
            {
                "name": "probabilities",
                "shape": [3, 4],
                "datatype": "FP32",
                "data": [value for row in [scores(result) for result in results] for value in row],
            },
        ],
    }
    [only] = (await infer(client, texts, outputs=[{"name": "logits"}]))["outputs"]
    assert only["name"] == "logits"
    assert only["data"] == [value for result in results for value in result["logits"]]


async def test_without_an_id_the_response_has_that_of_the_request(client):
    response = await client.post(PATH, json={"inputs": [tensor(["a"])]}, headers={"x-request-id": "mine"})
    assert response.json()["id"] == "mine"


@pytest.mark.parametrize(
    ("shape", "data"),
    [([2], ["invoice", "parcel"]), ([2, 1], ["invoice", "parcel"]), ([2, 1], [["invoice"], ["parcel"]])],
)
async def test_texts_may_come_as_a_column(client, shape, data):
    response = await client.post(PATH, json={"inputs": [tensor(data, shape=shape)]})
    assert response.json()["outputs"][0]["data"] == ["billing", "shipping"]


async def test_unknown_parameters_are_ignored(client):
    body = {
        "model_name": "tiny",
        "parameters": {"priority": 3, "mine": "x"},
        "inputs": [tensor(["invoice"], parameters={"content_type": "str"})],
        "outputs": [{"name": "label", "parameters": {"content_type": "str"}}],
    }
    response = await client.post(PATH, json=body)
    assert response.json()["outputs"][0]["data"] == ["billing"]


async def test_the_classification_extension_lists_the_best_classes(client, native, texts):
    [result] = await native(client, texts[:1])
    outputs = [{"name": "probabilities", "parameters": {"classification": 9}}]
    [listed] = (await infer(client, texts[:1], outputs=outputs))["outputs"]
    expected = [f"{item['score']:.6f}:{LABELS.index(item['label'])}:{item['label']}" for item in result["top"]]
    assert listed == {"name": "probabilities", "shape": [1, 4], "datatype": "BYTES", "data": expected}


@pytest.mark.parametrize("name", ["args", "array_inputs"])
async def test_mlserver_s_input_is_answered_with_its_output(client, native, texts, name):
    results = await native(client, texts)
    body = {"inputs": [tensor(texts, name=name, shape=[len(texts), 1])]}
    [output] = (await client.post(PATH, json=body)).json()["outputs"]
    assert output["name"] == "output"
    assert output["shape"] == [len(texts), 1]
    assert output["parameters"] == {"content_type": "hg_jsonlist"}
    assert [json.loads(item) for item in output["data"]] == [result["top"][0] for result in results]


def binary(texts, *, before=b"", after=b"", size=None, **options):
    """Return the content and the headers of a request whose texts follow its JSON."""
    data = before + write_strings(texts)
    given = tensor(texts, parameters={"binary_data_size": len(data) if size is None else size})
    del given["data"]
    head = json.dumps({"inputs": [given], **options}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    return {"content": head + data + after, "headers": headers}


async def test_texts_and_outputs_may_be_bytes(client, native, texts):
    results = await native(client, texts)
    outputs = [
        {"name": "probabilities", "parameters": {"binary_data": True}},
        {"name": "label", "parameters": {"binary_data": False}},
        {"name": "output"},
    ]
    response = await client.post(PATH, **binary(texts, outputs=outputs, parameters={"binary_data_output": True}))
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    first, second, third = json.loads(response.content[:length])["outputs"]
    data = response.content[length:]
    assert first["parameters"] == {"binary_data_size": 3 * 4 * 4}
    assert second["data"] == [result["label"] for result in results]
    assert third["parameters"] == {"content_type": "hg_jsonlist", "binary_data_size": len(data) - 48}
    assert "data" not in first
    values = np.frombuffer(data[:48], dtype="<f4").reshape(3, 4)
    np.testing.assert_allclose(values, [scores(result) for result in results], atol=1e-6)
    assert data[48:] == write_strings([json.dumps(result["top"][0], ensure_ascii=False) for result in results])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"after": b"x"}, "inputs[0]: 9 bytes are declared after the JSON and 10 are there"),
        ({"size": 8}, "inputs[0]: 8 bytes are declared after the JSON and 9 are there"),
        ({"before": b"\x01\0\0\0\xff"}, "inputs[0]: item 0 is not UTF-8"),
        ({"before": b"\x01\0\0\0 "}, "inputs[0][0]: String should match pattern"),
        ({"before": b"\x01\0\0\0a"}, "inputs[0].shape: [1], with 2 texts; give [2] or [2, 1]"),
    ],
)
async def test_bytes_that_do_not_fit_are_refused(client, options, message):
    assert refused(await client.post(PATH, **binary(["hello"], **options)), 422).startswith(message)


async def test_an_invalid_length_header_is_refused(client):
    request = binary(["hello"])
    request["headers"]["Inference-Header-Content-Length"] = "99999"
    assert "Inference-Header-Content-Length" in refused(await client.post(PATH, **request), 400)


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (0, None), (1_500_000, 1.5), (250, 0.00025)])
async def test_the_timeout_in_microseconds_is_the_deadline(client, monkeypatch, timeout, seconds):
    asked = []
    answer = dataplane.classify

    async def remember(*arguments, timeout_seconds, **options):
        asked.append(timeout_seconds)
        return await answer(*arguments, **options)

    monkeypatch.setattr(dataplane, "classify", remember)
    await infer(client, ["invoice"], parameters={} if timeout is None else {"timeout": timeout})
    assert asked == [seconds]


async def test_a_missed_timeout_has_the_protocol_s_error_shape(client):
    response = await client.post(PATH, json={"inputs": [tensor(["invoice"])], "parameters": {"timeout": 1}})
    assert response.status_code in (429, 504)
    refused(response, response.status_code)


async def test_a_named_version_must_be_the_served_one(client, tiny_bundle):
    version = tiny_bundle.manifest.version
    for path in ("", "/ready"):
        assert (await client.get(f"/v2/models/tiny/versions/{version}{path}")).status_code == 200
        assert "version 0," in refused(await client.get(f"/v2/models/tiny/versions/0{path}"), 404)
        assert "there is tiny" in refused(await client.get(f"/v2/models/other{path}"), 404)
    reply = await infer(client, ["invoice"], f"/v2/models/tiny/versions/{version}/infer")
    assert reply["model_version"] == version
    response = await client.post("/v2/models/tiny/versions/0/infer", json={"inputs": [tensor(["a"])]})
    assert version in refused(response, 404)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/nope", 404), ("GET", "/v2/models/tiny/infer", 405)]
)
async def test_unknown_paths_and_methods_have_the_protocol_s_error_shape(client, method, path, status):
    refused(await client.request(method, path), status)


async def test_a_version_in_the_path_chooses_between_the_stable_and_the_candidate(running, make_bundle, tmp_path):
    candidate = make_bundle(tmp_path / "candidate", flip={"refund": "shipping"})
    async with running(candidate=candidate.path) as client:
        versions = (await client.get("/v2/models/tiny")).json()["versions"]
        assert candidate.manifest.version in versions
        assert len(versions) == 2
        answers = {}
        for version in versions:
            reply = await infer(client, ["refund"], f"/v2/models/tiny/versions/{version}/infer")
            assert reply["model_version"] == version
            answers[version] = reply["outputs"][0]["data"]
        assert answers.pop(candidate.manifest.version) == ["shipping"]
        assert list(answers.values()) == [["billing"]]


async def test_the_server_and_the_model_describe_themselves(client, tiny_bundle):
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await client.get("/v2/models/tiny/ready")).json() == {"name": "tiny", "ready": True}
    assert (await client.get("/v2")).json()["name"] == "reflux"
    metadata = (await client.get("/v2/models/tiny")).json()
    assert metadata["versions"] == [tiny_bundle.manifest.version]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    outputs = [{"name": output["name"]} for output in metadata["outputs"]]
    for described, sent in zip(
        metadata["outputs"], (await infer(client, ["a"], outputs=outputs))["outputs"], strict=True
    ):
        assert described["datatype"] == sent["datatype"]
        assert described["shape"][1:] == sent["shape"][1:]
