"""The OpenAPI document says what the service does: its schemas fit live answers, and refuse what it refuses."""

from __future__ import annotations

import json
import re

import pytest

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def fits(value, schema, document):
    """Whether a value is valid under a JSON schema, for the keywords that the document uses; another is an error."""
    checks = {
        "$ref": lambda ref: fits(value, document["components"]["schemas"][ref.rsplit("/", 1)[1]], document),
        "type": lambda kind: value is None if kind == "null" else is_a(value, kind),
        "anyOf": lambda options: any(fits(value, option, document) for option in options),
        "oneOf": lambda options: sum(fits(value, option, document) for option in options) == 1,
        "properties": lambda properties: all(
            fits(value[name], part, document) for name, part in properties.items() if name in value
        ),
        "required": lambda names: set(names) <= set(value),
        "additionalProperties": lambda allowed: allowed is not False or set(value) <= set(schema.get("properties", ())),
        "items": lambda part: all(fits(item, part, document) for item in value),
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "maxLength": lambda most: len(value) <= most,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
    }
    silent = {"title", "description", "default"}
    # The type first: the other keywords take it for granted.
    keywords = sorted(set(schema) - silent, key=lambda keyword: keyword != "type")
    return all(checks[keyword](schema[keyword]) for keyword in keywords)


def is_a(value, kind):
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


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


@pytest.mark.parametrize("path", ["/model", "/gap", "/livez", "/readyz", "/startupz"])
async def test_every_other_answer_fits_its_schema(client, document, path):
    response = await client.get(path)
    assert response.status_code == 200
    assert fits(response.json(), answer_schema(document, "get", path, 200), document)


async def test_every_status_of_classify_is_described(client, document):
    responses = document["paths"]["/classify"]["post"]["responses"]
    assert set(responses) == {"200", "400", "413", "415", "422", "429", "500", "503"}
    assert "Retry-After" in responses["429"]["headers"]
    body = (await client.post("/classify", content=b"{", headers={"content-type": "application/json"})).json()
    for status in sorted(set(responses) - {"200"}):
        assert fits(body, answer_schema(document, "post", "/classify", status), document)
        assert not fits({"detail": "x"}, answer_schema(document, "post", "/classify", status), document)


async def test_the_limits_in_the_schema_are_those_in_force(running):
    async with running(max_texts=3, max_characters=7) as client:
        document = (await client.get("/openapi.json")).json()
        schema = document["paths"]["/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert '"maxItems": 3' in json.dumps(schema)
        assert json.dumps(schema).count('"maxLength": 7') == 2


async def test_docs_are_served(client):
    assert "/openapi.json" in (await client.get("/docs")).text
