"""Servers as processes: start one on given cores, wait for its first answer, read its memory, stop it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
START_SECONDS = 120.0
POLL_SECONDS = 0.005
STOP_SECONDS = 5.0


class ServerError(Exception):
    """A server did not start or does not answer; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a server in megabytes (10**6 bytes): the RSS of one process, or the summed PSS of several."""

    megabytes: float
    processes: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The status and the body of a response."""

    status: int
    body: bytes


class Server:
    """A server in a process group of its own, pinned to `cores`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        cores: Collection[int],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.port, self.log = port, log
        self._started = time.perf_counter()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command),
                env={**plain_environment(), **(environment or {})},
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def __enter__(self) -> Self:
        """Return the server, which is starting already."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        self.stop()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, path: str, body: str) -> float:
        """Return the seconds from the start to the first answer 200. Raises ServerError if none comes."""
        last = "no connection"
        while (passed := time.perf_counter() - self._started) < START_SECONDS:
            if self._process.poll() is not None:
                raise ServerError(f"ended with status {self._process.returncode}: {self.tail()}")
            try:
                reply = ask(self.port, path, body, timeout=START_SECONDS - passed)
            except OSError:
                pass
            else:
                if reply.status == http.HTTPStatus.OK:
                    return time.perf_counter() - self._started
                last = f"{reply.status} {reply.body[:200]!r}"
            time.sleep(POLL_SECONDS)
        raise ServerError(f"not ready after {START_SECONDS:.0f} s ({last}): {self.tail()}")

    def memory(self) -> Memory:
        """Return the memory of the process and its descendants."""
        pids = tree(self._process.pid)
        key, name = ("Rss", "status") if len(pids) == 1 else ("Pss", "smaps_rollup")
        fields = {"Rss": "VmRSS:", "Pss": "Pss:"}
        total = 0
        for pid in pids:
            try:
                lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
            except OSError:  # the process has ended
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(fields[key]))
        return Memory(total / 1e6, len(pids))

    def tail(self) -> str:
        """Return the last lines of the log."""
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-4:])[-600:]

    def stop(self) -> None:
        """Send SIGTERM twice, then kill the process and its descendants."""
        pids = tree(self._process.pid)
        for seconds in (0.5, STOP_SECONDS):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


def plain_environment() -> dict[str, str]:
    """Return this process's environment without the servers' variables, and with one thread for every library."""
    own = ("REFLUX_", "PYTHON", "VIRTUAL_ENV", "BENTOML_", "MLSERVER_", "INFINITY_")
    return {**{name: value for name, value in os.environ.items() if not name.startswith(own)}, **ONE_THREAD}


def ask(port: int, path: str, body: str | None = None, *, timeout: float = 30.0) -> Reply:
    """Send one request on a new connection, a POST if there is a body. Raises OSError if no answer comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, body.encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Reply(response.status, response.read())
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def tree(root: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, index = [root], 0
    while index < len(found):
        found += parents.get(found[index], [])
        index += 1
    return found
