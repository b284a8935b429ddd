"""The connection to the shared store: made when it is needed, bounded in time, its errors said with their remedy.

It knows nothing of tables. psycopg is imported here alone, and only by processes that have a database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from service.shadow.errors import OutboxBusyError, OutboxError, ShadowError
from service.shadow.outbox.sql import Connection, Result

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 3
STATEMENT_SECONDS = 5.0
"""Limits within which the database must answer. A statement also waits so long for another's lock."""

NAMESPACE = "reflux"
"""The schema, in PostgreSQL's sense, that holds all tables."""

_REMEDIES = {
    "25006": "it is a standby; have shadow.database lead to the primary, and it goes on",
    "28": "check the user in shadow.database and the password in the file of shadow.database_password_file",
    "3D": "create the database, or correct its name in shadow.database",
    "42501": "grant the user the rights on the schema reflux that docs/serving.md lists",
    "42P01": "run `reflux migrate`",
    "53100": "free disk space on the server",
    "53300": "raise max_connections of the server",
    "55P03": "another transaction holds a lock; it is tried again",
    "57014": "the server is too slow, or another transaction holds a lock; it is tried again",
}
_PASSING = ("08", "25006", "40", "53", "55P03", "57", "58")
"""SQLSTATEs, or classes of them, after which the same statement may succeed later."""


class Database:
    """The database at `url`. `name` tells the server who connects. Not thread-safe.

    The file `password_file` is read at each connection, so that a password may change. `prepare` is called with each
    new connection, within a transaction. Raises OutboxError if the database refuses, OutboxBusyError if it cannot be
    reached or is busy; messages hold no password.
    """

    def __init__(
        self,
        url: str,
        password_file: Path | None = None,
        *,
        name: str = "reflux",
        prepare: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self.prepare = prepare
        self._url, self._password_file, self._name = url, password_file, name
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def place(self) -> str:
        """Host, port and name of the database, without the user and the password."""
        parts = urlsplit(self._url)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # nothing depends on how it ends
                connection.close()

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[Connection]:
        """Run a transaction; one without `writes` sees the database as it was at one moment."""
        with self._translated_errors():
            connection = self._connected()
            with connection.transaction():
                if not writes:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield _Statements(connection)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is not None and self._connection.broken:
            self.close()
        if self._connection is None:
            connection = self._connect()
            try:
                with connection.transaction():
                    self.prepare(_Statements(connection))
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        milliseconds = int(1000 * STATEMENT_SECONDS)
        connection = psycopg.connect(
            self._url,
            password=None if self._password_file is None else read_password(self._password_file),
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            tcp_user_timeout=milliseconds,
            keepalives_idle=5,  # a link that is cut must not hold the outbox's thread for long
            keepalives_interval=2,
            keepalives_count=3,
            fallback_application_name=self._name,
        )
        for name, value in (
            ("search_path", NAMESPACE),
            ("statement_timeout", milliseconds),
            ("idle_in_transaction_session_timeout", 2 * milliseconds),
        ):
            connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
        return connection

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise OutboxError for every error of psycopg, and disconnect unless a statement alone failed."""
        try:
            import psycopg
        except ImportError as error:
            raise ShadowError(
                "shadow.database needs psycopg; install it with pip install 'reflux[postgres]'"
            ) from error
        try:
            yield
        except psycopg.Error as error:
            self.close()
            raise self._outbox_error(error) from None  # psycopg's own may show the URL
        except OSError as error:  # the file of the password; its path may be the password itself, by mistake
            raise OutboxError(
                f"shadow.database_password_file: {error.strerror}; give the path of a readable file"
            ) from None

    def _outbox_error(self, error: psycopg.Error) -> OutboxError:
        state = error.sqlstate or ""
        text = error.diag.message_primary or str(error).strip() or type(error).__name__
        remedy = next((words for start, words in _REMEDIES.items() if state.startswith(start)), None)
        if remedy is None:
            remedy = "see the server's log" if state else "check that it runs and that shadow.database leads to it"
        kind = OutboxBusyError if not state or state.startswith(_PASSING) else OutboxError
        return kind(f"the shadow store {self.place}: {self._without_password(' '.join(text.split()))}; {remedy}")

    def _without_password(self, text: str) -> str:
        password = urlsplit(self._url).password
        secrets = {unquote(password), password} if password else set()
        for secret in secrets:
            text = text.replace(secret, "***")
        return text


def read_password(path: Path) -> str:
    """Return the password in a file, without the end of its line."""
    return path.read_text(encoding="utf-8").rstrip("\r\n")


class _Statements:
    """psycopg's connection, with `?` for parameters and what PostgreSQL cannot store replaced.

    Booleans become 0 or 1, as in SQLite, and U+0000 in texts U+FFFD.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Result:
        return self._connection.execute(_translated(sql), _storable(parameters), binary=True)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(sql), [_storable(each) for each in parameters])


def _translated(sql: str) -> bytes:
    return sql.replace("%", "%%").replace("?", "%s").encode()


def _storable(parameters: Sequence[Any]) -> list[Any]:
    return [_value(value) for value in parameters]


def _value(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
