"""What a host may say and hear on NATS: its own reports and answers, and questions about itself. DESIGN §3, R14."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kilonova.bus import accounts, credentials
from kilonova.bus.credentials import EVERYTHING, BadCredentials, Credentials, Key
from kilonova.bus.interface import NobodyListens
from kilonova.bus.nats import Address, NatsBus
from kilonova.cli.main import main
from kilonova.common.errors import Conflict, Unavailable
from kilonova.server import bus_keys, tls
from kilonova.server.nats_server import Listen, NatsServer, free_port
from tests.client import until
from tests.contracts.test_bus import GUARD_S, Box
from tests.nats import connect, nats_server, new_authority


class Deployment:
    """A server with TLS and credentials; a bus for the control plane, and one per host."""

    def __init__(
        self, server: NatsServer, path: Path, ca: Path, authority: credentials.Authority
    ) -> None:
        self.server, self.path, self.ca, self.authority = server, path, ca, authority
        self._open: list[NatsBus] = []
        self.control = self.bus("control", EVERYTHING)

    def file(self, name: str, permissions: credentials.Permissions) -> Path:
        text = self.authority.credentials(name, permissions, time.time()).reveal()
        path = self.path / f"{name}.creds"
        path.write_text(text)
        return path

    def bus(self, name: str, permissions: credentials.Permissions) -> NatsBus:
        made = connect(self.server, name, credentials=self.file(name, permissions), ca=self.ca)
        self._open.append(made)
        return made

    def host(self, name: str) -> NatsBus:
        return self.bus(name, credentials.of_host(name))

    def close(self) -> None:
        for bus in self._open:
            bus.close()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    path = tmp_path_factory.mktemp("nats")
    cert, key, ca = tls.ensure(path / "tls", ["127.0.0.1"])
    authority = new_authority()
    with nats_server(authority, tls=(Path(cert), Path(key))) as server:
        made = Deployment(server, path, Path(ca), authority)
        try:
            yield made
        finally:
            made.close()


def test_a_host_says_what_is_its_own(deployment: Deployment) -> None:
    box, host = Box(), deployment.host("h1")
    for subject in ("report.*", "answer.*.cell1", "network.report.*", "volume.report.*"):
        deployment.control.subscribe(subject, box)
    deployment.control.subscribe("network.state.*", lambda s, b: s.encode())
    assert host.request("network.state.h1", b"", GUARD_S) == b"network.state.h1"
    for subject in ("report.h1", "answer.h1.cell1", "network.report.h1", "volume.report.h1"):
        host.publish(subject, subject.encode())
    assert {b.decode() for b in box.bodies(4)} == {s for s, _ in box.got}


def test_a_console_proxy_asks_one_thing(deployment: Deployment) -> None:
    """It faces browsers: what it could say if it were taken over is a token that somebody showed it."""
    box = Box()
    for subject in ("agent.h1.query", "agent.h1.order", "console.admit"):
        deployment.control.subscribe(subject, box)
    proxy = deployment.bus("console", credentials.CONSOLE)
    deployment.control.subscribe("console.admit", lambda s, b: b + b" admitted")
    for subject in ("agent.h1.query", "agent.h1.order", "report.h1"):
        proxy.publish(subject, b"a lie")
    heard = Box()
    proxy.subscribe("agent.h1.query", heard)
    assert proxy.request("console.admit", b"token", GUARD_S)
    assert box.bodies(1) == [b"token"]
    assert heard.got == []
    for role in credentials.ROLES:
        with pytest.raises(BadCredentials):
            credentials.of_host(role)


def test_a_host_hears_what_is_for_it_and_answers(deployment: Deployment) -> None:
    box, host = Box(), deployment.host("h2")
    host.subscribe("agent.h2.order", box)
    host.subscribe("agent.h2.query", lambda s, b: b + b" answered")
    host.subscribe("agent.h2.state", box)
    deadline = time.monotonic() + GUARD_S
    while True:
        try:
            assert deployment.control.request("agent.h2.query", b"q", 1) == b"q answered"
            break
        except NobodyListens:
            assert time.monotonic() < deadline
    deployment.control.publish("agent.h2.order", b"order")
    deployment.control.publish("agent.h2.state", b"state")
    assert sorted(box.bodies(2)) == [b"order", b"state"]


@pytest.mark.parametrize(
    "subject",
    [
        "report.h1",
        "answer.h1.cell1",
        "network.report.h1",
        "volume.report.h1",
        "network.state.h1",
        "volume.state.h1",
        "agent.h1.order",
        "agent.h3.order",
        "nudge.cell1",
        "anything",
        "$SYS.REQ.SERVER.PING",
    ],
)
def test_a_host_cannot_say_anothers(deployment: Deployment, subject: str) -> None:
    """h3 publishes in the name of h1, or of the control plane: the server drops it, and h3 goes on with its own."""
    box, host = Box(), deployment.host("h3")
    try:
        deployment.control.subscribe(subject, box)
        deployment.control.subscribe("report.h3", box)
        host.publish(subject, b"a lie")
        host.publish("report.h3", b"the truth")
        assert box.bodies(1) == [b"the truth"]
    finally:
        host.close()


@pytest.mark.parametrize(
    "subject", ["agent.h1.order", "agent.*.order", "report.*", ">", "_INBOX.control.>", "_INBOX.>"]
)
def test_a_host_cannot_hear_anothers(deployment: Deployment, subject: str) -> None:
    box, host = Box(), deployment.host("h4")
    mine = Box()
    try:
        host.subscribe(subject, box)
        host.subscribe("agent.h4.state", mine)
        host.subscribe("agent.h4.query", lambda s, b: b)
        deadline = time.monotonic() + GUARD_S
        while True:  # a question that comes back shows that the server took what came before
            try:
                deployment.control.request("agent.h4.query", b"", 1)
                break
            except NobodyListens:
                assert time.monotonic() < deadline
        deployment.control.publish("agent.h1.order", b"secret")
        deployment.control.publish("report.h1", b"secret")
        deployment.control.publish("agent.h4.state", b"mine")
        assert mine.bodies(1) == [b"mine"]
        assert box.got == []
    finally:
        host.close()


def test_strangers_do_not_get_in(deployment: Deployment, tmp_path: Path) -> None:
    """No credentials, those of another deployment, a wrong authority for TLS: no connection, for ever."""
    other = tmp_path / "other.creds"
    other.write_text(new_authority().credentials("h1", EVERYTHING, time.time()).reveal())
    _, _, foreign = tls.ensure(tmp_path / "tls", ["127.0.0.1"])
    mine = deployment.file("h5", credentials.of_host("h5"))
    url = deployment.server.listen.url
    for address in (
        Address((url,), "x", ca=deployment.ca),
        Address((url,), "x", credentials=other, ca=deployment.ca),
        Address((url,), "x", credentials=mine, ca=Path(foreign)),
        Address((url.replace("tls:", "nats:"),), "x", credentials=mine),
    ):
        bus = NatsBus(address, workers=1)
        try:
            assert not bus.connected.wait(1.0)
        finally:
            bus.close()


def test_credentials_are_taken_back(tmp_path: Path) -> None:
    """One host's: it is refused from the next start on, its neighbour is not, and new ones of its name are good."""
    folder, seed = tmp_path / "bus", tmp_path / "bus" / "account.seed"
    listen = Listen("127.0.0.1", free_port())
    with pytest.raises(Conflict):
        bus_keys.revoke(folder, "thief")
    bus_keys.init(folder, listen)
    for host in ("thief", "neighbour"):
        bus_keys.credentials_of_host(seed, host, tmp_path / f"{host}.creds")
    server = NatsServer(folder, listen)
    server.start()
    try:
        for host in ("thief", "neighbour"):
            connect(server, host, credentials=tmp_path / f"{host}.creds").close()
        assert main(["bus", "revoke", "--directory", str(folder), "--host", "thief"]) == 0
        bus_keys.revoke(folder, "thief")
        bus_keys.init(folder, listen)  # a repeated init forgets nothing
        server.stop()
        server.start()
        connect(server, "neighbour", credentials=tmp_path / "neighbour.creds").close()
        old = Address((listen.url,), "thief", credentials=tmp_path / "thief.creds")
        refused = NatsBus(old, workers=1)
        assert not refused.connected.wait(1.0)
        refused.close()
        later = time.time() + 2
        authority = bus_keys.authority_of(seed)
        again = authority.credentials("thief", credentials.of_host("thief"), later).reveal()
        (tmp_path / "again.creds").write_text(again)
        connect(server, "thief", credentials=tmp_path / "again.creds").close()
    finally:
        server.stop()


def _is_cut_off(bus: NatsBus) -> bool:
    return not bus.connected.is_set()


def test_credentials_are_taken_back_while_the_bus_runs(tmp_path: Path) -> None:
    """The connection made with them ends at once, its neighbour's does not; the server's restart forgets nothing."""
    folder, seed = tmp_path / "bus", tmp_path / "bus" / "account.seed"
    listen = Listen("127.0.0.1", free_port())
    bus_keys.init(folder, listen)
    names = ("thief", "second", "neighbour")
    for host in names:
        bus_keys.credentials_of_host(seed, host, tmp_path / f"{host}.creds")
    server, authority = NatsServer(folder, listen), bus_keys.authority_of(seed)
    server.start()
    open_ = {}
    try:
        open_ = {h: connect(server, h, credentials=tmp_path / f"{h}.creds") for h in names}
        for host in ("thief", "second", "thief"):
            accounts.revoke(Address((listen.url,)), authority, host)
        for host in ("thief", "second"):
            until(partial(_is_cut_off, open_[host]), "it is cut off")
        assert (open_["neighbour"].connected.is_set(), open_["neighbour"].connections) == (True, 1)
        for again in (False, True):
            if again:
                server.stop()
                server.start()
            for host in ("thief", "second"):
                old = Address((listen.url,), host, credentials=tmp_path / f"{host}.creds")
                refused = NatsBus(old, workers=1)
                assert not refused.connected.wait(1.0)
                refused.close()
        later = authority.credentials("thief", credentials.of_host("thief"), time.time() + 2)
        (tmp_path / "again.creds").write_text(later.reveal())
        connect(server, "thief", credentials=tmp_path / "again.creds").close()
        connect(server, "neighbour", credentials=tmp_path / "neighbour.creds").close()
        with pytest.raises(Unavailable):
            accounts.revoke(Address((listen.url,)), new_authority(), "neighbour")
        with (
            contextlib.closing(
                connect(server, "neighbour", credentials=tmp_path / "neighbour.creds")
            ) as one,
            pytest.raises(NobodyListens),
        ):
            one.request("$SYS.REQ.CLAIMS.UPDATE", b"x", 1.0)
    finally:
        for bus in open_.values():
            bus.close()
        server.stop()


def test_a_right_certificate_for_another_name_is_refused(deployment: Deployment) -> None:
    """S40: the name in the URL must be one of the certificate's; 127.1 is the same address, and is not."""
    url = deployment.server.listen.url.replace("127.0.0.1", "127.1")
    mine = deployment.file("h6", credentials.of_host("h6"))
    bus = NatsBus(Address((url,), "h6", credentials=mine, ca=deployment.ca), workers=1)
    try:
        assert not bus.connected.wait(1.0)
    finally:
        bus.close()


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "h\n", "x" * 129])
def test_a_name_that_is_no_word_gets_no_credentials(name: str) -> None:
    with pytest.raises(BadCredentials):
        credentials.of_host(name)


def test_keys_read_back(tmp_path: Path) -> None:
    """A seed gives the same key pair; what is broken is refused by name."""
    for kind in (credentials.ACCOUNT, credentials.USER, credentials.OPERATOR):
        key = Key.make(kind)
        again = Key.of_seed(key.seed.reveal())
        assert (again.public, again.kind) == (key.public, kind)
        assert str(key.seed) == "***"
    assert Key.make(credentials.ACCOUNT).public[0] == "A"
    assert Key.make(credentials.USER).seed.reveal()[:2] == "SU"
    seed = key.seed.reveal()
    broken = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]
    for text in (broken, "", "SU", "not base32!", key.public):
        with pytest.raises(BadCredentials):
            Key.of_seed(text)
    path = tmp_path / "x.creds"
    path.write_text("nothing")
    with pytest.raises(BadCredentials, match=r"x\.creds"):
        Credentials.read(path)
    with pytest.raises(BadCredentials, match="missing"):
        Credentials.read(tmp_path / "missing")
