"""A teacher behind a network: OpenAI's chat API, answered by a bundle of Reflux.

`python -m tests.rehearsals.hosts.teacher BUNDLE HOST PORT`. It names the bundle's label of the text between the tags
of the last message, whatever else it is asked.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle


def text_of(request: bytes) -> str:
    """Return the text to classify in the body of a request."""
    message: str = json.loads(request)["messages"][-1]["content"]
    _, _, tagged = message.rpartition("<text>\n")
    return tagged.removesuffix("\n</text>").replace("&lt;", "<")


def completion(label: str) -> bytes:
    """Return the body of a response that names `label`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": json.dumps({"label": label})}}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    body = {
        "id": "chat",
        "object": "chat.completion",
        "model": "teacher",
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": usage,
    }
    return json.dumps(body).encode()


def main(bundle: str, host: str, port: str) -> None:
    """Serve until killed."""
    opened = Bundle.open(Path(bundle))
    classifier = Classifier.load(opened)

    class Chat(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = text_of(self.rfile.read(int(self.headers["content-length"])))
            body = completion(opened.manifest.labels[classifier.classify(text).best])
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of requests."""

    ThreadingHTTPServer((host, int(port)), Chat).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
