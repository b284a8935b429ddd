"""The programs of the rehearsal: llama.cpp's server with the tiny model, and LiteLLM's proxy in front of it."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.support.http_server import serving
from tests.support.sockets import dead_address

PATIENCE = 300.0
"""Seconds in which a program must answer: the proxy imports much."""

BUSY_SECONDS = 2
"""What the server that is busy at first asks to wait."""

WRONG_KEY = "WRONG_LITELLM_KEY"
"""The variable with a key that the proxy does not know."""


class Proxy(NamedTuple):
    """The root address and the key of LiteLLM's proxy."""

    url: str
    key: str


def models(server: str, limited: str) -> dict[str, Any]:
    """Return a configuration of the proxy with models that are treated in all the ways that the checks are about."""

    def model(name: str, provider: str = "openai", base: str = f"{server}/v1", **params: Any) -> dict[str, Any]:
        return {
            "model_name": name,
            "litellm_params": {"model": f"{provider}/tiny", "api_base": base, "api_key": "none", **params},
        }

    codes = ["logprobs", "top_logprobs"]
    return {
        "model_list": [
            model("tiny"),
            model("tiny-vllm", "hosted_vllm"),
            model("several"),
            model("several", "hosted_vllm"),
            model("refuses", "mistral"),  # a provider that LiteLLM takes to have no log probabilities
            model("drops", "mistral", drop_params=True),
            model("drops-always", additional_drop_params=codes),
            model("broken", base=f"http://{dead_address()}/v1"),
            model("busy", base=f"{limited}/v1"),
            model("claude", "anthropic", server),
            model("without-responses", base=f"{limited}/v1"),
        ],
        "router_settings": {"num_retries": 0, "fallbacks": [{"broken": ["tiny"]}]},
    }


@contextmanager
def running(command: list[str], url: str, log: Path, environment: Mapping[str, str] = {}) -> Iterator[None]:
    """Run a program until the block ends; yields once `url` answers with 200.

    Raises:
        SystemExit: it ended, or took too long.
    """
    with log.open("wb") as file:
        variables = os.environ | dict(environment)
        program = subprocess.Popen(command, env=variables, stdout=file, stderr=file, start_new_session=True)
        try:
            _wait(program, url, log)
            yield
        finally:
            program.terminate()
            try:
                program.wait(30)
            except subprocess.TimeoutExpired:
                program.kill()


def _wait(program: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while program.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{log.stem} does not answer; its log ends with:\n{log.read_text(errors='replace')[-3000:]}")


@contextmanager
def llama(program: str, model: Path, folder: Path) -> Iterator[str]:
    """Serve a model with llama.cpp; yields the root address."""
    address = dead_address()
    host, port = address.split(":")
    named = {"model": model, "alias": "tiny", "host": host, "port": port, "threads": 1, "chat-template": "chatml"}
    options = (part for name, value in named.items() for part in (f"--{name}", str(value)))
    with running([program, "--no-jinja", *options], f"http://{address}/health", folder / "llama.log"):
        yield f"http://{address}"


@contextmanager
def litellm(programs: Path, config: Mapping[str, Any], folder: Path, name: str = "litellm") -> Iterator[Proxy]:
    """Run LiteLLM's proxy with a configuration."""
    address, key = dead_address(), f"sk-{secrets.token_hex(24)}"
    host, port = address.split(":")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    environment = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(programs / "litellm"), "--config", str(file), "--host", host, "--port", port]
    with running(command, f"http://{address}/health/liveliness", folder / f"{name}.log", environment):
        yield Proxy(f"http://{address}", key)


@asynccontextmanager
async def busy(server: str) -> AsyncIterator[str]:
    """Serve a server that has chats alone, with a limit: the first is answered 429 with `Retry-After`."""
    async with httpx.AsyncClient(base_url=server, timeout=60) as client:
        chats = count()

        async def handle(request: httpx.Request) -> httpx.Response:
            if not request.url.path.endswith("/chat/completions"):  # such as /v1/models, when LiteLLM starts
                return httpx.Response(404, json={"error": {"message": "File Not Found", "type": "not_found_error"}})
            if next(chats) == 0:
                error = {"error": {"message": "slow down", "type": "rate_limit_error"}}
                return httpx.Response(429, headers={"retry-after": str(BUSY_SECONDS)}, json=error)
            answer = await client.post(request.url.path, content=request.content)
            return httpx.Response(answer.status_code, json=answer.json())

        async with serving(handle) as served:
            yield served.url
