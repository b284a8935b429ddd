"""Compare MLServer on the folder of `reflux export BUNDLE --format hub` with the bundle.

    python benchmarks/mlserver_hub.py BUNDLE [--environments FOLDER]

It makes an environment with MLServer, optimum and transformers on first use, starts `mlserver start` with a custom
runtime that loads the folder (`serving_peers/mlserver_hub_runtime.py`), and sends the bundle's golden texts as Open
Inference requests over HTTP. Prints the largest difference between the probabilities and the bundle's own, and the time
per text, one at a time. The exit status is 1 if a probability differs by more than 0.001.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from serving_tools.environments import python_of
from serving_tools.process import Server, ask, free_port

from export.bundle.classifier import Classifier
from export.bundle.format import Bundle
from export.hub import export_hub

_HERE = Path(__file__).parent
_ALLOWED = 1e-3
_INFER = "/v2/models/student/infer"


def request(text: str) -> str:
    """Return the body of a request for one text."""
    return json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]})


def write_settings(folder: Path) -> int:
    """Write MLServer's settings for the model in `folder/hub`, and return its HTTP port."""
    port = free_port()
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {
        "name": "student",
        "implementation": "mlserver_hub_runtime.Runtime",
        "parameters": {"uri": str(folder / "hub")},
    }
    (folder / "settings.json").write_text(json.dumps(server | {"parallel_workers": 0}), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return port


def main() -> None:
    """Export, serve, classify and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--environments", type=Path, default=_HERE / ".environments")
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle)
    classifier = Classifier.load(bundle)
    texts = [row.text for row in bundle.golden()]
    python = python_of(given.environments, "mlserver-hub")
    off, milliseconds = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_hub(bundle, folder / "hub")
        port = write_settings(folder)
        command = [str(python), str(python.with_name("mlserver")), "start", str(folder)]
        environment = {"PYTHONPATH": str(_HERE / "serving_peers")}
        cores, log = os.sched_getaffinity(0), folder / "log"
        with Server(command, port=port, cores=cores, log=log, environment=environment) as server:
            server.wait(_INFER, request(texts[0]))
            for text in texts:
                start = time.perf_counter()
                reply = ask(port, _INFER, request(text))
                milliseconds.append(1000 * (time.perf_counter() - start))
                found = json.loads(reply.body)["outputs"][0]["data"]
                expected = classifier.classify(text).probabilities.tolist()
                off.append(max(abs(a - b) for a, b in zip(found, expected, strict=True)))
    print(f"MLServer, {len(texts)} golden texts of {bundle.manifest.name}, variant {bundle.manifest.variant}")
    print(f"largest difference of a probability: {max(off):.2g}")
    print(f"median milliseconds per text: {statistics.median(milliseconds):.2f}")
    sys.exit(max(off) > _ALLOWED)


if __name__ == "__main__":
    main()
