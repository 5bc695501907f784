"""Sessions on a PostgreSQL server, on libpq as psycopg binds it: prepared statements, no cursor in between.

A BEGIN, and a change whose answer nobody looks at, wait until the next question or the COMMIT and travel with it: what
costs most here is going to and fro, on both sides.

A commit is durable on the server as its own settings say (``synchronous_commit`` on: after a power cut too).
"""

import select
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import conninfo, pq

from kilonova.common.errors import BadRequest
from kilonova.db import rows
from kilonova.db.dialects import POSTGRESQL
from kilonova.db.server import Answer, Backend, ServerDatabase, ServerError, Why
from kilonova.db.sql import Text

CONNECT_S = 3
STATEMENT_MS = 30_000
AT_ONCE = 100
"""So many statements wait at most before they are sent."""
KEPT = 1000
"""Statements that one connection keeps prepared."""
_OPTIONS = {
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "client_encoding": "UTF8",
    "application_name": "kilonova",
}
_SETTINGS = (
    f"SET statement_timeout = {STATEMENT_MS}; SET lock_timeout = 15000;"
    " SET idle_in_transaction_session_timeout = 60000; SET extra_float_digits = 3;"
    " SET bytea_output = 'hex'; "
)
_WRITES = "SET default_transaction_isolation = 'serializable'"
_READS = (
    "SET default_transaction_isolation = 'repeatable read'; SET default_transaction_read_only = on"
)
_WHY = {
    "40001": Why.COLLISION,  # serialization_failure
    "40P01": Why.COLLISION,  # deadlock_detected
    "55P03": Why.COLLISION,  # lock_not_available
    "23505": Why.TAKEN,
    "57014": Why.TIMEOUT,  # query_canceled
    "25P03": Why.LOST,  # idle_in_transaction_session_timeout
    "53100": Why.FULL,
    "53200": Why.FULL,
}
_WHY_CLASS = {"08": Why.LOST, "57": Why.LOST}
_FINE = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_BAD_PATTERN = "2201B"


def _number(v: bytes) -> int | float:
    return float(v) if b"." in v or b"e" in v or b"N" in v else int(v)


def _bytes(v: bytes) -> bytes:
    return bytes.fromhex(v[2:].decode())


def _truth(v: bytes) -> int:
    return int(v == b"t")


# By the type's number in the server's catalog; any other is text.
_DECODE: dict[int, Callable[[bytes], Any]] = {
    16: _truth,
    17: _bytes,
    20: int,
    21: int,
    23: int,
    26: int,
    700: float,
    701: float,
    1700: _number,
}
_Send = Callable[[], None]
_Given = tuple[list[bytes | None], list[int]]
_Shape = tuple[Callable[[Any], Any], list[Callable[[bytes], Any]]]


def _encode(v: Any) -> bytes | None:
    if v is None:
        return None
    kind = type(v)
    if kind is str:
        out: bytes = v.encode()
        if b"\0" in out:
            raise BadRequest("A text has a character that cannot be stored (U+0000).")
        return out
    if kind is int or kind is bool:
        return b"%d" % v
    if kind is float:
        return repr(v).encode()
    if kind is bytes:
        return v  # type: ignore[no-any-return]
    return str(v).encode() if isinstance(v, str) else bytes(v)


class PostgresqlSession:
    """One connection. Made by ``backend``."""

    def __init__(self, info: str, writes: bool) -> None:
        self.lost = False
        self._prepared: dict[int, tuple[bytes, Text]] = {}
        self._shapes: dict[bytes, _Shape] = {}
        self._waiting: list[_Send] = []
        # Place among those that wait -> id of the text that is prepared there.
        self._fresh: dict[int, int] = {}
        self._begins = False  # the first of those that wait is BEGIN
        self._leaving = False  # a ROLLBACK was sent, its answer is not read yet
        self._conn = pq.PGconn.connect(info.encode())
        if self._conn.status != pq.ConnStatus.OK:
            text = self._conn.get_error_message()
            self.close()
            raise ServerError(Why.LOST, "08001", text)
        self._conn.nonblocking = 1
        self._poll = select.poll()
        self._poll.register(self._conn.socket, select.POLLIN)
        self.command(_SETTINGS + (_WRITES if writes else _READS))

    def _failure(self, result: Any) -> ServerError | BadRequest:
        if self._conn.status != pq.ConnStatus.OK:
            self.lost = True
        code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode() if result else ""
        text = result.get_error_message() if result else self._conn.get_error_message()
        if code == _BAD_PATTERN:
            return BadRequest("The regular expression is not one that the database takes.")
        why = _WHY.get(code) or _WHY_CLASS.get(code[:2]) or (Why.LOST if self.lost else Why.OTHER)
        self.lost = self.lost or why is Why.LOST
        return ServerError(why, code or "08006", text)

    def _checked(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            if self._leaving:
                self._drain()
            result = call(*args)
        except psycopg.Error as exc:
            self.lost = True
            raise ServerError(Why.LOST, "08006", str(exc)) from exc
        if result.status not in _FINE:
            raise self._failure(result)
        return result

    def _drain(self) -> None:
        self._leaving = False
        while self._result() is not None:
            pass

    def _sent(self) -> None:
        """Send to the end, reading what comes meanwhile: neither side waits for the other to read."""
        while self._conn.flush():
            self._poll.modify(self._conn.socket, select.POLLIN | select.POLLOUT)
            ready = self._poll.poll()
            self._poll.modify(self._conn.socket, select.POLLIN)
            if ready[0][1] != select.POLLOUT:
                self._conn.consume_input()

    def _result(self) -> Any:
        """Return the next result, None after the last of a statement; psycopg waits with the interpreter's lock."""
        while self._conn.is_busy():
            self._poll.poll()
            self._conn.consume_input()
        return self._conn.get_result()

    # -- transactions

    def command(self, text: str) -> None:
        if self._waiting:
            self._flush(partial(self._conn.send_query_params, text.encode(), None))
        else:
            self._checked(self._conn.exec_, text.encode())

    def begin(self, text: str) -> None:
        self._waiting.append(partial(self._conn.send_query_params, text.encode(), None))
        self._begins = True

    def confirm(self) -> None:
        if self._begins and len(self._waiting) > 1:
            self._flush()

    def commit(self) -> None:
        if self._begins:
            self._forget()
        else:
            self.command("COMMIT")

    def rollback(self, to: str | None = None) -> None:
        begun = not self._begins
        self._forget()
        if to is not None:
            self.command(f"ROLLBACK TO SAVEPOINT {to}")
        elif begun:
            self.command("ROLLBACK")

    def leave(self) -> None:
        if self._begins:
            self._forget()
            return
        try:
            self._conn.send_query(b"ROLLBACK")
            self._sent()
        except psycopg.Error as exc:
            self.lost = True
            raise ServerError(Why.LOST, "08006", str(exc)) from exc
        self._leaving = True

    def _forget(self) -> None:
        """Send nothing of what waits."""
        self._unprepare(0, self._fresh)
        self._waiting, self._fresh, self._begins = [], {}, False

    def _unprepare(self, at: int, fresh: Mapping[int, int]) -> None:
        for place, text in fresh.items():
            if place >= at:
                del self._prepared[text]

    # -- statements

    def _name(self, text: Text) -> bytes:
        """Return the name of a statement; one that is not prepared will be, with what waits."""
        found = self._prepared.get(id(text))
        if found is not None:
            return found[0]
        if len(self._prepared) >= KEPT:
            self.command("DEALLOCATE ALL")
            self._prepared.clear()
            self._shapes.clear()
        name = b"q%d" % len(self._prepared)
        self._fresh[len(self._waiting)] = id(text)
        self._waiting.append(partial(self._conn.send_prepare, name, text.text.encode()))
        self._prepared[id(text)] = (name, text)  # the text is kept, so that its id stays its own
        return name

    def _given(self, text: Text, values: Mapping[str, Any]) -> _Given:
        given = {**text.literals, **values} if text.literals else values
        params = [given[n] for n in text.names]
        encoded = [_encode(p) for p in params]
        return encoded, [1 if type(p) is bytes else 0 for p in params]

    def ask(self, text: Text, values: Mapping[str, Any]) -> Answer:
        encoded, formats = self._given(text, values)
        name = self._name(text)
        if self._waiting:
            send = partial(self._conn.send_query_prepared, name, encoded, formats)
            return self._read(self._flush(send), name)
        return self._read(
            self._checked(self._conn.exec_prepared, name, encoded, formats),
            name,
        )

    def ask_once(self, text: str, values: Sequence[Any]) -> Answer:
        formats = [1 if type(p) is bytes else 0 for p in values]
        encoded = [_encode(v) for v in values]
        if self._waiting:
            send = self._conn.send_query_params
            return self._read(
                self._flush(partial(send, text.encode(), encoded, None, formats)), None
            )
        result = self._checked(self._conn.exec_params, text.encode(), encoded, None, formats)
        return self._read(result, None)

    def put(self, text: Text, values: Mapping[str, Any]) -> None:
        encoded, formats = self._given(text, values)
        name = self._name(text)
        self._waiting.append(partial(self._conn.send_query_prepared, name, encoded, formats))
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def many(self, text: Text, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.put(text, row)

    def _flush(self, last: _Send | None = None) -> Any:
        """Send what waits, and ``last``; then read all. Return what the last one gave, raise what the first one did."""
        sends = self._waiting if last is None else [*self._waiting, last]
        fresh, self._waiting, self._fresh, self._begins = self._fresh, [], {}, False
        conn = self._conn
        result = failed = None
        try:
            if self._leaving:
                self._drain()
            conn.enter_pipeline_mode()
            for send in sends:
                send()
            conn.pipeline_sync()
            self._sent()
            for at in range(len(sends)):
                result = self._result()
                if failed is None and (result is None or result.status not in _FINE):
                    failed = self._failure(result)
                    self._unprepare(at, fresh)
                if result is not None:
                    self._result()  # the end of this one
            self._result()  # the sync
            conn.exit_pipeline_mode()
        except psycopg.Error as exc:
            self.lost = True
            raise failed or ServerError(Why.LOST, "08006", str(exc)) from exc
        if failed is not None:
            raise failed
        return result

    def _read(self, result: Any, name: bytes | None) -> Answer:
        if result.status == pq.ExecStatus.COMMAND_OK:
            return Answer([], result.command_tuples or 0)
        shape = self._shapes.get(name) if name is not None else None
        if shape is None:
            shape = _shape(result)
            if name is not None:
                self._shapes[name] = shape
        make, decoders = shape
        get, columns = result.get_value, range(len(decoders))
        out = []
        for i in range(result.ntuples):
            found = []
            for j in columns:
                v = get(i, j)
                found.append(None if v is None else decoders[j](v))
            out.append(make(found))
        return Answer(out, result.command_tuples or 0)

    def close(self) -> None:
        self.lost = True
        self._conn.finish()


def _shape(result: Any) -> _Shape:
    columns = range(result.nfields)
    names = tuple(result.fname(j).decode() for j in columns)
    return rows.factory(names), [_DECODE.get(result.ftype(j), bytes.decode) for j in columns]


def open_postgresql(url: str, name: str) -> ServerDatabase:
    """Return the database at a libpq URL; nothing is connected yet. Raises ServerError for a URL that is none."""
    options = conninfo.conninfo_to_dict(url)
    info = conninfo.make_conninfo(**{**_OPTIONS, **options})  # type: ignore[arg-type]
    backend = Backend(
        POSTGRESQL,
        lambda writes: PostgresqlSession(info, writes),
        begin="BEGIN",
        snapshot="BEGIN",
        guarded="BEGIN ISOLATION LEVEL READ COMMITTED",
    )
    return ServerDatabase(name, backend)
