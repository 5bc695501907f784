"""Databases for tests, of every kind: a SQLite file, and servers that a test run starts for itself.

A server lives in a directory of its own, runs as an unprivileged user, listens on a unix socket only, and is stopped by
its process id when the run ends. Where one cannot be had, ``url`` skips the test and says why.

@pytest.fixture(params=KINDS)
def database(request, tmp_path): ...  open_database(url(request.param, tmp_path), "x")
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from kilonova.db.engine import Database
from kilonova.db.opening import file_url, open_database

T = TypeVar("T")
KINDS = ("sqlite", "postgresql", "mariadb")
START_S = 60.0
_counter = itertools.count(1)


def _unprivileged() -> tuple[int, int]:
    """Return whom a server runs as: ourselves, or nobody when we are root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    found = pwd.getpwnam("nobody")
    return found.pw_uid, found.pw_gid


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after = stat.read_text().rpartition(")")[2].split()
            if int(after[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _die_with_parent(number: int) -> None:
    """Have the kernel send a signal when the thread that starts a server is gone, however it went."""
    ctypes.CDLL(None).prctl(1, number)


def _sweep(kind: str) -> None:
    """Remove directories of servers whose test run was killed; the server died with it."""
    for mark in Path(tempfile.gettempdir()).glob(f"kilonova-{kind}-*/owner"):
        with contextlib.suppress(OSError, ValueError):
            if not Path(f"/proc/{int(mark.read_text())}").exists():
                shutil.rmtree(mark.parent, ignore_errors=True)


class Server:
    """A database server of this run. ``kill`` and ``start`` are for tests of what happens then."""

    kind = ""
    end_signal = signal.SIGTERM

    def __init__(self, durable: bool = False) -> None:
        """Make one and start it. durable: on disk, and as safe as it is when nobody sets anything; for benchmarks."""
        self.durable = durable
        self.uid, self.gid = _unprivileged()
        _sweep(self.kind)
        self.root = Path(tempfile.mkdtemp(prefix=f"kilonova-{self.kind}-"))
        (self.root / "owner").write_text(str(os.getpid()))
        os.chown(self.root, self.uid, self.gid)
        self.root.chmod(0o700)
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = os.getpid()
        atexit.register(self.close)

    def run(self, *command: str) -> str:
        """Run a command as the server's user; return what it printed."""
        done = subprocess.run(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd=self.root,
            env={"PATH": os.environ["PATH"], "HOME": str(self.root), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def spawn(self, *command: str) -> None:
        """Start the server's process."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                cwd=self.root,
                env={"PATH": os.environ["PATH"], "HOME": str(self.root), "LC_ALL": "C"},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(_die_with_parent, self.end_signal),
            )
        end = time.monotonic() + START_S
        while not self.answers():
            assert self.process.poll() is None, (self.root / "log").read_text()[-3000:]
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.05)

    def start(self) -> None:
        """Start it and wait until it answers."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether it can be asked."""
        raise NotImplementedError

    def cpu_s(self) -> float:
        """Return the CPU seconds that it and its children have used."""
        assert self.process is not None
        ticks = 0
        for pid in (self.process.pid, *_children(self.process.pid)):
            with contextlib.suppress(OSError):
                after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, after[11 : 15 if pid == self.process.pid else 13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it as the kernel's out-of-memory killer would: SIGKILL to the process, then to its children."""
        assert self.process is not None
        children = _children(self.process.pid)
        self.process.kill()
        self.process.wait(30)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < end, "a child of the server stays"
            time.sleep(0.01)

    def close(self) -> None:
        """Stop it and remove its directory; only the process that started it does."""
        if os.getpid() != self.owner or not self.root.exists():
            return
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.end_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def make(self, template: str | None = None) -> str:
        """Make a database, empty or a copy of the one at a URL; return its URL."""
        raise NotImplementedError

    def drop(self, there: str) -> None:
        """Remove the database at a URL."""
        raise NotImplementedError


class Postgresql(Server):
    """PostgreSQL from the Debian package. Without ``fsync``: a killed process loses nothing, and tests are quick."""

    kind = "postgresql"
    end_signal = signal.SIGQUIT  # at once: nothing is kept

    def __init__(self, durable: bool = False) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
        self.bin = found[-1].parent
        super().__init__(durable)
        self.run(
            *(str(self.bin / "initdb"), "-D", str(self.root / "data"), "-U", "kilonova"),
            *("-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
        )
        self.start()

    def start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.root),
            "fsync": "on" if self.durable else "off",
            "deadlock_timeout": "50ms",
            "max_connections": "300",
            "autovacuum": "on" if self.durable else "off",
            "shared_buffers": "32MB",
            "max_pred_locks_per_transaction": "256",
        }
        options = [o for k, v in settings.items() for o in ("-c", f"{k}={v}")]
        self.spawn(str(self.bin / "postgres"), "-D", str(self.root / "data"), *options)

    def answers(self) -> bool:
        done = subprocess.run(
            [self.bin / "pg_isready", "-q", "-h", self.root, "-d", "postgres", "-U", "kilonova"]
        )
        return done.returncode == 0

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(f"postgresql://kilonova@/postgres?host={self.root}", autocommit=True)

    def drop(self, there: str) -> None:
        with self._connect() as conn:
            conn.execute(f"DROP DATABASE {urlsplit(there).path[1:]} WITH (FORCE)")

    def make(self, template: str | None = None) -> str:
        name = f"t{next(_counter)}"
        with self._connect() as conn:
            like = urlsplit(template).path[1:] if template else "template0"
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return f"postgresql://kilonova@/{name}?host={self.root}"


class Mariadb(Server):
    """MariaDB from the Debian package."""

    kind = "mariadb"

    def __init__(self, durable: bool = False) -> None:
        program = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
        if program is None:
            pytest.skip("no MariaDB server is installed: apt-get install mariadb-server")
        self.program = program
        super().__init__(durable)
        self.run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={self.root / 'data'}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        )
        self.start()

    def start(self) -> None:
        quick = (
            *("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync"),
            *("--innodb-doublewrite=0", "--innodb-file-per-table=0"),
        )
        self.spawn(
            *(self.program, "--no-defaults", f"--datadir={self.root / 'data'}"),
            *(f"--socket={self.root / 's'}", f"--pid-file={self.root / 'pid'}"),
            *("--skip-networking", f"--tmpdir={self.root}", "--max-connections=300"),
            *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M"),
            *(() if self.durable else quick),
        )

    def answers(self) -> bool:
        done = subprocess.run(
            ["mariadb-admin", "--no-defaults", f"--socket={self.root / 's'}", "-uroot", "ping"],
            capture_output=True,
        )
        return done.returncode == 0

    def _do(self, command: str) -> None:
        import pymysql

        conn = pymysql.connect(unix_socket=str(self.root / "s"), user="root")
        try:
            conn.cursor().execute(command)
        finally:
            conn.close()

    def drop(self, there: str) -> None:
        self._do(f"DROP DATABASE {urlsplit(there).path[1:]}")

    def make(self, template: str | None = None) -> str:
        if template is not None:
            pytest.skip("MariaDB has no copies of databases")
        name = f"t{next(_counter)}"
        self._do(f"CREATE DATABASE {name}")
        return f"mysql://root@/{name}?unix_socket={self.root / 's'}"


def chosen() -> str:
    """Return the kind of database that this run is asked to use for whole clouds: KILONOVA_TEST_DATABASE."""
    kind = os.environ.get("KILONOVA_TEST_DATABASE", "sqlite")
    assert kind in KINDS, kind
    return kind


def at(path: Path, name: str) -> Database:
    """Open a test's database: the file ``path``, or what stands for it on the server of the run's kind.

    A directory that was copied, as a template is, has copies of its databases.
    """
    return open_database(url_at(path), name)


def url_at(path: Path) -> str:
    """Return the URL of what ``at`` opens."""
    kind = chosen()
    if kind == "sqlite":
        return file_url(path)
    mark = path.with_suffix(".url")
    owner, _, there = mark.read_text().partition("\n") if mark.exists() else ("", "", "")
    if owner != str(path):
        there = server(kind).make(there or None)
        mark.write_text(f"{path}\n{there}")
        _made[path] = there
    return there


_made: dict[Path, str] = {}


def forget(directory: Path) -> None:
    """Drop the databases below a directory whose test is over: those of a whole file would fill gigabytes."""
    for path in [p for p in _made if p.is_relative_to(directory)]:
        server(chosen()).drop(_made.pop(path))


CLOUD = ("global", "cell0", "cell1", "cell2", "cell3", "identity", "image", "network", "volume")


def of_cloud(directory: Path) -> dict[str, str]:
    """Return the URLs of a cloud's databases, the same for the same directory; none for files."""
    if chosen() == "sqlite":
        return {}
    (directory / "db").mkdir(mode=0o700, parents=True, exist_ok=True)
    return {n: url_at(directory / "db" / f"{n}.db") for n in CLOUD}


@functools.cache
def server(kind: str) -> Server:
    """Return this run's server of a kind, started at its first use."""
    return {"postgresql": Postgresql, "mariadb": Mariadb}[kind]()


def url(kind: str, directory: Path) -> str:
    """Return the URL of a new, empty database."""
    if kind == "sqlite":
        return file_url(directory / f"d{next(_counter)}.db")
    return server(kind).make()


@contextlib.contextmanager
def opened(kind: str, directory: Path, name: str = "x") -> Iterator[Database]:
    """A new, empty database, closed with the block."""
    there = url(kind, directory)
    made = open_database(there, name)
    try:
        yield made
    finally:
        made.close()
        if kind != "sqlite":
            server(kind).drop(there)


def eventually(ask: Callable[[], T], *errors: type[Exception], timeout_s: float = 30.0) -> T:
    """Ask until it answers instead of raising one of ``errors``."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except errors:
            assert time.monotonic() < end, "still no answer"
            time.sleep(0.02)
