"""Our server with and without reloads under load: what a reload costs the clients."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from export.bundle.format import Bundle, write_bundle
from serving_tools.bounds import Bound, Part, ratio
from serving_tools.conditions import Conditions
from serving_tools.contenders import REFLUX
from serving_tools.paired import Step, compare
from serving_tools.plan import Load
from serving_tools.process import Server, ServerError, ask
from serving_tools.running import Running, running

SECONDS = 5.0
BETWEEN_SECONDS = 0.5
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
SHARE = 0.5


class Reloaded(Running):
    """A server whose bundle is replaced again and again while a load lasts."""

    __slots__ = ()

    def load(self, **plan: Any) -> Load:
        """Send a load, and replace the bundle meanwhile."""
        with _reloading(self.server, self.conditions.bundle):
            return super().load(**plan)


@contextmanager
def _reloading(server: Server, served: Path) -> Iterator[None]:
    """Replace the bundle again and again. Raises ServerError if a version is not served."""
    done, failures = threading.Event(), []

    def reload() -> None:
        number = 0
        while not done.wait(BETWEEN_SECONDS):
            number += 1
            version = publish(Bundle.open(served), served, number).manifest.version
            server.signal(signal.SIGHUP)
            until = time.monotonic() + PATIENCE_SECONDS
            while json.loads(ask(server.port, "/model").body)["version"] != version:
                if time.monotonic() > until:
                    failures.append(server.tail())
                    return
                time.sleep(LOOK_SECONDS)

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise ServerError(f"not reloaded: {failures[0]}")


def publish(bundle: Bundle, target: Path, number: int) -> Bundle:
    """Write a bundle over the one in its place, as a new version."""
    contents = {name: bundle.path / name for name in bundle.manifest.files}
    return write_bundle(target, contents, replace(bundle.manifest, name=f"version-{number % 2}"))


def reloads(conditions: Conditions) -> Part:
    """Compare latencies at half the capacity, and the throughput of 64 clients, with continuous reloads and without."""
    steps: dict[str, Step] = {
        "64 clients": lambda _: {"clients": 64, "seconds": SECONDS},
        "50 % load": lambda off: {"rate": SHARE * off["64 clients"].load.throughput, "seconds": SECONDS},
    }
    contender = replace(REFLUX, key="reloaded", title="Reflux, reloaded")
    with tempfile.TemporaryDirectory() as folder:
        served = publish(Bundle.open(conditions.bundle), Path(folder) / "bundle", 0).path
        with (
            running(REFLUX, conditions) as off,
            running(contender, replace(conditions, bundle=served)) as one,
        ):
            on = Reloaded(one.server, one.contender, one.conditions, one.bodies, one.ready_seconds)
            pairs = compare(off, on, conditions, steps)
    kept = median(ratio(on["64 clients"].share, off["64 clients"].share) for off, on in pairs)
    more = median(ratio(on["50 % load"].p99, off["50 % load"].p99) for off, on in pairs)
    failed = sum(load.load.failed for pair in pairs for loads in pair for load in loads.values())
    bounds = [
        Bound("throughput with reloads / without, at 64 clients", kept, least=0.8),
        Bound("p99 with reloads / without, at 50 % load", more, most=2.0),
        Bound("requests without an answer 200", failed, most=0),
    ]
    return Part({"without and with reloads": pairs}, bounds)
