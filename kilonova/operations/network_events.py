"""External events of the network: a server's cached addresses and groups follow its ports."""

import threading

import msgspec

from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Tx
from kilonova.objects.port import NetworkEvent, NetworkEventName
from kilonova.objects.server import NicRecord
from kilonova.operations import metadata
from kilonova.operations.addresses import addresses_json
from kilonova.operations.rows import nics_json
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)


class NetworkEvents:
    """Collects events (the handler is quick) and refreshes each server once per burst."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wanted: set[str] = set()
        self._wake = threading.Condition()
        self._closed = False
        services.network.on_event(self._on_event)
        self._thread = threading.Thread(target=self._work, name="network-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was not refreshed is, at the next event or audit."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(5)

    def _on_event(self, event: NetworkEvent) -> None:
        if event.name in (NetworkEventName.CHANGED, NetworkEventName.VIF_DELETED):
            with self._wake:
                self._wanted.add(event.server_id)
                self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._wanted and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                batch, self._wanted = self._wanted, set()
            for server_id in batch:
                try:
                    refresh(self._services, server_id)
                except KilonovaError as exc:
                    log.warning(
                        "addresses were not refreshed: %s", exc.message, extra={"server": server_id}
                    )


def refresh(services: Services, server_id: str) -> bool:
    """Write addresses, groups and NICs of a placed server anew if they differ; tell whether they did. Repeatable.

    A NIC whose port somebody deleted goes: the guest's next start must not wait for it.
    """
    mapping = services.world.read(lambda tx: mappings.find(tx, server_id))
    if mapping is None or mapping["cell"] in (None, CELL0):
        return False
    cell = services.cell(mapping["cell"])
    seen = cell.read(lambda tx: servers.find(tx, server_id))
    ports = services.network.ports_of([server_id]).get(server_id, [])
    names = sorted({name for port in ports for _, name in port.security_groups})
    there = {port.port_id for port in ports}
    groups = msgspec.json.encode([{"name": n} for n in names]).decode()
    addresses = addresses_json(ports)

    def put(tx: Tx) -> bool:
        row = servers.find(tx, server_id)
        if row is None or row["deleted"]:
            return False
        had = msgspec.json.decode(row["nics"], type=list[NicRecord])
        # An operation may have made ports since they were read: then its NICs are left alone.
        still = seen is not None and seen["epoch"] == row["epoch"] and row["task_state"] is None
        nics = nics_json([n for n in had if n.port_id in there or not still])
        if (addresses, groups, nics) == (row["addresses"], row["security_groups"], nics_json(had)):
            return False
        return servers.set_columns(
            tx,
            server_id,
            addresses=addresses,
            security_groups=groups,
            nics=nics,
            metadata_generation=row["metadata_generation"] + 1,
            updated_at=services.now(),
        )

    changed = cell.write(put)
    if changed:
        metadata.push(services, server_id)
    return changed
