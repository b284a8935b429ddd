"""The public surface does not change unnoticed: operations and schemas, settings and defaults, metrics and labels.

It is recorded in `surface/*.json`. A change goes into CHANGELOG.md and is recorded by `make surface`.
"""

import difflib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, SecretStr

from export.bundle.anchors import ANCHORS, Anchor, anchors_jsonl
from export.bundle.decision import DECISION, Decision
from service.settings import CLIENT, Settings, variable
from tests.support.tiny_bundle import build_cascade, rewritten
from tests.support.waiting import until

SURFACE = Path(__file__).with_name("surface")
WRITE = "WRITE_SURFACE"


def unchanged(file, found):
    """Fail with a diff if `found` differs from `file`; under `make surface`, write the file instead."""
    now = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if WRITE in os.environ:
        file.write_text(now, encoding="utf-8")
    kept = file.read_text(encoding="utf-8")
    lines = (kept.splitlines(), now.splitlines())
    if diff := list(difflib.unified_diff(*lines, f"{file.name}, as it was", "now", lineterm="", n=2)):
        remedy = "The public surface is another one. If that is meant, say it in CHANGELOG.md and run `make surface`."
        pytest.fail("\n".join([remedy, *diff]), pytrace=False)


def shape(schema):
    """Reduce a JSON schema to names and types, with `?` after what is optional."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(json.dumps, schema["enum"]))
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        found = [shape(one) for one in alternatives]
        return " | ".join(found) if all(isinstance(one, str) for one in found) else {"any of": found}
    if "properties" in schema:
        required = schema.get("required", ())
        return {name + "?" * (name not in required): shape(one) for name, one in schema["properties"].items()}
    if schema.get("type") == "array":
        item = shape(schema.get("items", {}))
        return f"{item}[]" if isinstance(item, str) else [item]
    if isinstance(values := schema.get("additionalProperties"), dict):
        return {"any name": shape(values)}
    return schema.get("type", "anything")


def contents(described):
    """Return the shape of a body or an answer by media type, or None."""
    return {kind: shape(one.get("schema", {})) for kind, one in described.get("content", {}).items()} or None


def operation(described):
    return {
        "body": contents(described.get("requestBody", {})),
        "parameters": {f"{one['in']} {one['name']}": shape(one["schema"]) for one in described.get("parameters", ())},
        "key": bool(described.get("security")),
        "answers": {status: contents(one) for status, one in described["responses"].items()},
    }


def settings_of(model, *parents):
    """Yield each variable of a model of settings, nested ones too, with its type and default."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, *parents, name)
            continue
        described = schema["properties"][name]
        default = field.get_default(call_default_factory=True)
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        kind = shape(definitions[shape(described)] if "$ref" in described else described)
        required = {} if field.is_required() else {"default": default}
        yield variable(*parents, name), {"type": kind, **required}


@pytest.fixture
def whole(running, tiny_bundle, tiny_teacher, tmp_path):
    """A service with all routes, of a cascade with anchors and a decision, which shows every text to a teacher.

    It may ask that teacher for an answer, too.
    """
    decision = Decision(("desk",), np.zeros(4, dtype=np.int64), np.ones(1), 0)
    files = {ANCHORS: anchors_jsonl([Anchor("invoice", "billing")]), DECISION: decision.to_bytes()}
    bundle = rewritten(
        build_cascade(tmp_path / "cascade", [tiny_bundle] * 2, [0.5], defer=0.1), tmp_path / "bundle", files
    )
    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite"}
    teacher = {"kind": "bundle", "path": str(tiny_teacher.path)}
    return running(admin=True, bundle=bundle.path, shadow={**shadow, "teacher": teacher})


async def test_operations_and_schemas(whole):
    async with whole as client:
        document = (await client.get("/openapi.json")).json()
    found = {
        "operations": {
            f"{method.upper()} {path}": operation(described)
            for path, operations in document["paths"].items()
            for method, described in operations.items()
        },
        "schemas": {name: shape(schema) for name, schema in document["components"]["schemas"].items()},
        "keys": document["components"]["securitySchemes"],
    }
    unchanged(SURFACE / "openapi.json", found)


def test_settings_and_their_defaults():
    found = {**dict(settings_of(Settings)), **{variable(name): {"type": "string"} for name in CLIENT}}
    unchanged(SURFACE / "settings.json", json.loads(json.dumps(found, default=str)))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="metrics of the process are there on Linux alone")
async def test_metrics_and_their_labels(whole):
    async with whole as client:
        for _ in range(4):  # so many requests that input drift is tested
            await client.post("/classify", json={"texts": ["refund"] * 64})  # about which they disagree

        async def compared():
            shown = (await client.get("/metrics")).text
            return "\nreflux_gap_ratio" in shown and "\nreflux_teacher_log_evalue" in shown

        await until(compared)  # before that, and before an anchor is answered, some families have no series
        page = (await client.get("/metrics")).text
    families = list(text_string_to_metric_families(page))
    assert [family.name for family in families if not family.samples] == []
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    unchanged(SURFACE / "metrics.json", {name: sorted(labels) for name, labels in found.items()})
