"""A PostgreSQL server of our own for ``up --split``: one cluster in the state directory, on a unix socket only.

It keeps its safe defaults (fsync, synchronous_commit). It never runs as root: PostgreSQL refuses to.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from kilonova.common.errors import KilonovaError

USER = "kilonova"
READY_S = 180.0
_LONGEST_SOCKET = 80  # of a directory; the kernel takes 107 bytes with the socket's own name
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "400",
    "max_pred_locks_per_transaction": "256",
    "deadlock_timeout": "100ms",
}


class NoPostgresql(KilonovaError):
    """There is no PostgreSQL that can be used here; the message says why."""

    code = "no_postgresql"


def binaries() -> Path:
    """Return where the server's programs are. Raises NoPostgresql: missing, or we are root, or no driver."""
    if os.geteuid() == 0:
        raise NoPostgresql("PostgreSQL does not run as root")
    try:
        import psycopg  # noqa: F401
    except ImportError as exc:
        raise NoPostgresql("its driver is missing: pip install 'kilonova[postgresql]'") from exc
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise NoPostgresql("it is not installed (Debian: apt-get install postgresql)")
    return Path(on_path).resolve().parent


class PostgresqlServer:
    """One cluster in a directory. The socket lies in it, or in /tmp where its path would be too long."""

    name: ClassVar[str] = "postgresql"
    end_by: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path) -> None:
        self.bin = binaries()
        self.data = directory / "data"
        self.directory = directory
        self.socket = directory
        if len(str(directory)) > _LONGEST_SOCKET:
            self.socket = Path(f"/tmp/kilonova-pg-{os.getpid()}")  # noqa: S108 - 0700, and ours

    def prepare(self) -> None:
        """Make the cluster once."""
        for folder in (self.directory, self.socket):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (self.data / "PG_VERSION").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # left by one that did not finish
        self._run(
            "initdb",
            *("-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"),
        )

    def command(self) -> list[str]:
        """Return how it is started in the foreground."""
        settings = {**_SETTINGS, "unix_socket_directories": str(self.socket)}
        options = [o for k, v in settings.items() for o in ("-c", f"{k}={v}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), *options]

    def url(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://{USER}@/{name}?host={quote(str(self.socket), safe='')}"

    def make(self, names: Iterable[str]) -> None:
        """Make the databases that are missing, once the server answers. Raises NoPostgresql."""
        import psycopg
        from psycopg import sql

        end = time.monotonic() + READY_S
        while True:
            try:
                connection = psycopg.connect(self.url("postgres"), autocommit=True)
                break
            except psycopg.OperationalError as exc:
                if time.monotonic() > end:
                    raise NoPostgresql(f"it does not answer: {exc}") from exc
                time.sleep(0.05)
        with connection:
            there = {r[0] for r in connection.execute("SELECT datname FROM pg_database")}
            for name in names:
                if name not in there:
                    make = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"
                    connection.execute(sql.SQL(make).format(sql.Identifier(name)))

    def close(self) -> None:
        """Remove what lies outside of the directory."""
        if self.socket != self.directory:
            shutil.rmtree(self.socket, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(  # noqa: S603
            [str(self.bin / program), *words], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise NoPostgresql(f"{program} failed: {done.stderr.strip()[-500:]}")
