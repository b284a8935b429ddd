"""SageMaker's `/invocations` and `/ping`, and Vertex AI's `/vertex`."""

from .conftest import refused


async def test_invocations_answers_as_the_root_does(client, texts):
    for body in ({"inputs": texts[0]}, {"inputs": [[text] for text in texts]}, {"inputs": texts, "parameters": {}}):
        expected = (await client.post("/", json=body)).json()
        assert (await client.post("/invocations", json=body)).json() == expected


async def test_ping_says_that_the_service_is_ready(client):
    assert (await client.get("/ping")).json() == {"status": "ok"}


async def test_vertex_answers_each_instance_as_the_native_route_does(client, native, texts):
    results = await native(client, texts)
    response = await client.post("/vertex", json={"instances": texts, "parameters": None})
    assert response.json() == {"predictions": [result["top"] for result in results]}


async def test_an_instance_may_have_its_own_options(client, native, texts):
    first, second = await native(client, texts[:2])
    instances = [{"inputs": texts[0], "raw_scores": True}, texts[1]]
    predictions = (await client.post("/vertex", json={"instances": instances, "parameters": {}})).json()["predictions"]
    assert [item["score"] for item in predictions[0]] == sorted(first["logits"], reverse=True)
    assert predictions[1] == second["top"]


async def test_truncate_false_applies_to_its_instance_alone(client):
    long = "invoice " * 40
    whole = {"inputs": long, "truncate": False}
    assert (await client.post("/vertex", json={"instances": [long]})).status_code == 200
    response = await client.post("/vertex", json={"instances": [long, whole]})
    assert refused(response, 422).startswith("instances[1]: more than the 32 tokens")
