"""The peers' virtual environments: one each, with pinned versions, made once under a folder and kept.

An environment is made again when its list of packages has changed. A failed installation is an error with pip's reason.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_UVICORN = ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
_RUNTIME = ("onnxruntime==1.32.0", "tokenizers==0.22.2", "numpy==2.4.6")
_TELEMETRY = (  # BentoML pins none, and the latest versions do not fit together
    "opentelemetry-api==1.44.0",
    "opentelemetry-sdk==1.44.0",
    "opentelemetry-instrumentation==0.65b0",
    "opentelemetry-instrumentation-asgi==0.65b0",
    "opentelemetry-instrumentation-aiohttp-client==0.65b0",
    "opentelemetry-semantic-conventions==0.65b0",
    "opentelemetry-util-http==0.65b0",
)
_STAMP = "installed.json"


class InstallError(Exception):
    """An environment could not be made; the message is pip's reason."""


@dataclass(frozen=True, slots=True)
class Packages:
    """What to install: `packages` with their dependencies, then `alone` without."""

    packages: Sequence[str]
    alone: Sequence[str] = ()


ENVIRONMENTS = {
    "hand": Packages(("fastapi==0.165.0", *_UVICORN, *_RUNTIME)),
    "pipeline": Packages(
        ("fastapi==0.165.0", *_UVICORN, "torch==2.13.0", "transformers==4.57.6", "safetensors==0.8.0")
    ),
    "infinity": Packages(
        (
            "infinity-emb[server]==0.0.78",
            "optimum==2.1.0",
            "optimum-onnx==0.1.0",
            "transformers==4.57.6",
            "torch==2.13.0",
            "onnxruntime==1.32.0",
            "tokenizers==0.22.2",
            "numpy==1.26.4",
            "pyarrow==17.0.0",
            "datasets==3.6.0",
            "pandas==3.0.6",
            "ml-dtypes==0.5.4",
            "onnx==1.23.2",
            "huggingface-hub==0.36.2",
            "typer==0.12.5",
            "click==8.1.8",
            "uvicorn==0.32.1",
            "rich==13.9.4",
        )
    ),
    "litserve": Packages(("litserve==0.2.19", *_UVICORN, *_RUNTIME)),
    "mlserver": Packages(("mlserver==1.7.1", *_UVICORN, *_RUNTIME)),
    "mlserver-hub": Packages(
        (
            "mlserver==1.7.1",
            "optimum==2.1.0",
            "optimum-onnx==0.1.0",
            "transformers==4.57.6",
            "torch==2.13.0",
            *_RUNTIME,
        )
    ),
    "bentoml": Packages(("bentoml==1.4.40", *_TELEMETRY, *_UVICORN, *_RUNTIME)),
    "triton": Packages(("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0", "tokenizers==0.22.2", "numpy==1.26.4")),
    "heartcut": Packages(("heartcut==0.2.1", "fastapi==0.165.0", *_UVICORN, *_RUNTIME)),
}


def python_of(folder: Path, name: str) -> Path:
    """Return the interpreter of an environment, which is made if it is missing or old. Raises InstallError."""
    wanted = ENVIRONMENTS[name]
    place = folder.resolve() / name
    digest = hashlib.sha256(repr((wanted, sys.version_info[:2])).encode()).hexdigest()
    python = place / "bin" / "python"
    stamp = place / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == digest:
        return python
    shutil.rmtree(place, ignore_errors=True)
    print(f"making the environment {name}", flush=True)
    _run([sys.executable, "-m", "venv", str(place)])
    for packages, options in ((wanted.packages, ()), (wanted.alone, ("--no-deps",))):
        if packages:
            _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", *options, *packages])
    stamp.write_text(json.dumps(digest))
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        told = re.sub(r" \(from versions: .*?\)", "", " ".join(lines[-2:]))  # pip's list of all versions
        raise InstallError(told[:400] or f"status {done.returncode}")
