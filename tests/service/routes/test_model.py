"""`GET /model`."""

import json

from export.bundle.format import MANIFEST


async def test_model_is_the_manifest(client, tiny_bundle):
    response = await client.get("/model")
    assert response.headers["content-type"] == "application/json"
    served = response.json()
    assert served.pop("access")["keys"] is False
    assert served.pop("variants") == {"stable": {"version": tiny_bundle.manifest.version, "share": 1.0}}
    assert served.pop("process") == {"classifies": True, "asks": False}
    assert served.pop("answers_by_stage") == {}
    assert served == json.loads((tiny_bundle.path / MANIFEST).read_text())
