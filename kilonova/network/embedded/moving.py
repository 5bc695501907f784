"""Ports bound to several hosts: one active binding, which traffic goes to, and inactive ones, which only prepare.

A switch is one transaction: afterwards the new host is told to let traffic pass, the old one to stop it, and the port
is DOWN until the new host says that it does.
"""

from collections.abc import Collection, Sequence

from kilonova.db.engine import Row, Tx
from kilonova.network.embedded.store import bindings, bound, ports
from kilonova.network.embedded.store.common import listed
from kilonova.network.embedded.store.work import Work
from kilonova.network.interface import PortBindingFailed
from kilonova.objects.port import PortBinding


def add(work: Work, row: Row, host: str, vnic_type: str = "normal", profile: str = "{}") -> None:
    """Bind a port that is bound to another host to this one besides; profile: JSON."""
    bindings.put(work.tx, row["id"], host, vnic_type, profile, work.now)
    ports.touch(work, row["id"])
    work.moves(row["network_id"], row["mac"], host)


def activate(work: Work, row: Row, kept: Row) -> None:
    """Make an inactive binding the active one; the one that was becomes inactive."""
    bindings.drop(work.tx, row["id"], kept["host"])
    if row["host"]:
        old = row["host"], row["vnic_type"], row["profile"]
        bindings.put(work.tx, row["id"], *old, work.now)
    work.switched.add(row["network_id"])
    values = {"vnic_type": kept["vnic_type"], "profile": kept["profile"], "host": kept["host"]}
    ports.change(work, row, {**values, "status": "DOWN", "applied": 0})


def delete(work: Work, row: Row, host: str) -> bool:
    """Remove an inactive binding, and the port from its host; tell whether there was one."""
    if not bindings.drop(work.tx, row["id"], host):
        return False
    ports.let_go(work, row, host, row["generation"])
    ports.leave_host(work, row, host)
    return True


def let_go(work: Work, row: Row) -> None:
    """Take the active binding off a port; inactive ones stay as they are."""
    ports.change(work, row, {"host": "", "status": "DOWN", "applied": 0})
    ports.let_go(work, row, row["host"], row["generation"] + 1)
    ports.leave_host(work, row, row["host"])


def only_at(work: Work, row: Row, host: str) -> None:
    """Bind a port to one host and to no other."""
    if row["host"] != host:
        ports.bind(work, row, host)
    for kept in bindings.of_port(work.tx, row["id"]):
        delete(work, ports.get(work.tx, row["id"]), kept["host"])


# -- all ports of a server


def _of(tx: Tx, server_id: str) -> list[Row]:
    return tx.all(bound.OF_DEVICES, ids=listed([server_id]))


def add_all(work: Work, server_id: str, host: str, live: Collection[str]) -> None:
    """See NetworkService.add_bindings. live: hosts that are alive, empty when nobody knows."""
    for row in _of(work.tx, server_id):
        if row["host"] == host or bindings.find(work.tx, row["id"], host) is not None:
            continue
        if not host or (live and host not in live):
            raise PortBindingFailed(row["id"], host=host, why="the host is not alive")
        if row["host"]:
            add(work, row, host, row["vnic_type"], row["profile"])
        else:
            ports.bind(work, row, host)


def activate_all(work: Work, server_id: str, host: str) -> None:
    """See NetworkService.activate_bindings."""
    for row in _of(work.tx, server_id):
        if row["host"] == host:
            continue
        kept = bindings.find(work.tx, row["id"], host)
        if kept is None:
            raise PortBindingFailed(row["id"], host=host, why="there is no binding to activate")
        activate(work, row, kept)


def delete_all(work: Work, server_id: str, host: str) -> int:
    """See NetworkService.delete_bindings."""
    return sum(delete(work, row, host) for row in _of(work.tx, server_id))


def of_servers(tx: Tx, server_ids: Sequence[str]) -> dict[str, list[PortBinding]]:
    """See NetworkService.bindings_of."""
    rows = tx.all(bound.OF_DEVICES, ids=listed(server_ids))
    more = bindings.of_ports(tx, [r["id"] for r in rows])
    out: dict[str, list[PortBinding]] = {}
    for r in rows:
        mine = out.setdefault(r["device_id"], [])
        if r["host"]:
            ready = r["applied"] >= r["generation"]
            mine.append(_binding(r["id"], r["device_id"], r["host"], True, ready, 0.0))
        for b in more.get(r["id"], ()):
            ready = b["applied"] >= r["generation"]
            mine.append(_binding(r["id"], r["device_id"], b["host"], False, ready, b["created_at"]))
    return out


def inactive(tx: Tx, before: float) -> list[PortBinding]:
    """Return every inactive binding of servers' ports that is older than a moment."""
    return [
        _binding(
            r["port_id"],
            r["device_id"],
            r["host"],
            False,
            r["applied"] >= r["generation"],
            r["created_at"],
        )
        for r in bindings.of_servers(tx, before)
    ]


def _binding(
    port_id: str, server_id: str, host: str, active: bool, ready: bool, created_at: float
) -> PortBinding:
    return PortBinding(
        port_id=port_id,
        server_id=server_id,
        host=host,
        active=active,
        ready=ready,
        created_at=created_at,
    )
