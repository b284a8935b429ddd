"""The demonstration: all steps on the built-in support desk, on this machine.

It runs what the other verbs do one by one, sends traffic to the service, and shows the live gap beside the offline one.
The product does not use this module.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from distill.data.support_desk import tickets
from distill.errors import DistillError
from distill.evaluation.report.formats import percent
from distill.progress import bar, status
from distill.run import Run
from distill.task import load_task
from distill.teachers.local import LocalConfig
from export.bundle.format import Bundle
from export.run import TEACHER, ExportRun
from reflux_client import AsyncClient

TASK = Path(tickets.__file__).with_name("support_desk.yaml")
REQUESTS = 3000
CLIENTS = 8
TRAFFIC_SEED = 5
SHADOW_RATE = 0.1
PATIENCE_SECONDS = 120


def demo(folder: Path, console: Console, *, keep: bool) -> None:
    """Run all steps in `folder`; with `keep`, leave the service running in the foreground afterwards.

    Raises the errors of the stages, and DistillError if the service does not become ready.
    """
    started = time.monotonic()
    exported = _distil(folder, console)
    address = f"127.0.0.1:{_free_port()}"
    with _service(exported, address) as process:
        base_url = f"http://{address}"
        with status("starting the service"):
            _wait_until_ready(base_url, process)
        console.rule("Serving, with a sample shadowed to the teacher")
        seconds = asyncio.run(_send_traffic(base_url))
        live = _wait_for_shadow(base_url)
        _show(console, exported, live, seconds)
        console.print(f"The whole demonstration took {time.monotonic() - started:.0f} s.")
        if keep:
            console.print(f"Serving at {base_url} (try {base_url}/docs); Ctrl-C stops it.", highlight=False)
            _wait_for_interrupt(process)


def _distil(folder: Path, console: Console) -> ExportRun:
    run = Run(load_task(TASK), folder)
    exported = ExportRun(run)
    console.rule("Data: the built-in support desk")
    splits = run.make_data()
    console.print(f"{len(splits.train)} tickets, {len(splits.labels)} categories. One of them:")
    console.print(f"  {splits.train.texts[0]}", markup=False, highlight=False)
    console.rule("Teacher: fine-tuned on gold labels, then asked for soft labels")
    run.make_labels()
    console.rule("Students: trained on the soft labels")
    for name in run.task.students:
        run.make_student(name)
    console.rule("Bundles: exported, measured, gated")
    bundle = exported.make_bundles()
    gap = exported.make_report()
    for name, student in gap["students"].items():
        agreement, reason = percent(student["gap"]["agreement"]), student["measured"]["reason"]
        console.print(f"{name}: agrees with the teacher on {agreement}; {reason}", markup=False, highlight=False)
    console.print(
        f"Within {run.task.budget.latency_ms} ms and best on validation: {bundle.manifest.name}. "
        f"Report: {exported.report.path}/report.html",
        highlight=False,
    )
    return exported


@contextmanager
def _service(exported: ExportRun, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service in a process of its own and stop it by SIGTERM; its log is in the run's folder."""
    folder = exported.run.root
    host, port = address.split(":")
    outbox = folder / "shadow.sqlite"
    for file in folder.glob(f"{outbox.name}*"):
        file.unlink()
    teacher = {
        "kind": "bundle",
        "path": str(exported.bundle_stage(TEACHER).path),
        "usd_per_hour": _teacher_price(exported),
    }
    environment = {
        **os.environ,
        "REFLUX_BUNDLE": str(exported.chosen.path),
        "REFLUX_HOST": host,
        "REFLUX_PORT": port,
        "REFLUX_DRAIN_SECONDS": "0",
        "REFLUX_SHADOW__ENABLED": "true",
        "REFLUX_SHADOW__RATE": str(SHADOW_RATE),
        "REFLUX_SHADOW__PATH": str(outbox),
        "REFLUX_SHADOW__CONCURRENCY": "1",
        "REFLUX_SHADOW__TEACHER": json.dumps(teacher),
    }
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=PATIENCE_SECONDS)


def _wait_until_ready(base_url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{base_url}/readyz", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise DistillError("the service did not become ready; see service.log in the run's folder")


async def _send_traffic(base_url: str) -> float:
    """Send the requests from several clients at once, and return how many seconds that took."""
    texts = iter([ticket.text for ticket in tickets.generate(REQUESTS, TRAFFIC_SEED)])
    start = time.monotonic()
    with bar("requests to /classify", REQUESTS) as advance:
        async with AsyncClient(base_url) as client:

            async def work() -> None:
                for text in texts:
                    await client.classify(text)
                    advance(1)

            await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return time.monotonic() - start


def _wait_for_shadow(base_url: str) -> dict[str, Any]:
    """Wait until every sampled text has an outcome, and return the live gap."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    seen = 0
    first = httpx.get(f"{base_url}/gap").json()
    with bar("the teacher answers the sample", first["counts"]["sampled"]) as advance:
        while True:
            gap: dict[str, Any] = httpx.get(f"{base_url}/gap").json()
            finished = sum(gap["outcomes"].values())
            advance(finished - seen)
            seen = finished
            if finished >= gap["counts"]["sampled"] or time.monotonic() > deadline:
                return gap
            time.sleep(0.2)


def _show(console: Console, exported: ExportRun, live: dict[str, Any], seconds: float) -> None:
    gap = exported.make_report()
    student = gap["students"][gap["chosen"]]
    own, counts = student["gap"], live["counts"]
    teacher_ms = Bundle.open(exported.bundle_stage(TEACHER).path).manifest.measured["milliseconds"]
    student_ms = student["measured"]["milliseconds"]
    table = Table("", "teacher", f"student ({gap['chosen']}, {student['variant']})", title="The distillation gap")
    table.add_row("accuracy on test", percent(own["teacher_accuracy"]), percent(own["student_accuracy"]))
    table.add_row("retention", "", percent(own["retention"]))
    table.add_row(f"offline gap, {own['rows']} test rows", "", percent(_complement(own["agreement"])))
    table.add_row(f"live gap, {counts['compared']} of {counts['requests']} shadowed", "", _live(live["gap"]))
    table.add_row("ms per text, one thread", f"{teacher_ms:.2f}", f"{student_ms:.2f}")
    price = _teacher_price(exported) * teacher_ms / 3600
    table.add_row("$ per 1,000 texts", f"{price:.6f}", f"{student['usd_per_1000']:.6f}")
    console.print(table, soft_wrap=False)
    console.print(f"{REQUESTS} requests from {CLIENTS} clients in {seconds:.1f} s.", highlight=False)
    console.print(f"Verdict: {live['verdict']}. {live['message']}", highlight=False)


def _teacher_price(exported: ExportRun) -> float:
    """Return the price of the teacher's machine, in dollars per hour."""
    config = exported.run.task.teacher
    return config.usd_per_hour if isinstance(config, LocalConfig) else 0.0


def _complement(agreement: dict[str, float]) -> dict[str, float]:
    """Return the gap, which is one minus the agreement, with its interval."""
    return {
        "value": 1 - agreement["value"],
        "lower": 1 - agreement["upper"],
        "upper": 1 - agreement["lower"],
    }


def _live(gap: dict[str, Any]) -> str:
    if gap["ratio"] is None:
        return "–"
    return percent({"value": gap["ratio"], "lower": gap["lower"], "upper": gap["upper"]})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_interrupt(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait()
    except KeyboardInterrupt:
        return
