"""External events of the network: a server's cached addresses and groups follow its ports."""

import threading

import msgspec

from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.common.ids import new_uuid
from kilonova.common.log import get_logger
from kilonova.db import mappings, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import encode
from kilonova.objects.guest import GuestDetachNic
from kilonova.objects.order import Direction, Order, pack
from kilonova.objects.port import NetworkEvent, NetworkEventName
from kilonova.objects.server import NicRecord
from kilonova.operations import cleanup, metadata
from kilonova.operations.addresses import addresses_json
from kilonova.operations.rows import nics_json
from kilonova.operations.services import CELL0, Services

log = get_logger(__name__)
AGAIN_S = 1.0  # after a database that did not answer


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
                except Unavailable as exc:
                    log.warning("addresses are refreshed later: %s", exc.message)
                    with self._wake:
                        self._wanted.add(server_id)
                        self._wake.wait_for(lambda: self._closed, AGAIN_S)
                except KilonovaError as exc:
                    log.warning(
                        "addresses were not refreshed: %s", exc.message, extra={"server": server_id}
                    )


def refresh(services: Services, server_id: str) -> bool:
    """Write addresses, groups and NICs of a placed server anew if they differ; tell whether they did. Repeatable.

    A NIC whose port somebody deleted goes, from the guest too: its next start must not wait for a port that is gone.
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
        lost = [n for n in had if n.port_id not in there and still]
        nics = nics_json([n for n in had if n not in lost])
        for nic in lost:
            _take_out(services, tx, row, nic)
        if (addresses, groups, nics) == (row["addresses"], row["security_groups"], nics_json(had)):
            return False
        return servers.set_columns(
            tx,
            server_id,
            addresses=addresses,
            security_groups=groups,
            nics=nics,
            devices=_without(row["devices"], {n.mac for n in lost}),
            metadata_generation=row["metadata_generation"] + 1,
            updated_at=services.now(),
        )

    changed = cell.write(put)
    if changed:
        metadata.push(services, server_id)
    return changed


def _without(devices: str, macs: set[str]) -> str:
    if not macs:
        return devices
    kept = [d for d in msgspec.json.decode(devices) if d.get("mac") not in macs]
    return msgspec.json.encode(kept).decode()


def _take_out(services: Services, tx: Tx, row: Row, nic: NicRecord) -> None:
    """Have the host take a NIC without a port out of the guest; a cleanup record asks again until it did."""
    if row["host"] is None:
        return
    order = Order(
        host=row["host"],
        verb="guest_attach_nic",
        server_id=row["uuid"],
        epoch=row["epoch"],
        operation=new_uuid(),
        step="guest",
        direction=Direction.UNDO,
        fence=1,
        seq=1,
        answer_to="cleanup",
        deadline_s=120.0,
        body=pack(GuestDetachNic(server_id=row["uuid"], port_id=nic.port_id, mac=nic.mac)),
    )
    cleanup.put_record(tx, order.operation, order, services.now())
    body = encode(order)
    tx.after_commit(lambda: services.bus.publish(f"agent.{order.host}.order", body))
