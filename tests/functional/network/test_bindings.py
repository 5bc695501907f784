"""binding-extended as Neutron's clients use it, and what hosts hear of it."""

from pathlib import Path
from typing import Any

import pytest

from kilonova.db.opening import file_url, open_database
from kilonova.db.sqlite import SqliteDatabase
from kilonova.db.versions import ensure
from kilonova.network.embedded.schema import metadata, moved, port_binding, told, underlay
from kilonova.network.embedded.upgrades import UPGRADES
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Change, PortState, StateRequest
from tests.functional.network.conftest import DEMO, Cloud

ADMIN = "admin:admin"


@pytest.fixture
def port(seeded: Cloud) -> str:
    """A server's port on h1, in force there."""
    net = seeded.ok("GET", "/networks?name=private")["networks"][0]["id"]
    made = seeded.network.ensure_port(
        ("op", "0"), project_id=DEMO, device_id="server", host="h1", network_id=net
    )
    seeded.applied("h1")
    seeded.events.clear()
    return made.port_id


def bound(cloud: Cloud, port: str) -> dict[str, str]:
    found = cloud.ok("GET", f"/ports/{port}/bindings", ADMIN)["bindings"]
    return {b["host"]: b["status"] for b in found}


def post(cloud: Cloud, port: str, **fields: Any) -> Any:
    return cloud.call("POST", f"/ports/{port}/bindings", ADMIN, {"binding": fields})


def last(cloud: Cloud, host: str, port: str) -> PortState:
    state: PortState = cloud.bus.documents(host, "port", port)[-1]
    return state


def test_the_extension_is_named(seeded: Cloud) -> None:
    """CC-3.2"""
    named = [e["alias"] for e in seeded.ok("GET", "/extensions")["extensions"]]
    assert "binding-extended" in named


def test_a_binding_is_made_shown_changed_activated_and_deleted(seeded: Cloud, port: str) -> None:
    made = post(seeded, port, host="h2", profile={"migrating_to": "h2"})
    assert made.status_code == 201
    assert made.json["binding"] == {
        "host": "h2",
        "status": "INACTIVE",
        "vif_type": "tap",
        "vif_details": {"port_filter": True, "connectivity": "l2"},
        "vnic_type": "normal",
        "profile": {"migrating_to": "h2"},
    }
    assert bound(seeded, port) == {"h1": "ACTIVE", "h2": "INACTIVE"}
    one = f"/ports/{port}/bindings/h2"
    changed = seeded.ok("PUT", one, ADMIN, {"binding": {"profile": {"a": "b"}}})["binding"]
    assert changed["profile"] == {"a": "b"} and changed["status"] == "INACTIVE"
    assert seeded.ok("GET", one + "?fields=host&fields=status", ADMIN)["binding"] == {
        "host": "h2",
        "status": "INACTIVE",
    }
    listed = seeded.ok("GET", f"/ports/{port}/bindings?status=ACTIVE", ADMIN)["bindings"]
    assert [b["host"] for b in listed] == ["h1"]
    assert not last(seeded, "h2", port).active and last(seeded, "h1", port).active
    seeded.applied("h2")
    assert [(e.name, e.host) for e in seeded.events] == [("network-vif-plugged", "h2")]
    assert seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]["binding:host_id"] == "h1"

    active = seeded.ok("PUT", one + "/activate", ADMIN)["binding"]
    assert active["status"] == "ACTIVE" and active["profile"] == {"a": "b"}
    assert bound(seeded, port) == {"h1": "INACTIVE", "h2": "ACTIVE"}
    shown = seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]
    assert (shown["binding:host_id"], shown["status"]) == ("h2", "DOWN")
    assert last(seeded, "h2", port).active and not last(seeded, "h1", port).active
    seeded.applied("h1")
    assert seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]["status"] == "DOWN"
    seeded.applied("h2")
    assert seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]["status"] == "ACTIVE"
    seeded.ok("DELETE", f"/ports/{port}/bindings/h1", ADMIN)
    assert ("port", port) in seeded.bus.removed("h1") and bound(seeded, port) == {"h2": "ACTIVE"}


def test_refusals_in_neutrons_words(seeded: Cloud, port: str) -> None:
    post(seeded, port, host="h2")
    again = post(seeded, port, host="h2")
    assert again.status_code == 409
    assert again.json["NeutronError"]["type"] == "PortBindingAlreadyExists"
    assert (
        again.json["NeutronError"]["message"]
        == f"Binding for port {port} on host h2 already exists."
    )
    assert post(seeded, port, host="h1").status_code == 409
    dead = post(seeded, port, host="nowhere")
    assert (dead.status_code, dead.json["NeutronError"]["type"]) == (409, "PortBindingError")
    done = seeded.call("PUT", f"/ports/{port}/bindings/h1/activate", ADMIN)
    assert (done.status_code, done.json["NeutronError"]["type"]) == (
        409,
        "PortBindingAlreadyActive",
    )
    for method, path in (
        ("GET", "/bindings/h3"),
        ("DELETE", "/bindings/h3"),
        ("PUT", "/bindings/h3/activate"),
    ):
        got = seeded.call(method, f"/ports/{port}{path}", ADMIN)
        assert got.status_code == 404 and "could not be found" in got.text, (method, path)
    nobody = seeded.call("GET", "/ports/00000000-0000-4000-8000-000000000000/bindings", ADMIN)
    assert (nobody.status_code, nobody.json["NeutronError"]["type"]) == (404, "PortNotFound")
    moved = seeded.call("PUT", f"/ports/{port}/bindings/h2", ADMIN, {"binding": {"host": "h3"}})
    assert moved.status_code == 400
    net = seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]["network_id"]
    plain = seeded.make("port", network_id=net)["id"]
    refused = post(seeded, plain, host="h2")
    assert refused.status_code == 400
    assert "Operation only valid on compute ports" in refused.text
    assert post(seeded, port).status_code == 400 and post(seeded, port, host="").status_code == 400


def test_only_admins_and_services(seeded: Cloud, port: str) -> None:
    for who in ("demo:member", "other:member"):
        for method, path in (
            ("GET", ""),
            ("GET", "/h1"),
            ("DELETE", "/h1"),
            ("PUT", "/h1/activate"),
        ):
            got = seeded.call(method, f"/ports/{port}/bindings{path}", who)
            assert got.status_code == 403, (who, method, path)


def test_a_port_without_its_active_binding_has_no_traffic(seeded: Cloud, port: str) -> None:
    post(seeded, port, host="h2")
    seeded.ok("DELETE", f"/ports/{port}/bindings/h1", ADMIN)
    assert bound(seeded, port) == {"h2": "INACTIVE"} and not last(seeded, "h2", port).active
    assert seeded.ok("GET", f"/ports/{port}", ADMIN)["port"]["binding:vif_type"] == "unbound"
    seeded.ok("PUT", f"/ports/{port}/bindings/h2/activate", ADMIN)
    assert bound(seeded, port) == {"h2": "ACTIVE"} and last(seeded, "h2", port).active


def test_a_host_that_asks_gets_only_its_own_side(seeded: Cloud, port: str) -> None:
    """R6: after a lost message or a restart the full state has the same as the changes."""
    seeded.network.add_bindings("server", "h2")
    for host, active in (("h1", True), ("h2", False)):
        for asked in (None, port):
            body = encode(StateRequest(host=host, port_id=asked))
            change = decode(seeded.bus.request(f"network.state.{host}", body, 1.0), Change)
            found = [d for d in change.documents if isinstance(d, PortState)]
            assert [(d.id, d.active) for d in found] == [(port, active)]
            assert any(type(d).__name__ == "NetworkState" for d in change.documents)


def test_what_a_host_did_not_report_is_sent_again(seeded: Cloud, port: str) -> None:
    """R6"""
    seeded.network.add_bindings("server", "h2")
    before = len(seeded.bus.documents("h2", "port", port))
    seeded.clock.advance(10)
    assert seeded.network.publisher.resend() > 0
    assert len(seeded.bus.documents("h2", "port", port)) == before + 1
    seeded.applied("h2")
    seeded.applied("h1")
    seeded.network.publisher.resend()
    assert len(seeded.bus.documents("h2", "port", port)) == before + 1


def test_a_change_reaches_both_hosts(seeded: Cloud, port: str) -> None:
    seeded.network.add_bindings("server", "h2")
    group = seeded.ok("GET", "/security-groups?name=default")["security_groups"][0]["id"]
    seeded.make(
        "security_group_rule", security_group_id=group, direction="ingress", protocol="icmp"
    )
    for host in ("h1", "h2"):
        assert any(r.protocol == "icmp" for r in last(seeded, host, port).rules), host


def test_an_earlier_file_gets_the_tables(tmp_path: Path) -> None:
    """R18: a file of the first schema version is upgraded, its ports untouched."""
    import sqlalchemy as sa

    first = sa.MetaData()
    for table in metadata.sorted_tables:
        if table not in (port_binding, underlay, told, moved):
            table.to_metadata(first)
    database = open_database(file_url(tmp_path / "n.db"), "network")
    assert isinstance(database, SqliteDatabase)  # on a server tables are made by what is missing
    ensure(database, first)
    database.script(["ALTER TABLE network DROP COLUMN forwarding"])
    ensure(database, metadata, UPGRADES)
    assert database.read(lambda tx: tx.select(sa.text("SELECT forwarding FROM network"))) == []
    names = database.read(
        lambda tx: {r[0] for r in tx.select(sa.text("SELECT name FROM sqlite_master"))}
    )
    assert {"port_binding", "port_binding_host", "underlay", "told", "moved"} <= names
    database.close()
