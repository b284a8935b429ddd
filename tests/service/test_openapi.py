"""The schemas of the OpenAPI document fit the answers, and reject what the service rejects."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import pytest_asyncio

from service.compat.errors import error_shape
from tests.support.tiny_bundle import WORDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def fits(value, schema, document):
    """Whether a value is valid under a JSON schema. Raises KeyError for a keyword it does not know."""
    checks = {
        "$ref": lambda ref: fits(value, document["components"]["schemas"][ref.rsplit("/", 1)[1]], document),
        "type": lambda kind: value is None if kind == "null" else is_a(value, kind),
        "anyOf": lambda options: any(fits(value, option, document) for option in options),
        "oneOf": lambda options: sum(fits(value, option, document) for option in options) == 1,
        "properties": lambda properties: all(
            fits(value[name], part, document) for name, part in properties.items() if name in value
        ),
        "required": lambda names: set(names) <= set(value),
        "additionalProperties": lambda allowed: all(
            allowed if isinstance(allowed, bool) else fits(value[name], allowed, document)
            for name in set(value) - set(schema.get("properties", ()))
        ),
        "items": lambda part: all(fits(item, part, document) for item in value),
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "minProperties": lambda least: len(value) >= least,
        "maxProperties": lambda most: len(value) <= most,
        "maxLength": lambda most: len(value) <= most,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
        "enum": lambda values: value in values,
        "const": lambda only: value == only,
    }
    silent = {"title", "description", "default"}
    # The type first, which the other keywords assume.
    keywords = sorted(set(schema) - silent, key=lambda keyword: keyword != "type")
    return all(checks[keyword](schema[keyword]) for keyword in keywords)


def is_a(value, kind):
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


@pytest.fixture
def client(shared_client):
    return shared_client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(shared_client):
    return (await shared_client.get("/openapi.json")).json()


def answer_schema(document, method, path, status):
    return document["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": "invoice"}, 200),
        ({"texts": ["invoice", "courier"], "top_k": 3}, 200),
        ({"text": None, "texts": ["invoice"]}, 200),
        ({"text": "invoice", "texts": None}, 200),
        ({"text": "a" * 100_000}, 200),
        ({"texts": ["a"] * 64}, 200),
        ({"text": "a" * 100_001}, 422),
        ({"texts": ["a"] * 65}, 422),
        ({"texts": ["a", "a" * 100_001]}, 422),
        ({}, 422),
        ({"text": "a", "texts": ["b"]}, 422),
        ({"text": None, "texts": None}, 422),
        ({"text": 1}, 422),
        ({"text": " "}, 422),
        ({"texts": []}, 422),
        ({"texts": [None]}, 422),
        ({"text": "a", "top_k": 0}, 422),
        ({"text": "a", "top_k": "1"}, 422),
        ({"text": "a", "top_k": True}, 422),
        ({"text": "a", "more": 1}, 422),
        ([], 422),
        ("a", 422),
    ],
)
async def test_the_request_schema_admits_what_the_service_answers_and_refuses_what_it_refuses(
    client, document, body, status
):
    described = document["paths"]["/classify"]["post"]["requestBody"]
    assert described["required"] is True
    assert fits(body, described["content"]["application/json"]["schema"], document) == (status == 200)
    response = await client.post("/classify", json=body)
    assert response.status_code == status
    assert fits(response.json(), answer_schema(document, "post", "/classify", status), document)


async def test_an_error_of_any_path_has_the_form_that_is_documented_for_its_routes(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/classify":  # where the body says who asks
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{error_shape(path).__name__}"}, path


TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
CHOICE = {"type": "choice", "instructions": "Which?", "choices": [{"value": label} for label in WORDS]}
CRITERIA = {"type": "choice", "criteria": {label: f"about {label}" for label in WORDS}}
PROTOCOLS: dict[str, tuple[str, list[Any]]] = {
    "/predict": ("/predict", [{"inputs": "a"}, {"inputs": ["a"]}, {"inputs": [["a"], ["b"]], "raw_scores": True}]),
    "/": ("/", [{"inputs": "a"}, {"inputs": ["a", "b"], "parameters": {"top_k": 1, "function_to_apply": "none"}}]),
    "/invocations": ("/invocations", [{"inputs": "a", "truncate": None}, {"inputs": "a", "parameters": {}}]),
    "/vertex": ("/vertex", [{"instances": ["a", {"inputs": "b", "raw_scores": True}], "parameters": {}}]),
    "/v1/models/{name}:predict": ("/v1/models/tiny:predict", [{"instances": ["a"]}, {"inputs": ["a", "b"]}]),
    "/v2/models/{name}/infer": (
        "/v2/models/tiny/infer",
        [
            {"inputs": [TENSOR]},
            {"inputs": [{**TENSOR, "shape": [2, 1], "data": [["a"], ["b"]]}], "more": 1},
            {"inputs": [TENSOR], "outputs": [{"name": "logits", "parameters": {"classification": 2}}], "id": "x"},
        ],
    ),
    "/classify": ("/classify", [{"input": ["a"], "model": "tiny"}, {"input": ["a"], "raw_scores": True}]),
    "/v1/classify": ("/v1/classify", [{"input": "a"}, {"input": ["a", "b"], "use_activation": False}]),
    "/v1/decisions": (
        "/v1/decisions",
        [
            {"input": "a", "questions": [CHOICE]},
            {"input": [{"role": "user", "content": "a"}], "questions": [{**CHOICE, "name": "b"}], "model": "c"},
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "questions": [CHOICE] * 2},
        ],
    ),
    "/v1/systemone": (
        "/v1/systemone",
        [
            {"state": "a", "questions": {"q": CRITERIA}, "more": 1},
            {"state": "a", "questions": {"q": {**CRITERIA, "instructions": ["a"]}, "": CRITERIA}, "assets": None},
        ],
    ),
}
MISFITS: dict[str, list[Any]] = {
    "/predict": [{}, {"inputs": ["a", "b"]}, {"inputs": [["a", "b"]]}, {"inputs": "a", "parameters": {}}, "a"],
    "/": [{"inputs": ["a", "b"]}, {"inputs": "a", "parameters": {"top_k": 0}}, {"inputs": [" "], "parameters": {}}],
    "/invocations": [
        {"inputs": []},
        {"inputs": "a", "parameters": None},
        {"inputs": "a", "truncation_direction": "left"},
    ],
    "/vertex": [{"instances": []}, {"instances": [["a"]]}, {"instances": ["a"] * 65}, {"instances": ["a" * 100_001]}],
    "/v1/models/{name}:predict": [
        {},
        {"instances": ["a"], "inputs": ["b"]},
        {"instances": "a"},
        {"inputs": ["a"] * 65},
    ],
    "/v2/models/{name}/infer": [
        {"inputs": []},
        {"inputs": [{**TENSOR, "datatype": "FP32"}]},
        {"inputs": [{**TENSOR, "data": [["a", "b"]]}]},
        {"inputs": [{**TENSOR, "shape": [0]}]},
        {"inputs": [TENSOR], "outputs": [{"name": "more"}]},
        {"inputs": [TENSOR], "parameters": {"timeout": "1"}},
    ],
    "/classify": [{"input": "a"}, {"input": ["a"], "text": "a"}, {"input": ["a"] * 65}, {"input": ["a"], "top_k": 1}],
    "/v1/classify": [{"input": []}, {"input": ["a", 1]}, {"input": "a" * 100_001}, {"input": "a", "more": 1}],
    "/v1/decisions": [
        {"input": "a"},
        {"input": " ", "questions": [CHOICE]},
        {"input": "a" * 100_001, "questions": [CHOICE]},
        {"input": [{"role": "system", "content": "a"}], "questions": [CHOICE]},
        {"input": [], "questions": [CHOICE]},
        {"input": "a", "questions": []},
        {"input": "a", "questions": [CHOICE] * 65},
        {"input": "a", "questions": [{**CHOICE, "type": "predicate"}]},
        {"input": "a", "questions": [{**CHOICE, "choices": [{"value": True}, {"value": False}]}]},
        {"input": "a", "questions": [{**CHOICE, "choices": []}]},
        {"input": "a", "questions": [CHOICE], "more": 1},
    ],
    "/v1/systemone": [
        {"state": "a"},
        {"state": {"text": "a"}, "questions": {"q": CRITERIA}},
        {"state": "a", "questions": {}},
        {"state": "a", "questions": {str(number): CRITERIA for number in range(65)}},
        {"state": "a", "questions": {"q": {"type": "noul", "instructions": "Is it?"}}},
        {"state": "a", "questions": {"q": {**CRITERIA, "criteria": {}}}},
        {"state": "a", "questions": {"q": {**CRITERIA, "more": 1}}},
        {"state": "a", "questions": [CRITERIA]},
    ],
}


@pytest.mark.parametrize(
    ("template", "body", "status"),
    [(template, body, 200) for template, (_, bodies) in PROTOCOLS.items() for body in bodies]
    + [(template, body, 422) for template, bodies in MISFITS.items() for body in bodies],
)
async def test_what_is_described_of_a_protocol_is_what_it_does(client, document, template, body, status):
    described = document["paths"][template]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert fits(body, described, document) == (status == 200)
    response = await client.post(PROTOCOLS[template][0], json=body)
    assert response.status_code == status, response.text
    assert fits(response.json(), answer_schema(document, "post", template, status), document)


async def test_every_route_of_a_protocol_that_takes_texts_is_described_with_its_limits(document):
    taking = {path for path, operations in document["paths"].items() if "requestBody" in operations.get("post", {})}
    versioned = "/v2/models/{name}/versions/{version}/infer"
    assert taking - {versioned, "/gap/ask"} == set(PROTOCOLS)
    for path in taking - {"/gap/ask"}:
        operation = json.dumps(document["paths"][path]["post"])
        assert '"maxLength": 100000' in operation
        assert '"maxItems": 64' in operation or '"maxProperties": 64' in operation
        assert "$defs" not in operation
        assert "Retry-After" in operation


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/info", "/info"),
        ("/health", "/health"),
        ("/ping", "/ping"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/{name}", "/v1/models/tiny"),
        ("/v2", "/v2"),
        ("/v2/health/live", "/v2/health/live"),
        ("/v2/health/ready", "/v2/health/ready"),
        ("/v2/models/{name}", "/v2/models/tiny"),
        ("/v2/models/{name}/ready", "/v2/models/tiny/ready"),
    ],
)
async def test_what_a_protocol_says_of_the_service_fits_its_schema(client, document, template, path):
    response = await client.get(path)
    assert response.status_code == 200
    assert fits(response.json(), answer_schema(document, "get", template, 200), document)


@pytest.mark.parametrize(
    "path", ["/model", "/gap", "/gap/history", "/gap/disagreements", "/livez", "/readyz", "/startupz"]
)
async def test_every_other_answer_fits_its_schema(client, document, path):
    response = await client.get(path)
    assert response.status_code == 200
    assert fits(response.json(), answer_schema(document, "get", path, 200), document)


async def test_every_status_of_classify_is_described(client, document):
    responses = document["paths"]["/classify"]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "408", "413", "415", "422", "429", "431", "500", "503", "504", "505"}
    assert "Retry-After" in responses["429"]["headers"]
    body = (await client.post("/classify", content=b"{", headers={"content-type": "application/json"})).json()
    for status in sorted(set(responses) - {"200", "404"}):  # 404 is infinity's, for another model
        assert fits(body, answer_schema(document, "post", "/classify", status), document)
        assert not fits({"detail": "x"}, answer_schema(document, "post", "/classify", status), document)


async def test_the_limits_in_the_schema_are_those_in_force(running):
    async with running(max_texts=3, max_characters=7, protocols=False) as client:
        document = (await client.get("/openapi.json")).json()
        schema = document["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert '"maxItems": 3' in json.dumps(schema)
        assert json.dumps(schema).count('"maxLength": 7') == 2


def with_labels(example, labels):
    """Return an example with the labels of the served bundle in place of its own, where it lists any."""
    if "questions" in example:
        listed = isinstance(example["questions"], list)
        [question] = example["questions"] if listed else example["questions"].values()
        question |= (
            {"choices": [{"value": label} for label in labels]} if listed else {"criteria": dict.fromkeys(labels)}
        )
    return example


async def test_the_example_of_every_operation_is_answered(client, document):
    tried = []
    for path, operations in document["paths"].items():
        if "requestBody" in operations.get("post", {}) and path != "/gap/ask":  # which needs a teacher
            example = operations["post"]["requestBody"]["content"]["application/json"]["example"]
            manifest = (await client.get("/model")).json()
            response = await client.post(path.format(**manifest), json=with_labels(example, manifest["labels"]))
            assert response.status_code == 200, (path, response.text)
            assert fits(response.json(), answer_schema(document, "post", path, "200"), document)
            tried.append(path)
    assert {"/classify", "/predict", "/", "/vertex", "/v1/classify", "/v1/decisions", "/v1/systemone"} <= set(tried)
