"""Serve embedded identity on a loopback port for real clients."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cheroot import wsgi

from kilonova.db.sqlite import SqliteDatabase
from kilonova.http.app import Application
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.seed import seed
from kilonova.identity.embedded.service import service


@contextmanager
def serving(directory: Path, passwords: dict[str, str]) -> Iterator[str]:
    """Serve until the block ends; yield the public URL."""
    server = wsgi.Server(("127.0.0.1", 0), None, numthreads=4)
    server.prepare()
    url = f"http://127.0.0.1:{server.bind_addr[1]}"
    database = SqliteDatabase(directory / "identity.db", "identity")
    catalog = [
        ("identity", "keystone", f"{url}/identity"),
        ("compute", "nova", f"{url}/compute/v2.1"),
    ]
    identity = EmbeddedIdentity(database, directory / "keys", catalog=catalog)
    seed(identity, passwords)
    server.wsgi_app = Application([service(identity)], None, identity.authenticate, url).wsgi
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.stop()
        thread.join(30)
        database.close()
