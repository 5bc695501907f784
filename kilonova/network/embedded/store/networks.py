"""Networks: make, change, delete; who may plug into them."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.network.embedded.faults import Clash, missing
from kilonova.network.embedded.schema import floating, network, port, subnet
from kilonova.network.embedded.store import moves, ports, subnets
from kilonova.network.embedded.store.common import changed, find, forget_tags
from kilonova.network.embedded.store.work import Work

TUNNEL_MTU = 1450
FLAT_MTU = 1500
MAX_SEGMENT = 65535  # a segment is a conntrack zone too, and those have 16 bits

FIND = find(network)
_INSERT = insert(network)
_MAX_SEGMENT = Q(sa.select(sa.func.coalesce(sa.func.max(network.c.segment), 0)))
_next = network.alias("next")
_GAP = Q(
    sa.select(sa.func.min(network.c.segment) + 1).where(
        ~sa.exists().where(_next.c.segment == network.c.segment + 1)
    )
)
_DELETE = Q(sa.delete(network).where(network.c.id == P("id")))
_BUSY = Q(
    sa.select(port.c.id)
    .where(port.c.network_id == P("id"), port.c.device_owner != "network:dhcp")
    .limit(1)
)
_OWN_PORTS = Q(sa.select(port.c.id).where(port.c.network_id == P("id")))
_SUBNETS = Q(sa.select(subnet.c.id).where(subnet.c.network_id == P("id")))
_FLOATING = Q(sa.select(floating.c.id).where(floating.c.network_id == P("id")).limit(1))
_BUMP = Q(
    sa.update(network).where(network.c.id == P("id")).values(generation=network.c.generation + 1)
)
_CANDIDATES = Q(
    sa.select(network)
    .where(network.c.project_id == P("project_id"), network.c.external == 0)
    .order_by(network.c.created_at)
)
_SHARED = Q(
    sa.select(network)
    .where(network.c.shared == 1, network.c.external == 0)
    .order_by(network.c.created_at)
)
DEFAULT_EXTERNAL = Q(sa.select(network).where(network.c.external == 1, network.c.is_default == 1))
AUTO = Q(sa.select(network).where(network.c.auto_for == P("project_id")))


@dataclass(kw_only=True)
class NewNetwork:
    """A network to make. mtu: bytes, None for the default of its kind."""

    project_id: str
    name: str = ""
    description: str = ""
    admin_up: bool = True
    shared: bool = False
    external: bool = False
    is_default: bool = False
    mtu: int | None = None
    port_security: bool = True
    physical: str = ""
    dns_domain: str = ""
    auto_for: str | None = None


def get(tx: Tx, network_id: str) -> Row:
    """Return a network's row; NetworkNotFound."""
    row = tx.one(FIND, id=network_id)
    if row is None:
        raise missing("network", network_id)
    return row


def make(work: Work, new: NewNetwork) -> str:
    """Make a network and return its id."""
    tx = work.tx
    if new.is_default:
        _only_default(tx, new.external)
    segment = int(tx.value(_MAX_SEGMENT)) + 1
    if segment > MAX_SEGMENT:
        segment = int(tx.value(_GAP))
        if segment > MAX_SEGMENT:
            raise Clash(
                "NoNetworkAvailable",
                "Unable to create the network. No tenant network is available for allocation.",
            )
    network_id = new_uuid()
    values = dataclasses.asdict(new)
    values["mtu"] = new.mtu or (FLAT_MTU if new.external else TUNNEL_MTU)
    values["physical"] = new.physical or ("public" if new.external else "")
    for flag in ("admin_up", "shared", "external", "is_default", "port_security"):
        values[flag] = int(values[flag])
    tx.put(
        _INSERT,
        **values,
        id=network_id,
        segment=segment,
        created_at=work.now,
        updated_at=work.now,
        revision=1,
        generation=1,
        forwarding=0,
    )
    return network_id


def _only_default(tx: Tx, external: bool) -> None:
    if external and (other := tx.one(DEFAULT_EXTERNAL)) is not None:
        raise Clash(
            "DefaultExternalNetworkExists",
            f"A default external network already exists: {other['id']}.",
        )


def change(work: Work, row: Row, values: dict[str, Any]) -> None:
    """Change columns of a network; hosts learn of it."""
    tx, network_id = work.tx, row["id"]
    if values.get("is_default") and not row["is_default"]:
        _only_default(tx, bool(values.get("external", row["external"])))
    if values.get("external") == 0 and row["external"] and tx.one(_FLOATING, id=network_id):
        raise Clash(
            "ExternalNetworkInUse",
            f"External network {network_id} cannot be updated to be made non-external, "
            "since it has existing gateway ports.",
        )
    if values.get("shared") == 0 and row["shared"]:
        _unshare(tx, row)
    changed(tx, network, network_id, work.now, values)
    touch(work, network_id)


_FOREIGN = Q(
    sa.select(port.c.id)
    .where(
        port.c.network_id == P("id"),
        port.c.project_id != P("project_id"),
        port.c.project_id != "",
    )
    .limit(1)
)


def _unshare(tx: Tx, row: Row) -> None:
    if tx.one(_FOREIGN, id=row["id"], project_id=row["project_id"]) is not None:
        raise Clash(
            "InvalidSharedSetting",
            f"Unable to reconfigure sharing settings for network {row['id']}. Multiple tenants are using it.",
        )


def touch(work: Work, network_id: str) -> None:
    """Note that what hosts know of a network changed."""
    work.tx.put(_BUMP, id=network_id)
    work.networks.add(network_id)


def delete(work: Work, row: Row) -> None:
    """Delete a network with its subnets and DHCP port; NetworkInUse while another port is on it."""
    tx, network_id = work.tx, row["id"]
    if tx.one(_BUSY, id=network_id) is not None:
        raise Clash(
            "NetworkInUse",
            f"Unable to complete operation on network {network_id}. There are one or more ports still in use on the "
            "network.",
        )
    for p in tx.all(_OWN_PORTS, id=network_id):
        ports.delete(work, ports.get(tx, p[0]))
    for s in tx.all(_SUBNETS, id=network_id):
        subnets.drop(work, s[0])
    forget_tags(tx, network_id)
    moves.forget(tx, network_id)
    tx.put(_DELETE, id=network_id)
    work.networks.discard(network_id)
    work.moved = {m for m in work.moved if m[0] != network_id}


def candidates(tx: Tx, project_id: str) -> list[Row]:
    """Return the networks that a project would use unasked: its own, else those shared with everybody."""
    own = tx.all(_CANDIDATES, project_id=project_id)
    return own or tx.all(_SHARED)


def usable(row: Row, project_id: str) -> bool:
    """Tell whether a project may see a network."""
    return row["project_id"] == project_id or bool(row["shared"]) or bool(row["external"])
