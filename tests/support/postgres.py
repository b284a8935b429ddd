"""A real PostgreSQL server of Debian's package `postgresql`, for the tests of the shared store."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.shadow.shared.database import NAMESPACE, Database
from service.shadow.shared.schema import migrate
from tests.support.sockets import dead_address

USER, PASSWORD = "reflux", "s3cret/of:the@store"
QUOTED = "s3cret%2Fof%3Athe%40store"
FAST = ("fsync=off", "full_page_writes=off", "unix_socket_directories=", "max_connections=50")


def _program(name: str) -> str | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))


class Server:
    """A cluster that belongs to one run of the tests. It refuses to run as root, so that another user runs it there."""

    password, quoted = PASSWORD, QUOTED

    def __init__(self, folder: Path) -> None:
        self.port = int(dead_address().rpartition(":")[2])
        self._data = folder / "data"
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._as = {"user": "postgres" if "postgres" in names else "nobody"}
            shutil.chown(folder, self._as["user"])
        password = folder / "password"
        password.write_text(PASSWORD)
        options = ["--no-sync", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}", "--locale=C"]
        self._run("initdb", *options, "--encoding=UTF8", "-D", str(self._data))

    def url(self, name: str) -> str:
        """Return the URL of a database, with the password."""
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        program = _program("postgres")
        assert program is not None
        settings = [
            part for each in (*FAST, "listen_addresses=127.0.0.1", f"port={self.port}") for part in ("-c", each)
        ]
        self._process = subprocess.Popen(
            [program, "-D", str(self._data), *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self._as,
        )  # fmt: skip
        for _ in range(600):
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise TimeoutError("PostgreSQL did not start within 30 s")

    def stop(self) -> None:
        """End at once, as a crash would; connections break."""
        if self._process is not None:
            self._run("pg_ctl", "stop", "-m", "immediate", "-D", str(self._data))
            self._process.wait()
            self._process = None

    def create(self, template: str = "template0") -> str:
        """Create a database and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def execute(self, name: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement in a database, as another program would; return its rows."""
        options = f"-c search_path={NAMESPACE}"
        with psycopg.connect(self.url(name), autocommit=True, options=options) as connection:
            found = connection.execute(sql.encode(), parameters or None)
            return found.fetchall() if found.description else []

    def _run(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        subprocess.run([program, *arguments], check=True, capture_output=True, cwd="/", **self._as)


@dataclass(frozen=True)
class SharedStore:
    """A database of a server."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        """Its URL, with the password."""
        return self.server.url(self.name)

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, as another program would; return its rows."""
        return self.server.execute(self.name, sql, *parameters)


@contextmanager
def server() -> Iterator[Server]:
    """Start a server with a database `migrated`, whose tables are those of `reflux migrate`; skip if there is none."""
    if missing := [name for name in ("postgres", "initdb", "pg_ctl") if _program(name) is None]:
        pytest.skip(f"there is no PostgreSQL ({', '.join(missing)}; Debian: postgresql)")
    with tempfile.TemporaryDirectory(prefix="reflux-postgres-", dir="/tmp") as folder:
        running = Server(Path(folder))
        running.start()
        try:
            running.execute("postgres", "CREATE DATABASE migrated TEMPLATE template0")
            database = Database(running.url("migrated"))
            migrate(database)
            database.close()
            yield running
        finally:
            running.stop()
