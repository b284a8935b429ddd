"""A minimal Python server: uvloop reads a request, runs the graph in the callback, and writes JSON.

It validates nothing, has one route and no queue. Compared with the loop, it adds the cost of the operating system, the
event loop and JSON, so it is the lower bound for any server in Python.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import cast

import uvloop

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle


class Connection(asyncio.Protocol):
    """One connection; each request is answered before the next one is read."""

    def __init__(self, classifier: Classifier, labels: tuple[str, ...]) -> None:
        self._classifier = classifier
        self._labels = labels
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has another base class

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is complete."""
        head, _, body = (self._read + data).partition(b"\r\n\r\n")
        if len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self._read += data
            return
        self._read = b""
        found = self._classifier.classify(json.loads(body)["text"])
        answer = json.dumps({"label": self._labels[found.best], "score": found.score}).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))


async def serve(bundle: Bundle, port: int) -> None:
    """Serve on a port until the process is killed."""
    classifier = Classifier.load(bundle)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(classifier, bundle.manifest.labels), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvloop.run(serve(Bundle.open(given.bundle), given.port))


if __name__ == "__main__":
    main()
