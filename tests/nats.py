"""A nats-server for tests: on a free port of loopback, in a directory of its own, ended by its process."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kilonova.bus.credentials import ACCOUNT, Authority, Key
from kilonova.bus.nats import Address, NatsBus
from kilonova.server.nats_server import Listen, NatsServer, NoNatsServer, free_port, program
from tests import places

GUARD_S = 30.0


@contextmanager
def nats_server(
    authority: Authority | None = None, **tls: tuple[Path, Path]
) -> Iterator[NatsServer]:
    """Run a server; skips the test where there is none."""
    try:
        program()
    except NoNatsServer as exc:
        pytest.skip(exc.message)
    with places.place("nats") as directory:
        server = NatsServer(directory, Listen("127.0.0.1", free_port(), tls.get("tls")))
        server.configure(authority, time.time())
        server.start()
        try:
            yield server
        finally:
            server.stop()


def new_authority() -> Authority:
    """Return the signer of a deployment."""
    return Authority(Key.make(ACCOUNT))


def connect(server: NatsServer, name: str = "test", **more: Path) -> NatsBus:
    """Return a connected bus."""
    bus = NatsBus(Address((server.listen.url,), name, **more), workers=2)
    if not bus.connected.wait(GUARD_S):
        bus.close()
        raise TimeoutError((server.directory / "nats.log").read_text())
    return bus
