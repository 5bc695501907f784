"""Ports for servers, by key: find, else adopt or make; bind to a host; remove all that is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, QuotaExceeded
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q
from kilonova.network.embedded import moving, planning
from kilonova.network.embedded.faults import Clash, Missing
from kilonova.network.embedded.schema import port
from kilonova.network.embedded.store import addresses, bound, networks, ports, quotas, topology
from kilonova.network.embedded.store.common import listed
from kilonova.network.embedded.store.fixed import FixedRequest
from kilonova.network.embedded.store.work import Work
from kilonova.network.interface import AddressTaken, Key, NoAddressLeft, NotThere
from kilonova.objects.port import BoundPort, NetworkEventName, PortClaim

_CLAIMS = Q(
    sa.select(port)
    .where(port.c.operation > "", port.c.created_at < P("before"))
    .order_by(port.c.operation)
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The arguments of NetworkService.ensure_port."""

    key: Key
    project_id: str
    device_id: str
    host: str
    network_id: str | None
    port_id: str | None
    owner: str
    hostname: str
    fixed_ip: str | None
    security_groups: list[str] | None
    mac: str | None
    tag: str | None


def ensure(
    work: Work, w: Wanted, defaults: Mapping[str, int], live: Sequence[str] = ()
) -> BoundPort:
    """Return the port of a key, made or adopted if need be, bound to the wanted host."""
    row = work.tx.one(ports.BY_KEY, operation=w.key[0], item=w.key[1])
    if row is not None:
        if row["host"] != w.host or row["device_id"] != w.device_id:
            ports.bind(work, row, w.host, {"device_id": w.device_id, "device_owner": w.owner})
        port_id = str(row["id"])
    elif w.port_id is not None:
        port_id = _adopt(work, w, w.port_id)
    else:
        return _make(work, w, defaults, live)
    return bound.of_rows(work.tx, [ports.get(work.tx, port_id)])[0]


def _adopt(work: Work, w: Wanted, port_id: str) -> str:
    row = work.tx.one(ports.FIND, id=port_id)
    if row is None or row["project_id"] != w.project_id:
        raise NotThere(f"Port id {port_id[:80]} could not be found.")
    if row["device_id"] not in ("", w.device_id) or row["operation"]:
        raise Conflict(f"Port {port_id} is still in use.")
    if not addresses.of_port(work.tx, port_id):
        raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.")
    values = {
        "device_id": w.device_id,
        "device_owner": w.owner,
        "operation": w.key[0],
        "item": w.key[1],
        "preserve": 1,
        "tag": w.tag,
    }
    if w.hostname and not row["dns_name"]:
        values["dns_name"] = w.hostname
    ports.bind(work, row, w.host, values)
    return port_id


def _make(work: Work, w: Wanted, defaults: Mapping[str, int], live: Sequence[str]) -> BoundPort:
    network_id = w.network_id or ""
    if network_id == planning.AUTO:
        network_id = topology.ensure(work, w.project_id, live)
    net = work.tx.one(networks.FIND, id=network_id)
    if net is None:
        raise NotThere(f"Network {network_id[:80]} could not be found.")
    try:
        quotas.check(work.tx, w.project_id, "port", 1, defaults)
    except Clash as exc:
        raise QuotaExceeded("Maximum number of ports exceeded") from exc
    new = ports.NewPort(
        project_id=w.project_id,
        network_id=network_id,
        device_id=w.device_id,
        device_owner=w.owner,
        operation=w.key[0],
        item=w.key[1],
        host=w.host,
        mac=w.mac,
        dns_name=w.hostname,
        tag=w.tag,
        fixed=[FixedRequest(ip=w.fixed_ip)] if w.fixed_ip else None,
        groups=_groups(w, net),
    )
    try:
        return bound.of_made(ports.put(work, new, net), net)
    except Clash as exc:
        if exc.kind == "IpAddressAlreadyAllocated":
            raise AddressTaken(f"Fixed IP address {w.fixed_ip} is already in use.") from exc
        if exc.kind == "IpAddressGenerationFailure":
            raise NoAddressLeft(f"No more available networks: {exc.message}") from exc
        raise
    except Missing as exc:
        raise BadRequest(exc.message) from exc


def _groups(w: Wanted, net: Row) -> list[str] | None:
    return w.security_groups if net["port_security"] else []


def remove(work: Work, key: Key | None, port_id: str | None) -> int:
    """Delete what compute made and unbind what the user made; return how many ports were found."""
    if key is not None:
        rows = work.tx.all(ports.BY_KEY, operation=key[0], item=key[1])
    else:
        row = work.tx.one(ports.FIND, id=port_id or "")
        rows = [] if row is None else [row]
    return _remove_rows(work, rows)


def bind_all(work: Work, device_id: str, host: str | None) -> None:
    """Bind every port that was made or adopted for a server to a host, or to none."""
    for row in work.tx.all(bound.OF_DEVICES, ids=listed([device_id])):
        if host is None and row["host"]:
            ports.off_host(work, row, {})
        elif host is not None:
            moving.only_at(work, row, host)


def remove_of(work: Work, device_id: str) -> int:
    """``remove`` every port that was made or adopted for a server."""
    return _remove_rows(work, work.tx.all(bound.OF_DEVICES, ids=listed([device_id])))


def _remove_rows(work: Work, rows: Sequence[Row]) -> int:
    for row in rows:
        if row["preserve"] or not row["operation"]:
            device = row["device_id"]
            ports.unbind(work, row)
            if device:
                work.event(NetworkEventName.VIF_UNPLUGGED, device, row["id"])
        else:
            ports.delete(work, row, by_compute=True)
    return len(rows)


def claims(tx: Tx, before: float) -> list[PortClaim]:
    """Return every port with a key that is older than a moment."""
    return [
        PortClaim(
            operation=r["operation"],
            item=r["item"],
            port_id=r["id"],
            device_id=r["device_id"],
            created_at=r["created_at"],
        )
        for r in tx.all(_CLAIMS, before=before)
    ]
