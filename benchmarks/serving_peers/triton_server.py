"""Triton through PyTriton: the student as a Python callable, with dynamic batching of at most 8."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import Any

import numpy as np
from onnx_student import Student
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    """Serve on a port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    student = Student(given.bundle)

    @batch  # type: ignore[untyped-decorator]
    def classify(text: Any) -> dict[str, Any]:
        answers = student.classify([row[0].decode() for row in text])
        labels = [[label.encode()] for label, _ in answers]
        return {
            "label": np.array(labels, dtype=object),
            "score": np.array([[score] for _, score in answers], np.float32),
        }

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=given.port,
        grpc_port=free_port(),
        metrics_port=free_port(),
        allow_metrics=False,
        log_verbose=0,
        exit_on_error=True,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="student",
            infer_func=classify,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="label", dtype=bytes, shape=(1,)), Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=8, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
