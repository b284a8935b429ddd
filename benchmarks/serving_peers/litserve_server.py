"""LitServe with the student, with or without batching."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import litserve
from onnx_student import Student


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The handlers of LitServe. With batching, `predict` gets a list of texts, otherwise one text."""

    def __init__(self, bundle: Path, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.005 if batch > 1 else 0.0)
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Load the student in the worker."""
        self.student = Student(self.bundle)

    def decode_request(self, request: dict[str, str]) -> str:
        """Return the text of a request."""
        return request["text"]

    def predict(self, x: Any) -> Any:
        """Return the label of a text, or the labels of several."""
        if isinstance(x, str):
            return self.student.classify([x])[0]
        return self.student.classify(list(x))

    def encode_response(self, output: tuple[str, float]) -> dict[str, Any]:
        """Return the body of an answer."""
        return {"label": output[0], "score": output[1]}


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    server = litserve.LitServer(Api(given.bundle, given.batch), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
