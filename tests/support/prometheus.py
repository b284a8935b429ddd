"""A real Prometheus, from Debian's package `prometheus`, that scrapes services of the tests every second."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.sockets import dead_address
from tests.support.waiting import PATIENCE, until

PROMETHEUS = shutil.which("prometheus")


@dataclass(frozen=True)
class Prometheus:
    """A client of its HTTP API."""

    client: httpx.AsyncClient

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series that `expr` has now, each with a finite `value`. Raises ValueError if it is wrong."""
        found = await self._get("query", query=expr)
        rows = found if isinstance(found[:1], list) else []
        return [row for row in rows if math.isfinite(float(row["value"][1]))]

    async def values(self, expr: str) -> list[float]:
        """Return the values of the series that `expr` has now, NaN among them. Raises if it cannot."""
        return [float(row["value"][1]) for row in await self._get("query", query=expr)]

    async def scraped(self) -> bool:
        """Return whether all targets were scraped."""
        targets = (await self._get("targets"))["activeTargets"]
        return all(target["health"] == "up" for target in targets) and bool(targets)

    async def _get(self, what: str, **parameters: str) -> Any:
        response = await self.client.get(f"/api/v1/{what}", params=parameters)
        body = response.json()
        if body["status"] != "success":
            raise ValueError(f"{body['error']}: {parameters}")
        data = body["data"]
        return data["result"] if "result" in data else data


@asynccontextmanager
async def prometheus(
    folder: Path, *ports: int, rules: Path | None = None, pods: Sequence[str] = ()
) -> AsyncIterator[Prometheus]:
    """Start Prometheus on the services at `ports`, with a file of `rules`; skips the test where there is none.

    `pods` are the names that the services have in the label `pod`, as if they were pods of a cluster.
    """
    if PROMETHEUS is None:
        pytest.skip("there is no Prometheus (Debian: prometheus)")
    address = dead_address()
    scrape = {
        "job_name": "reflux",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [
            {"targets": [f"127.0.0.1:{target}"], **({"labels": {"pod": pod}} if pod else {})}
            for target, pod in zip_longest(ports, pods)
        ],
    }
    config = folder / "prometheus.json"
    files = [str(rules)] if rules is not None else []
    config.write_text(json.dumps({"scrape_configs": [scrape], "rule_files": files}))  # JSON is YAML
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE) as client:
            found = Prometheus(client)

            async def ready() -> bool:
                try:
                    return await found.scraped()
                except (httpx.TransportError, ValueError, KeyError):
                    return False

            await until(ready, pause=0.1)
            yield found
    finally:
        process.terminate()
        await process.wait()
