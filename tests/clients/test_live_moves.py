"""The stock ``openstack`` client moves servers live, looks at that, and steers it."""

from typing import Any

import pytest

from tests.clients.conftest import Client
from tests.clients.test_volumes_in_servers import Shell

pytestmark = pytest.mark.clients
V = "--os-compute-api-version 2.90"


def _where(admin: Client, server: str) -> str:
    return str(admin.json(f"server show {server}")["OS-EXT-SRV-ATTR:host"])


def _moves(admin: Client, server: str) -> list[str]:
    found: list[dict[str, Any]] = admin.json(f"server migration list --server {server} {V}")
    assert {m["Type"] for m in found} == {"live-migration"}
    return [str(m["Status"]) for m in found]


def _running(admin: Client, operator: Shell, server: str) -> int:
    """Wait until a migration is under way; return its number."""

    def look() -> bool:
        found = admin.json(f"server migration list --server {server} {V}")
        return bool(found) and found[0]["Status"] == "running"

    operator.until(look, "the migration runs")
    return int(admin.json(f"server migration list --server {server} {V}")[0]["Id"])


def test_it_moves(demo: Client, admin: Client) -> None:
    shell, operator = Shell(demo), Shell(admin)
    made = str(shell.server("--image tiny-linux", "lively")["id"])
    source = _where(admin, made)
    operator.do(f"server migrate --live-migration --wait {V} {made}")
    there = _where(admin, made)
    assert there != source
    operator.do(f"server migrate --live-migration --host {source} --wait {V} {made}")
    assert _where(admin, made) == source
    assert _moves(admin, made) == ["completed", "completed"]
    said = operator.fails(f"server migrate --live-migration --host {source} {V} {made}")
    assert "to current host" in said
    assert "403" in shell.fails(f"server migrate --live-migration {V} {made}")
    shell.gone("lively")


def test_it_is_steered(admin: Client) -> None:
    """Abort and force complete, of one that never ends by itself."""
    operator = Shell(admin)
    hang = "--property kilonova:fault=live_migrate_hang"
    made = str(operator.server(f"--image tiny-linux {hang}", "slow")["id"])
    source = _where(admin, made)
    operator.do(f"server migrate --live-migration {V} {made}")
    number = _running(admin, operator, made)
    operator.do(f"server migration abort {made} {number} {V}")
    operator.until(lambda: admin.json(f"server show {made}")["status"] == "ACTIVE", "the abort")
    assert _where(admin, made) == source
    operator.do(f"server migrate --live-migration {V} {made}")
    number = _running(admin, operator, made)
    operator.do(f"server migration force complete {made} {number} {V}")
    operator.until(lambda: admin.json(f"server show {made}")["status"] == "ACTIVE", "the end")
    assert _where(admin, made) != source
    assert _moves(admin, made) == ["completed", "cancelled"]
    operator.gone("slow")
