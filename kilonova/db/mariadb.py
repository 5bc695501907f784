"""Sessions on a MariaDB server, by PyMySQL. Rows that a change finds count, whether it changes them or not.

A MariaDB Galera cluster is used by one node at a time: its certification at commit has not been tried here.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT, CR, ER

from kilonova.common.config import BadConfig
from kilonova.common.errors import BadRequest
from kilonova.db import rows
from kilonova.db.dialects import MARIADB
from kilonova.db.server import Answer, Backend, ServerDatabase, ServerError, Why
from kilonova.db.sql import Text

CONNECT_S = 3
ANSWER_S = 60
"""How long a server may be silent; its own limit for a statement is shorter."""
_SETTINGS = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO,"
    "SIMULTANEOUS_ASSIGNMENT', max_statement_time = 30, innodb_lock_wait_timeout = 15,"
    " group_concat_max_len = 1073741824, collation_connection = 'utf8mb4_nopad_bin',"
    " tx_isolation = 'SERIALIZABLE'"
)
_SETTINGS_OF_READERS = _SETTINGS.replace("SERIALIZABLE", "REPEATABLE-READ")
_WHY = {
    ER.LOCK_DEADLOCK: Why.COLLISION,
    ER.LOCK_WAIT_TIMEOUT: Why.COLLISION,
    ER.CHECKREAD: Why.COLLISION,
    ER.DUP_ENTRY: Why.TAKEN,
    1969: Why.TIMEOUT,  # ER_STATEMENT_TIMEOUT
    ER.DISK_FULL: Why.FULL,
    ER.RECORD_FILE_FULL: Why.FULL,
    ER.SERVER_SHUTDOWN: Why.LOST,
    1927: Why.LOST,  # ER_CONNECTION_KILLED
    CR.CR_SERVER_GONE_ERROR: Why.LOST,
    CR.CR_SERVER_LOST: Why.LOST,
    CR.CR_CONN_HOST_ERROR: Why.LOST,
    CR.CR_CONNECTION_ERROR: Why.LOST,
}
_BAD_PATTERN = 1139  # ER_REGEXP_ERROR


def _failure(exc: pymysql.Error) -> ServerError:
    number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
    if number == _BAD_PATTERN:
        raise BadRequest("The regular expression is not one that the database takes.") from exc
    lost = number == 0 and isinstance(exc, pymysql.InterfaceError)
    why = Why.LOST if lost else _WHY.get(number, Why.OTHER)
    return ServerError(why, str(number), str(exc))


def _socket(path: str | None) -> socket.socket | None:
    """Return a connected unix socket: PyMySQL would leave its own open when nobody listens."""
    if path is None:
        return None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(CONNECT_S)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _number(v: Any) -> Any:
    return (int(v) if v == v.to_integral_value() else float(v)) if type(v) is Decimal else v


class MariadbSession:
    """One connection. Made by ``open_mariadb``."""

    def __init__(self, options: Mapping[str, Any], writes: bool) -> None:
        self.lost = False
        self._shapes: dict[tuple[str, ...], Callable[[Any], Any]] = {}
        try:
            self._conn = pymysql.connect(
                **options,
                charset="utf8mb4",
                autocommit=True,
                client_flag=CLIENT.FOUND_ROWS,
                connect_timeout=CONNECT_S,
                read_timeout=ANSWER_S,
                write_timeout=ANSWER_S,
                defer_connect=True,
            )
            self._conn.connect(_socket(options.get("unix_socket")))
        except (pymysql.Error, OSError) as exc:
            raise ServerError(Why.LOST, "connect", str(exc)) from exc
        # PyMySQL forgets these when the server goes away, and leaves the socket to the garbage collector.
        self._parts = (self._conn._rfile, self._conn._sock)
        try:
            self.command(_SETTINGS if writes else _SETTINGS_OF_READERS)
        except BaseException:
            self.close()
            raise

    def _guarded(self, use: Callable[[Any], Any]) -> Any:
        """Use a cursor; an error becomes ours."""
        try:
            with self._conn.cursor() as cursor:
                return use(cursor)
        except pymysql.Error as exc:
            failure = _failure(exc)
            self.lost = self.lost or failure.why is Why.LOST
            raise failure from exc
        except OSError as exc:
            self.lost = True
            raise ServerError(Why.LOST, "io", str(exc)) from exc

    def _run(self, text: str, values: Sequence[Any] | None) -> Answer:
        def use(cursor: Any) -> Answer:
            cursor.execute(text, values or None)
            if cursor.description is None:
                return Answer([], max(0, cursor.rowcount))
            names = tuple(d[0] for d in cursor.description)
            make = self._shapes.get(names)
            if make is None:
                make = self._shapes[names] = rows.factory(names)
            return Answer([make(map(_number, r)) for r in cursor.fetchall()], cursor.rowcount)

        answer: Answer = self._guarded(use)
        return answer

    def command(self, text: str) -> None:
        self._run(text, None)

    def begin(self, text: str) -> None:
        self.command(text)

    def confirm(self) -> None:
        """Everything was answered already."""

    def commit(self) -> None:
        self.command("COMMIT")

    def rollback(self, to: str | None = None) -> None:
        self.command("ROLLBACK" if to is None else f"ROLLBACK TO SAVEPOINT {to}")

    def leave(self) -> None:
        self.command("ROLLBACK")

    def put(self, text: Text, values: Mapping[str, Any]) -> None:
        self.ask(text, values)

    def ask(self, text: Text, values: Mapping[str, Any]) -> Answer:
        given = {**text.literals, **values} if text.literals else values
        return self._run(text.text, [given[n] for n in text.names])

    def ask_once(self, text: str, values: Sequence[Any]) -> Answer:
        return self._run(text, values)

    def many(self, text: Text, rows: Sequence[Mapping[str, Any]]) -> None:
        self._guarded(
            lambda cursor: cursor.executemany(
                text.text, [[{**text.literals, **r}[n] for n in text.names] for r in rows]
            )
        )

    def close(self) -> None:
        self.lost = True
        if self._conn.open:
            try:
                self._conn.close()
            except (pymysql.Error, OSError):
                self.lost = True
        for part in self._parts:
            part.close()


_NUMBERS = {"port", "connect_timeout"}
_ALLOWED = {
    "unix_socket",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "ssl_verify_cert",
    "ssl_verify_identity",
}


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    out: dict[str, Any] = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.strip("/")),
    }
    if parts.hostname:
        out.update(host=parts.hostname, port=parts.port or 3306)
    for key, value in parse_qsl(parts.query):
        if key not in _ALLOWED:
            raise BadConfig(
                f"{key} is not an option of a MariaDB URL: {', '.join(sorted(_ALLOWED))}"
            )
        out[key] = value.lower() in ("1", "true", "yes") if "verify" in key else value
    return out


def open_mariadb(url: str, name: str) -> ServerDatabase:
    """Return the database at a URL; nothing is connected yet. Raises BadConfig for a URL that is none."""
    options = _options(url)
    backend = Backend(
        MARIADB,
        lambda writes: MariadbSession(options, writes),
        begin="START TRANSACTION",
        snapshot="START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        guarded="START TRANSACTION",  # another isolation would be one more way to and fro
    )
    return ServerDatabase(name, backend)
