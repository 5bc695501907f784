"""The metadata document of a placed server: read it, push its next generation to the host."""

from collections.abc import Mapping
from typing import Any

from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import MetadataPush
from kilonova.objects.server import RequestedServer
from kilonova.operations import guest_orders
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)


def user_data_of(services: Services, row: Mapping[str, Any]) -> str | None:
    """Return a server's user data (base64), or None."""
    ref = row["user_data"]
    if ref is None:
        return None
    home = (
        services.world
        if row["host"] is None
        else services.cell(services.hosts.cell_of(row["host"]))
    )
    return home.read(lambda tx: services.vault.get(tx, ref)).reveal()


def hints_of(services: Services, server_id: str) -> dict[str, Any]:
    """Return the scheduler hints that a server was created with, in the form in which they were given."""
    mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
    if mapping is None:
        return {}
    hints = decode(mapping["requested"], RequestedServer).hints
    return {k: list(v) if len(v) > 1 else v[0] for k, v in hints.items()}


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
