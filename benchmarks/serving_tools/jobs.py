"""Our own modules as processes: a plan as JSON on stdin, what came of it on stdout."""

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
    """A process of a module of this package, which waits for its plan."""
    return subprocess.Popen(
        [sys.executable, "-m", f"serving_tools.{module}"],
        env=plain_environment(),
        cwd=_BENCHMARKS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin(module: str, plan: Mapping[str, Any]) -> subprocess.Popen[str]:
    """A process that has its plan, and gets no more."""
    process = spawn(module)
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """What a process prints, once it has ended. Raises ServerError where it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise ServerError(f"{process.args!r} ended with status {process.returncode}")
    return output
