"""Modules of this package as processes: they read a plan as JSON from stdin and print their result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving_tools.process import ServerError, plain_environment

_BENCHMARKS = Path(__file__).parent.parent


def spawn(module: str) -> subprocess.Popen[str]:
    """Start a process for a module of this package; it waits for its plan."""
    return subprocess.Popen(
        [sys.executable, "-m", f"serving_tools.{module}"],
        env=plain_environment(),
        cwd=_BENCHMARKS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin(module: str, plan: Mapping[str, Any]) -> subprocess.Popen[str]:
    """Start a process, send it its plan and close its stdin."""
    process = spawn(module)
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process to end and return what it printed. Raises ServerError if it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise ServerError(f"{process.args!r} ended with status {process.returncode}")
    return output
