"""Count the calls of our own functions that one plain request to `POST /classify` makes until its answer is written.

The server runs in this process, and a client in a thread of its own sends the request over a connection that has
answered some before. `sys.setprofile` sees every call, in the event loop and in the threads of inference, until the
transport writes: asyncio's own event loop is used, for that of uvloop, in C, is not seen. Calls of libraries are not
counted, nor comprehensions and generated methods.

    python benchmarks/calls.py BUNDLE [--workers 0] [--trace]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from service.app import create_app
from service.server.lifecycle import Server, bind
from service.settings import load_settings
from service.telemetry.logging import configure_logging

ROOT = Path(__file__).parents[1]
PACKAGES = tuple(str(ROOT / package) + os.sep for package in ("service", "export", "distill"))
WARM_UP = 50
SETTLE_SECONDS = 0.5
"""How long to wait before the request that counts, so that the bookkeeping of those before has been done."""

TRANSPORT_WRITE = "_SelectorSocketTransport.write"
MOST_CALLS, MOST_FILES = 40, 10
BODY = b'{"text": "where is my parcel?"}'
REQUEST = (
    b"POST /classify HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nUser-Agent: benchmark\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n%b"
    % (len(BODY), BODY)
)


class Profile:
    """Collects the calls made while it is on, up to the first write of an answer."""

    def __init__(self) -> None:
        self.calls: list[CodeType] = []
        self.on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take one event of the interpreter."""
        if not self.on:
            return
        code = frame.f_code
        if event == "call" and code.co_qualname == TRANSPORT_WRITE:
            self.on = False
        elif event == "call" and code.co_filename.startswith(PACKAGES) and not code.co_name.startswith("<"):
            self.calls.append(code)


def ask(port: int, profile: Profile) -> None:
    """Send requests one after another; the last one is profiled."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for number in range(WARM_UP + 1):
            if number == WARM_UP:
                time.sleep(SETTLE_SECONDS)
                profile.on = True
            connection.sendall(REQUEST)
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            head, _, body = received.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200") or not json.loads(body)["results"]:
                raise RuntimeError(f"not an answer: {received!r}")


async def measure(bundle: Path, workers: int | None, profile: Profile, folder: Path) -> None:
    """Serve the bundle, have the requests sent, and stop."""
    given = {
        "bundle": bundle,
        "drain_seconds": 0,
        "idle_grace_seconds": 0,
        "shadow": {"path": folder / "outbox.sqlite"},
    }
    settings = load_settings(**given, **({} if workers is None else {"workers": workers}))
    app = create_app(settings)
    with bind("127.0.0.1", 0) as listener:
        server = Server(app, settings)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(ask, listener.getsockname()[1], profile)
        server.should_exit = True
        await serving


def main() -> int:
    """Print the counts, and with `--trace` each call; 1 when they are above the bounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--workers", type=int, help="threads of inference; 0 runs the graph on the event loop")
    parser.add_argument("--trace", action="store_true", help="list the calls in order")
    arguments = parser.parse_args()
    configure_logging("ERROR")
    profile = Profile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        runner.run(measure(arguments.bundle, arguments.workers, profile, Path(folder)))
    sys.setprofile(None)
    paths = [str(Path(code.co_filename).relative_to(ROOT)) for code in profile.calls]
    if arguments.trace:
        for path, code in zip(paths, profile.calls, strict=True):
            print(f"  {path:45} {code.co_qualname}")
    changes = sum(one != other for one, other in pairwise(paths))
    print(f"{len(paths)} calls in {len(set(paths))} files, {changes} changes of file")
    return int(len(paths) > MOST_CALLS or len(set(paths)) > MOST_FILES)


if __name__ == "__main__":
    sys.exit(main())
