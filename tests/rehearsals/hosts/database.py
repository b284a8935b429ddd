"""PostgreSQL on a host of its own: made anew in a folder, asked with psql, stopped as by a crash and started again."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import secrets
import shutil
import signal
from pathlib import Path

from tests.rehearsals.hosts.errors import RehearsalError
from tests.rehearsals.hosts.network import NETWORK, Network, as_account
from tests.rehearsals.hosts.processes import Program

ACCOUNT = "postgres"
"""The account of this machine that the server runs as; it refuses to run as root."""

NAME = "reflux"
PORT = 5432


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs of the newest version here, None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: int(one.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(os.path.realpath(on_path)).parent if on_path else None


class Database:
    """A server with one database and one role, both called NAME. `password` is the role's."""

    def __init__(self, network: Network, host: str, folder: Path) -> None:
        found = programs()
        if found is None:
            raise RehearsalError("there is no PostgreSQL server here (Debian: postgresql)")
        self.address, self.password = network.addresses[host], secrets.token_hex(16)
        self._programs, self._data, self._folder = found, folder / "data", folder
        shutil.chown(folder, ACCOUNT)
        command = (
            str(found / "postgres"),
            "-D",
            str(self._data),
            "-h",
            self.address,
            "-p",
            str(PORT),
            "-k",
            str(folder),
        )
        self.program = Program(network, host, command, os.environ, folder / "postgres.log", ACCOUNT)

    @property
    def url(self) -> str:
        """The database's URL, without the password."""
        return f"postgresql://{NAME}@{self.address}:{PORT}/{NAME}"

    async def create(self) -> None:
        """Make the files of the server, start it, and make the role and the database."""
        owner = self._folder / "owner"
        owner.write_text(self.password)
        shutil.chown(owner, ACCOUNT)
        initialise = (
            self._programs / "initdb",
            "-D",
            self._data,
            "-U",
            ACCOUNT,
            "-A",
            "scram-sha-256",
            "-N",
            "-E",
            "UTF8",
        )
        await _output(*as_account(ACCOUNT), *map(str, initialise), f"--pwfile={owner}")
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK.format(0)}/24 scram-sha-256\n")
        await self.start()
        await self._ask(f"CREATE ROLE {NAME} LOGIN PASSWORD '{self.password}'", ACCOUNT, ACCOUNT)
        await self._ask(f"CREATE DATABASE {NAME} OWNER {NAME}", ACCOUNT, ACCOUNT)

    async def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        await self.program.start()
        await self.program.until(self._ready)

    async def crash(self) -> None:
        """End the server without letting it finish anything: its next start recovers from its log."""
        await self.program.end(signal.SIGQUIT)

    async def query(self, sql: str) -> list[dict[str, str]]:
        """Return the rows of a query, by column; NULL is ''. Raises RehearsalError with the server's message."""
        return await self._ask(sql, NAME, NAME)

    async def _ask(self, sql: str, role: str, database: str) -> list[dict[str, str]]:
        where = ("-h", self.address, "-p", str(PORT), "-U", role, "-d", database)
        text = await _output(
            *("psql", "-X", "--csv", "-v", "ON_ERROR_STOP=1", *where, "-c", sql), PGPASSWORD=self.password
        )
        return list(csv.DictReader(io.StringIO(text)))

    async def _ready(self) -> bool:
        try:
            await self._ask("SELECT 1", ACCOUNT, "postgres")
        except RehearsalError:
            return False
        return True


async def _output(*command: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, problem = await process.communicate()
    if process.returncode:
        raise RehearsalError(f"`{command[0]}`: {problem.decode().strip() or out.decode().strip()}")
    return out.decode()
