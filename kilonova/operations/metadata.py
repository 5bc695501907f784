"""The metadata document of a placed server: read it, push its next generation to the host."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from kilonova.common.errors import NotFound
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Database, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import MetadataPush
from kilonova.objects.server import RequestedServer
from kilonova.operations import guest_orders
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)


def user_data_of(services: Services, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the user data (base64) of those servers that have some; one read per database."""
    homes: dict[str, tuple[Database, list[Mapping[str, Any]]]] = {}
    for row in rows:
        if row["user_data"] is None:
            continue
        placed = row["host"] is not None
        home = services.cell(services.hosts.cell_of(row["host"])) if placed else services.world
        homes.setdefault(home.name, (home, []))[1].append(row)
    out: dict[str, str] = {}
    for home, wanted in homes.values():
        out.update(home.read(partial(_open, services, wanted)))
    return out


def _open(services: Services, rows: Iterable[Mapping[str, Any]], tx: Tx) -> dict[str, str]:
    out = {}
    for row in rows:
        try:
            out[row["uuid"]] = services.vault.get(tx, row["user_data"]).reveal()
        except NotFound:  # its life ended with the server's
            continue
    return out


def hints_of(services: Services, server_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the scheduler hints that servers were created with, in the form in which they were given."""
    ids = list(server_ids)
    found = services.world.read(lambda tx: mappings.requests_of(tx, ids))
    return {k: _hints(decode(v, RequestedServer)) for k, v in found.items()}


def _hints(requested: RequestedServer) -> dict[str, Any]:
    return {k: list(v) if len(v) > 1 else v[0] for k, v in requested.hints.items()}


def push(services: Services, server_id: str) -> None:
    """Send the host the server's document as it stands; lost, it is read again at the next start of the guest."""
    mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
    if mapping is None or mapping["cell"] in (None, CELL0):
        return
    row = services.cell(mapping["cell"]).read(lambda tx: servers.find(tx, server_id))
    if row is None or row["deleted"] or row["host"] is None:
        return
    ports = list(services.network.ports_of([server_id]).get(server_id, []))
    document = guest_orders.metadata_document(services, row, ports)
    body = encode(MetadataPush(host=row["host"], document=document))
    services.bus.publish(f"agent.{row['host']}.state", body)
