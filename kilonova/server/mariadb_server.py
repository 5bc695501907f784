"""A MariaDB server of our own for ``up --split``: its files in the state directory, on a unix socket only.

It keeps its safe defaults (every commit is flushed). As root it would run as root, so there it is refused.
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

READY_S = 180.0
_LONGEST_SOCKET = 90  # of its directory; the kernel takes 107 bytes
_SBIN = "/usr/sbin:/usr/local/sbin"


class NoMariadb(KilonovaError):
    """There is no MariaDB that can be used here; the message says why."""

    code = "no_mariadb"


def programs() -> tuple[str, str]:
    """Return the server and the program that makes its files. Raises NoMariadb: missing, root, or no driver."""
    if os.geteuid() == 0:
        raise NoMariadb("MariaDB is not run as root")
    try:
        import pymysql  # noqa: F401
    except ImportError as exc:
        raise NoMariadb("its driver is missing: pip install 'kilonova[mysql]'") from exc
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    found = [shutil.which(p, path=path) for p in ("mariadbd", "mariadb-install-db")]
    if found[0] is None or found[1] is None:
        raise NoMariadb("it is not installed (Debian: apt-get install mariadb-server)")
    return found[0], found[1]


class MariadbServer:
    """One server's files in a directory. The socket lies in it, or in /tmp where its path would be too long."""

    name: ClassVar[str] = "mariadb"
    end_by: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self.program, self.install = programs()
        self.directory, self.data = directory, directory / "data"
        self.place = directory
        if len(str(directory)) > _LONGEST_SOCKET:
            self.place = Path(f"/tmp/kilonova-mariadb-{os.getpid()}")  # noqa: S108 - 0700, and ours
        self.socket = self.place / "s"

    def prepare(self) -> None:
        """Make the server's own files once. Raises NoMariadb."""
        for folder in (self.directory, self.place, self.directory / "tmp"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = self.directory / "made"
        if done.exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # left by one that did not finish
        words = [
            self.install,
            *("--no-defaults", f"--datadir={self.data}", f"--tmpdir={self.directory / 'tmp'}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        ]
        made = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
        if made.returncode != 0:
            said = (made.stderr or made.stdout).strip()[-500:]
            raise NoMariadb(f"mariadb-install-db failed: {said}")
        done.touch()

    def command(self) -> list[str]:
        """Return how it is started in the foreground."""
        return [
            self.program,
            *("--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}"),
            *(f"--pid-file={self.place / 'pid'}", f"--tmpdir={self.directory / 'tmp'}"),
            *("--skip-networking", "--max-connections=400"),
        ]

    def url(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return f"mysql://root@/{_called(name)}?unix_socket={quote(str(self.socket), safe='')}"

    def make(self, names: Iterable[str]) -> None:
        """Make the databases that are missing, once the server answers. Raises NoMariadb."""
        import pymysql

        end = time.monotonic() + READY_S
        while True:
            try:
                connection = pymysql.connect(unix_socket=str(self.socket), user="root")
                break
            except pymysql.err.OperationalError as exc:
                if time.monotonic() > end:
                    raise NoMariadb(f"it does not answer: {exc}") from exc
                time.sleep(0.05)
        try:
            with connection.cursor() as cursor:
                for name in names:
                    cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{_called(name)}`")
        finally:
            connection.close()

    def close(self) -> None:
        """Remove what lies outside of the directory."""
        if self.place != self.directory:
            shutil.rmtree(self.place, ignore_errors=True)


def _called(name: str) -> str:
    """Return what a database is called there; names of ours are words."""
    return f"kilonova_{name}"
