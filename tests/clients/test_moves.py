"""The stock ``openstack`` client moves servers: resize, migrate, confirm, revert, and what it lists of that."""

import pytest

from tests.clients.conftest import Client
from tests.clients.test_volumes_in_servers import Shell

pytestmark = pytest.mark.clients
V = "--os-compute-api-version"


@pytest.fixture
def host(admin: Client) -> Shell:
    return Shell(admin)


def _where(admin: Client, server: str) -> str:
    return str(admin.json(f"server show {server}")["OS-EXT-SRV-ATTR:host"])


def test_resize(demo: Client, admin: Client) -> None:
    shell = Shell(demo)
    made = shell.server("--image tiny-linux", "grows")["id"]
    shell.do("server resize --flavor m1.small --wait grows")
    assert demo.json("server show grows")["status"] == "VERIFY_RESIZE"
    shell.do("server resize revert grows")
    shell.until(lambda: demo.json("server show grows")["status"] == "ACTIVE", "the revert")
    shell.do("server resize --flavor m1.small --wait grows")
    shell.do("server resize confirm grows")
    shell.until(lambda: demo.json("server show grows")["status"] == "ACTIVE", "the confirm")
    assert "m1.small" in str(demo.json("server show grows")["flavor"])
    moves = admin.json(f"server migration list --server {made} {V} 2.80")
    assert [m["Status"] for m in moves] == ["confirmed", "reverted"]
    assert {m["Type"] for m in moves} == {"resize"}
    shell.gone("grows")


def test_migrate(demo: Client, admin: Client) -> None:
    shell, operator = Shell(demo), Shell(admin)
    made = str(shell.server("--image tiny-linux", "moves")["id"])
    source = _where(admin, made)
    hosts = {h["Host"] for h in admin.json("compute service list --service nova-compute")}
    assert len(hosts) > 1
    operator.do(f"server migrate --wait {made}")
    there = _where(admin, made)
    assert there != source
    operator.do(f"server migrate revert {made}")
    shell.until(lambda: demo.json("server show moves")["status"] == "ACTIVE", "the revert")
    assert _where(admin, made) == source
    named = sorted(hosts - {source})[0]
    operator.do(f"server migrate --host {named} {V} 2.56 --wait {made}")
    assert _where(admin, made) == named
    operator.do(f"server migrate confirm {made}")
    shell.until(lambda: demo.json("server show moves")["status"] == "ACTIVE", "the confirm")
    moves = admin.json(f"server migration list --server {made} {V} 2.80")
    assert [(m["Type"], m["Status"]) for m in moves] == [
        ("migration", "confirmed"),
        ("migration", "reverted"),
    ]
    assert (moves[0]["Source Compute"], moves[0]["Dest Compute"]) == (source, named)
    said = operator.fails(f"server migrate --host {named} {V} 2.56 {made}")
    assert "Cannot migrate to the host where the server exists." in said
    assert "403" in shell.fails(f"server migrate {made}")
    shell.gone("moves")
