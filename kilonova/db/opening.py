"""Open a database by its URL.

sqlite:///var/lib/kilonova/db/cell1.db             a file (four slashes: from the root)
postgresql://user:password@host:5432/name?…        as libpq reads it; sslmode, host=/run/postgresql and the rest
mysql://user:password@host:3306/name?…             MariaDB 10.11 or newer; also mariadb://
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kilonova.common.config import BadConfig
from kilonova.db.engine import Database
from kilonova.db.sqlite import SqliteDatabase

SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb")


def check(url: str) -> str:
    """Return the scheme of a URL that can be opened. Raises BadConfig, which does not repeat a password."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise BadConfig(f"a database's URL cannot be read: {exc}") from None
    scheme = {"postgres": "postgresql"}.get(parts.scheme, parts.scheme)
    if scheme not in SCHEMES:
        raise BadConfig(
            f"a database's URL must begin with one of {', '.join(s + ':' for s in SCHEMES)}"
            f" not {parts.scheme + ':' if parts.scheme else 'a path'}"
        )
    if not parts.path.strip("/"):
        raise BadConfig(f"a {scheme} URL must name the database: {scheme}://…/NAME")
    return scheme


def file_url(path: Path) -> str:
    """Return the URL of a SQLite file."""
    return f"sqlite:///{quote(str(path))}"


def open_database(url: str, name: str, synchronous: str = "NORMAL") -> Database:
    """Return the database at a URL. synchronous: of a SQLite file; a server's own settings say it there.

    A server is not called before the first question. Raises BadConfig for a URL or a missing driver.
    """
    scheme = check(url)
    if scheme == "sqlite":
        path = Path(unquote(urlsplit(url).path)[1:])
        return SqliteDatabase(path, name, synchronous)
    try:
        opener: Any
        if scheme == "postgresql":
            from kilonova.db.postgresql import open_postgresql as opener
        else:
            from kilonova.db.mariadb import open_mariadb as opener
    except ImportError as exc:
        extra = "postgresql" if scheme == "postgresql" else "mysql"
        raise BadConfig(
            f"the driver for {scheme} is missing: pip install 'kilonova[{extra}]'"
        ) from exc
    database: Database = opener(url, name)
    return database
