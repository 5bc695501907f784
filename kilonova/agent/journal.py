"""What an agent remembers of its orders, so that a repeated one is answered and a stale one refused.

Per operation the highest (fence, seq) and the answers of its steps; per server the highest epoch. An operation of a
higher epoch makes what is remembered of older ones needless: the epoch alone refuses them. What was undone stays as
the operation's (fence, seq): a late ``do`` is lower. What an operation made at last stays when it has ended: an older
order of it removes nothing, whether a conductor slept before it sent it or the bus was late. Answers hold ids, states
and addresses; no secrets.

All of it is in memory; with a path every end of an order is also one commit in SQLite before the answer leaves
(``synchronous=FULL`` unless the hosts are simulated). A crash before that commit only
means that the order is done twice.
"""

import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilonova.common.ids import new_uuid
from kilonova.objects.base import decode, encode
from kilonova.objects.order import Answer, Direction, Order

KEEP_S = 7 * 86400.0
REMOVES = frozenset(
    {"guest_delete", "volume_remove", "snapshot_remove"}
)  # may come after the operation has ended
MAKES = frozenset({"guest_build", "volume_make"})
"""What an older order of the same operation may not take away again, however late it comes."""
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS server (server TEXT PRIMARY KEY, epoch INTEGER NOT NULL, closed INTEGER NOT NULL,
    touched REAL NOT NULL, made_fence INTEGER NOT NULL DEFAULT 0, made_seq INTEGER NOT NULL DEFAULT 0,
    made_by TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS operation (operation TEXT PRIMARY KEY, server TEXT NOT NULL, fence INTEGER NOT NULL,
    seq INTEGER NOT NULL, made_fence INTEGER NOT NULL DEFAULT 0, made_seq INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS answer (operation TEXT NOT NULL, step TEXT NOT NULL, direction TEXT NOT NULL,
    answer BLOB NOT NULL, PRIMARY KEY (operation, step, direction)) WITHOUT ROWID;
"""


_COUNT = "INTEGER NOT NULL DEFAULT 0"
_ADDED = (  # after the first form of the file
    ("server", "made_fence", _COUNT),
    ("server", "made_seq", _COUNT),
    ("server", "made_by", "TEXT NOT NULL DEFAULT ''"),
    ("operation", "made_fence", _COUNT),
    ("operation", "made_seq", _COUNT),
)

Place = tuple[int, int]
"""Where an order stands in its operation: (fence, seq)."""


@dataclass(slots=True)
class _Server:
    epoch: int
    closed: int  # the highest epoch whose operation has ended: a late ``do`` of it is refused
    touched: float
    made: Place = (0, 0)  # the last order of ``made_by`` that made something
    made_by: str = ""  # an operation that has ended: its older orders remove nothing any more
    operations: list[str] = field(default_factory=list)  # of the highest epoch only


@dataclass(slots=True)
class _Operation:
    server: str
    fence: int
    seq: int
    made: Place = (0, 0)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an order: perform it (both None), give ``stored`` again, or refuse it because ``refused``."""

    stored: Answer | None = None
    refused: str | None = None


GO = Verdict()


class JournalFile:
    """The file of one host, or of many simulated ones of a process: thousands of files would be in nobody's favour."""

    def __init__(self, path: Path, *, full: bool = True) -> None:
        """Open or make it. full: what was answered survives a power cut."""
        self.lock = threading.Lock()
        self.conn = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.conn.execute("PRAGMA journal_mode=WAL")
        self.conn.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
        self.conn.executescript(_TABLES)
        for table, column, kind in _ADDED:
            if all(row[1] != column for row in self.conn.execute(f"PRAGMA table_info({table})")):
                self.conn.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        path.chmod(0o600)

    def close(self) -> None:
        """Close it. Safe to repeat."""
        with self.lock:
            self.conn.close()


class Journal:
    """One host's memory of orders. Safe from any thread."""

    def __init__(
        self, path: Path | JournalFile | None = None, *, full: bool = True, host: str = ""
    ) -> None:
        """Open or make the file; None: memory only, for hosts whose guests end with the process too.

        host: who of those that share a file this is. The file is its owner's to close.
        """
        self._own = JournalFile(path, full=full) if isinstance(path, Path) else None
        file = path if isinstance(path, JournalFile) else self._own
        self._lock = threading.Lock() if file is None else file.lock
        self._prefix = f"{host}/" if host else ""
        self._servers: dict[str, _Server] = {}
        self._operations: dict[str, _Operation] = {}
        self._meta: dict[str, str] = {}
        self._garbage: list[str] = []  # operations whose rows go with the next commit
        self._conn = None if file is None else file.conn
        if self._conn is not None:
            self._load(self._conn)
        self.id: str = self._meta.get("journal_id") or self._put_meta("journal_id", new_uuid())

    # -- orders

    def judge(self, order: Order) -> Verdict:
        """Say what to do with an order, and remember that it came. Repeatable."""
        with self._lock:
            known = self._servers.get(order.server_id)
            if known is not None:
                if order.epoch < known.epoch:
                    return Verdict(refused=f"epoch {order.epoch} is over, now is {known.epoch}")
                makes = order.direction == Direction.DO and order.verb not in REMOVES
                if makes and order.epoch <= known.closed:
                    return Verdict(refused="the operation has ended")
                if order.operation == known.made_by and (order.fence, order.seq) < known.made:
                    return Verdict(refused="the operation has made it anew since")
            op = self._operations.get(order.operation)
            if op is None:
                return GO
            if (order.fence, order.seq) < (op.fence, op.seq):
                return Verdict(
                    refused=f"({order.fence}, {order.seq}) is older than {op.fence}, {op.seq}"
                )
            stored = op.answers.get((order.step, order.direction))
            if stored is None or (stored.state == "failed" and order.seq != stored.seq):
                return GO  # a new try of what failed
            return Verdict(stored=stored.replace(seq=order.seq))

    def begin(self, order: Order, now: float) -> None:
        """Raise the operation's (fence, seq) and the server's epoch; forget what that makes needless."""
        with self._lock:
            server = self._servers.get(order.server_id)
            if server is None:
                server = self._servers[order.server_id] = _Server(order.epoch, 0, now)
            elif order.epoch > server.epoch:
                for old in server.operations:
                    self._forget(old)
                server.operations.clear()
                server.epoch = order.epoch
            server.touched = now
            op = self._operations.get(order.operation)
            if op is None:
                op = self._operations[order.operation] = _Operation(
                    order.server_id, order.fence, order.seq
                )
                server.operations.append(order.operation)
            elif (order.fence, order.seq) > (op.fence, op.seq):
                op.fence, op.seq = order.fence, order.seq
            if order.direction == Direction.DO and order.verb in MAKES:
                op.made = max(op.made, (order.fence, order.seq))

    def end(self, order: Order, answer: Answer) -> None:
        """Remember an order's answer; on disk when this returns. That of an order that was overtaken is not kept."""
        with self._lock:
            op = self._operations.get(order.operation)
            if op is None or (order.fence, order.seq) < (op.fence, op.seq):
                return
            other = Direction.UNDO if order.direction == Direction.DO else Direction.DO
            op.answers.pop((order.step, other), None)
            op.answers[order.step, order.direction] = answer
            if self._conn is not None:
                self._write(answer, op)

    def operation_ended(self, operation: str, server_id: str, epoch: int, now: float) -> None:
        """The conductor closed an operation: its answers are dropped, a late ``do`` of it stays refused."""
        with self._lock:
            server = self._servers.setdefault(server_id, _Server(epoch, 0, now))
            server.epoch = max(server.epoch, epoch)
            ended = self._operations.get(operation)
            if epoch >= server.closed and ended is not None and ended.made > (0, 0):
                server.made, server.made_by = ended.made, operation
            server.closed = max(server.closed, epoch)
            self._forget(operation)
            if operation in server.operations:
                server.operations.remove(operation)
            if self._conn is not None:
                self._conn.execute("BEGIN IMMEDIATE")
                self._write_server(server_id, server)
                self._sweep(self._conn)
                self._conn.execute("COMMIT")

    def epoch(self, server_id: str) -> int:
        """Return the highest epoch seen for a server, 0 when it is unknown."""
        with self._lock:
            known = self._servers.get(server_id)
            return 0 if known is None else known.epoch

    def own(self, server_id: str, epoch: int, now: float) -> None:
        """Take over what the control plane says of a server's epoch, at registration."""
        with self._lock:
            server = self._servers.setdefault(server_id, _Server(epoch, 0, now))
            server.epoch = max(server.epoch, epoch)

    def purge(self, now: float, alive: frozenset[str]) -> int:
        """Forget servers that are not ``alive`` here and were not heard of for 7 days; return how many."""
        with self._lock:
            old = [
                s
                for s, known in self._servers.items()
                if s not in alive and known.touched < now - KEEP_S
            ]
            for server_id in old:
                for operation in self._servers.pop(server_id).operations:
                    self._forget(operation)
            if old and self._conn is not None:
                self._conn.execute("BEGIN IMMEDIATE")
                gone = [(self._prefix + s,) for s in old]
                self._conn.executemany("DELETE FROM server WHERE server = ?", gone)
                self._sweep(self._conn)
                self._conn.execute("COMMIT")
            return len(old)

    # -- the host itself

    @property
    def boot_id(self) -> str | None:
        """The boot in which this host last registered; None when it never did, or when its state was wiped."""
        return self._meta.get("boot_id")

    def booted(self, boot_id: str) -> None:
        """Remember the boot in which what was wanted has been started."""
        self._put_meta("boot_id", boot_id)

    def close(self) -> None:
        """Close the file, if it is this host's own. Safe to repeat."""
        with self._lock:
            self._conn = None
        if self._own is not None:
            self._own.close()

    # -- the file

    def _put_meta(self, key: str, value: str) -> str:
        with self._lock:
            self._meta[key] = value
            if self._conn is not None:
                put = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
                self._conn.execute(put, (self._prefix + key, value))
        return value

    def _forget(self, operation: str) -> None:
        if self._operations.pop(operation, None) is not None and self._conn is not None:
            self._garbage.append(operation)

    def _sweep(self, conn: sqlite3.Connection) -> None:
        rows = [(self._prefix + operation,) for operation in self._garbage]
        self._garbage.clear()
        conn.executemany("DELETE FROM operation WHERE operation = ?", rows)
        conn.executemany("DELETE FROM answer WHERE operation = ?", rows)

    def _write(self, answer: Answer, op: _Operation) -> None:
        conn = self._conn
        assert conn is not None  # noqa: S101 - for the type checker; the caller looked
        conn.execute("BEGIN IMMEDIATE")
        self._sweep(conn)
        server = self._servers.get(op.server)
        if server is not None:
            self._write_server(op.server, server)
        conn.execute(
            "INSERT OR REPLACE INTO operation (operation, server, fence, seq, made_fence, made_seq)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (self._prefix + answer.operation, op.server, op.fence, op.seq, *op.made),
        )
        other = "undo" if answer.direction == Direction.DO else "do"
        conn.execute(
            "DELETE FROM answer WHERE operation = ? AND step = ? AND direction = ?",
            (self._prefix + answer.operation, answer.step, other),
        )
        conn.execute(
            "INSERT OR REPLACE INTO answer (operation, step, direction, answer) VALUES (?, ?, ?, ?)",
            (
                self._prefix + answer.operation,
                *(answer.step, str(answer.direction), encode(answer)),
            ),
        )
        conn.execute("COMMIT")

    def _write_server(self, server_id: str, server: _Server) -> None:
        if self._conn is not None:
            self._conn.execute(
                "INSERT OR REPLACE INTO server (server, epoch, closed, touched, made_fence, made_seq, made_by)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(self._prefix + server_id, server.epoch, server.closed, server.touched),
                    *(*server.made, server.made_by),
                ),
            )

    def _load(self, conn: sqlite3.Connection) -> None:
        self._meta = dict(self._mine(conn, "key, value", "meta"))
        for server, epoch, closed, touched, *made in self._mine(
            conn, "server, epoch, closed, touched, made_fence, made_seq, made_by", "server"
        ):
            self._servers[server] = _Server(epoch, closed, touched, (made[0], made[1]), made[2])
        for operation, server, fence, seq, *made in self._mine(
            conn, "operation, server, fence, seq, made_fence, made_seq", "operation"
        ):
            self._operations[operation] = _Operation(server, fence, seq, (made[0], made[1]))
            if server in self._servers:
                self._servers[server].operations.append(operation)
        for operation, step, direction, answer in self._mine(
            conn, "operation, step, direction, answer", "answer"
        ):
            if operation in self._operations:
                self._operations[operation].answers[step, direction] = decode(answer, Answer)

    def _mine(self, conn: sqlite3.Connection, columns: str, table: str) -> list[tuple[Any, ...]]:
        """Return this host's rows; the first column, without the host's name, is what it calls a thing itself."""
        first, after = columns.partition(",")[0], self._prefix[:-1] + "0"  # "0" comes after "/"
        where = f"WHERE {first} >= ? AND {first} < ?" if self._prefix else ""
        ask = f"SELECT {columns} FROM {table} {where}"
        rows = conn.execute(ask, (self._prefix, after) if self._prefix else ()).fetchall()
        return [(row[0][len(self._prefix) :], *row[1:]) for row in rows]
