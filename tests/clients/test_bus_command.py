"""``kilonova bus``: what an operator makes by hand works with a real server."""

import threading
from pathlib import Path

import pytest

from kilonova.bus.nats import Address, NatsBus
from kilonova.cli.main import main
from kilonova.server import tls
from kilonova.server.nats_server import Listen, NatsServer, free_port
from tests.nats import GUARD_S, nats_server


def test_init_and_credentials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nats_server():  # skips where there is none
        pass
    cert, key, ca = tls.ensure(tmp_path / "tls", ["127.0.0.1"])
    port = free_port()
    made = tmp_path / "bus"
    words = [
        "--directory",
        str(made),
        "--listen",
        f"127.0.0.1:{port}",
        "--cert",
        cert,
        "--key",
        key,
    ]
    assert main(["bus", "init", *words]) == 0
    seed = (made / "account.seed").read_text()
    assert main(["bus", "init", *words]) == 0  # again: the same signer
    assert (made / "account.seed").read_text() == seed
    sign = ["bus", "credentials", "--account-seed", str(made / "account.seed")]
    api, host = tmp_path / "api.creds", tmp_path / "h1.creds"
    assert main([*sign, "--role", "api", "--out", str(api)]) == 0
    assert main([*sign, "--host", "h1", "--out", str(host)]) == 0
    assert {p.stat().st_mode & 0o777 for p in (api, host, made / "account.seed")} == {0o600}
    assert main([*sign, "--host", "h1", "--out", str(host)]) == 1  # nothing is written over
    assert main([*sign, "--host", "a.b", "--out", str(tmp_path / "x")]) == 1
    assert main([*sign, "--out", str(tmp_path / "x")]) == 2
    assert "S" + "UA" not in capsys.readouterr().out
    server = NatsServer(made, Listen("127.0.0.1", port, (Path(cert), Path(key))))
    server.start()
    url, heard = (server.listen.url,), threading.Event()
    control = NatsBus(Address(url, "api", api, Path(ca)), workers=1)
    agent = NatsBus(Address(url, "h1", host, Path(ca)), workers=1)
    try:
        assert control.connected.wait(GUARD_S)
        assert agent.connected.wait(GUARD_S)
        control.subscribe("report.*", lambda s, b: heard.set())
        agent.publish("report.h1", b"x")
        assert heard.wait(GUARD_S)
    finally:
        control.close()
        agent.close()
        server.stop()
