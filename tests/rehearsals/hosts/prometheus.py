"""Prometheus on a host of its own: scrapes every process each second and evaluates the rules of `k8s/monitoring`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.rehearsals.hosts.network import Network
from tests.rehearsals.hosts.processes import Program

RULES = Path(__file__).parents[3] / "k8s" / "monitoring" / "rules.yaml"
SCRAPE_SECONDS = 1
PORT = 9090

COUNTS = {
    "requests": "model:reflux_shadow_eligible:increase",
    "sampled": "model:reflux_shadow_sampled:increase",
    "compared": "model:reflux_shadow_compared:increase",
}
"""Recording rules, over the last hour, of what `counts` of `GET /gap` says."""

DISAGREED = 'sum by (model_version) (model_band_agree:reflux_shadow_compared:increase{window="1h", agree="false"})'
RATIO = 'model:reflux_gap:ratio{window="1h"}'
MISSING = "model:reflux_shadow:missing"


class Prometheus:
    """A server that scrapes `targets`, addresses with ports."""

    def __init__(self, network: Network, host: str, folder: Path, targets: Sequence[str]) -> None:
        config, rules = folder / "prometheus.json", folder / "rules.yaml"
        rules.write_text(yaml.safe_dump(impatient(yaml.safe_load(RULES.read_text())), width=10_000))
        scrape = {
            "job_name": "reflux",
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "static_configs": [{"targets": list(targets)}],
        }
        config.write_text(json.dumps({"scrape_configs": [scrape], "rule_files": [str(rules)]}))  # JSON is YAML
        address = f"{network.addresses[host]}:{PORT}"
        command = (
            shutil.which("prometheus") or "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        )
        self.program = Program(network, host, command, os.environ, folder / "prometheus.log")
        self._client = httpx.AsyncClient(base_url=f"http://{address}", timeout=10)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self.program.start()
        await self.program.until(self._ready)

    async def by_version(self, expr: str) -> dict[str, float]:
        """Return the values of an expression now, by bundle version, without those that are not numbers."""
        response = await self._client.get("/api/v1/query", params={"query": expr})
        body: dict[str, Any] = response.raise_for_status().json()
        found = {row["metric"].get("model_version", ""): float(row["value"][1]) for row in body["data"]["result"]}
        return {version: value for version, value in found.items() if not math.isnan(value)}

    async def scrapes(self) -> dict[str, list[float]]:
        """Return the Unix times of the scrapes of the last hour that succeeded, by the address of the host."""
        response = await self._client.get("/api/v1/query", params={"query": "up[1h]"})
        found: dict[str, list[float]] = {}
        for row in response.raise_for_status().json()["data"]["result"]:
            address = row["metric"]["instance"].rpartition(":")[0]
            found.setdefault(address, []).extend(float(at) for at, up in row["values"] if up == "1")
        return found

    async def _ready(self) -> bool:
        try:
            return (await self._client.get("/-/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def impatient(rules: dict[str, Any]) -> dict[str, Any]:
    """Return the rules, with every group evaluated each second."""
    return {"groups": [{**group, "interval": f"{SCRAPE_SECONDS}s"} for group in rules["groups"]]}
