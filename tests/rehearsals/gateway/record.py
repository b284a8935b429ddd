"""Write down the proxy's replies that the tests of the suite play: `make rehearse-gateway RECORD=FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from tests.rehearsals.gateway.servers import Proxy

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
LONG = {"messages": [{"role": "user", "content": "parcel " * 1000}], "max_tokens": 1}
MESSAGE = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "answered": ("/v1/chat/completions", {"model": "tiny", **CHAT}),
    "refuses": ("/v1/chat/completions", {"model": "refuses", **CHAT}),
    "drops": ("/v1/chat/completions", {"model": "drops", **CHAT}),
    "fallback": ("/v1/chat/completions", {"model": "broken", **CHAT}),
    "of hosted_vllm": ("/v1/chat/completions", {"model": "tiny-vllm", **CHAT}),
    "too long": ("/v1/chat/completions", {"model": "tiny", **LONG}),
    "no such model": ("/v1/chat/completions", {"model": "nosuch", **CHAT}),
    "wrong key": ("/v1/chat/completions", {"model": "tiny", **CHAT}),
    "message": ("/v1/messages", {"model": "tiny", **MESSAGE}),
    "message of a server without responses": ("/v1/messages", {"model": "without-responses", **MESSAGE}),
}
KEPT = ("x-litellm-attempted", "x-litellm-call-id", "x-litellm-model-name", "x-litellm-version")


async def record(proxy: Proxy, file: Path) -> None:
    """Send each case to the proxy, and write status, the gateway's headers and body to a file."""
    replies = {}
    async with httpx.AsyncClient(base_url=proxy.url, timeout=120) as client:
        for name, (path, body) in CASES.items():
            key = "sk-wrong" if name == "wrong key" else proxy.key
            reply = await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
            headers = {one: value for one, value in reply.headers.items() if one.startswith(KEPT)}
            replies[name] = {"status": reply.status_code, "headers": headers, "body": reply.json()}
    lines = (f"{json.dumps(name)}: {json.dumps(reply, sort_keys=True)}" for name, reply in replies.items())
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
