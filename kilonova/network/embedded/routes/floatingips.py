"""/floatingips"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.network.embedded.faults import Refused, missing
from kilonova.network.embedded.routes import ports as ports_api
from kilonova.network.embedded.routes.resource import (
    DNS,
    MAYBE_TEXT,
    MAYBE_UUID,
    UUID,
    Act,
    Attr,
    Resource,
    common,
    own,
    plain_target,
    standard,
    tags_of,
)
from kilonova.network.embedded.schema import floating, port
from kilonova.network.embedded.store import floating as store
from kilonova.network.embedded.store import networks
from kilonova.network.embedded.store.common import changed, listed

ATTRS = (
    *standard(floating, named=False),
    Attr("floating_network_id", floating.c.network_id, post=UUID),
    Attr("floating_ip_address", floating.c.ip, post=MAYBE_TEXT),
    Attr("subnet_id", post=MAYBE_UUID),
    Attr("port_id", floating.c.port_id, post=MAYBE_UUID, put=MAYBE_UUID),
    Attr("fixed_ip_address", floating.c.fixed_ip, post=MAYBE_TEXT, put=MAYBE_TEXT),
    Attr("router_id", floating.c.router_id),
    Attr("status", floating.c.status),
    Attr("dns_name", floating.c.dns_name, post=DNS),
    Attr("dns_domain", floating.c.dns_domain, post=DNS),
)
_PORTS = Q(sa.select(port).where(among(port.c.id, "ids")))


def render(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies."""
    tags = tags_of(tx, rows)
    found = {
        p["id"]: p for p in tx.all(_PORTS, ids=listed(r["port_id"] for r in rows if r["port_id"]))
    }
    out = []
    for r in rows:
        body = common(r, tags)
        del body["name"]
        out.append(
            body
            | {
                "floating_network_id": r["network_id"],
                "floating_ip_address": r["ip"],
                "fixed_ip_address": r["fixed_ip"],
                "port_id": r["port_id"],
                "router_id": r["router_id"],
                "status": r["status"],
                "dns_name": r["dns_name"],
                "dns_domain": r["dns_domain"],
                "port_details": _details(found.get(r["port_id"])),
            }
        )
    return out


def _details(p: Row | None) -> dict[str, Any] | None:
    if p is None:
        return None
    return {
        "name": p["name"],
        "network_id": p["network_id"],
        "mac_address": p["mac"],
        "admin_state_up": bool(p["admin_up"]),
        "status": p["status"],
        "device_id": p["device_id"],
        "device_owner": p["device_owner"],
    }


def _port(act: Act, row: Row, port_id: str) -> Row:
    clauses = [port.c.id == port_id]
    if not act.req.may("admin_only", {}):
        clauses.append(ports_api.seen(act.req.ctx))
    found = act.tx.select(sa.select(port).where(*clauses))
    if not found:
        raise missing("port", port_id)
    if found[0]["project_id"] != row["project_id"] and not act.req.may("admin_only", {}):
        raise Refused(
            "BadRequest",
            f"Bad floatingip request: Port {port_id} is associated with a different tenant than Floating IP "
            f"{row['id']} and therefore cannot be bound.",
        )
    return found[0]


def create(act: Act, item: dict[str, Any], project: str) -> str:
    """Take a floating address, and lead it to a port if asked."""
    net = act.tx.one(networks.FIND, id=item["floating_network_id"])
    mine = act.req.ctx.project_id or ""
    if net is None or not (networks.usable(net, mine) or act.req.may("admin_only", {})):
        raise missing("network", item["floating_network_id"])
    if item.get("floating_ip_address"):
        act.req.authorize("create_floatingip:floating_ip_address", {"project_id": project})
    if item.get("fixed_ip_address") and not item.get("port_id"):
        raise _needs_port()
    made = store.make(
        act.work,
        store.NewFloating(
            project_id=project,
            network_id=net["id"],
            description=item.get("description", ""),
            ip=item.get("floating_ip_address"),
            subnet_id=item.get("subnet_id"),
            dns_name=item.get("dns_name", ""),
            dns_domain=item.get("dns_domain", ""),
        ),
    )
    if item.get("port_id"):
        row = store.get(act.tx, made)
        store.associate(
            act.work, row, _port(act, row, item["port_id"]), item.get("fixed_ip_address")
        )
    return made


def _needs_port() -> Refused:
    return Refused(
        "BadRequest",
        "Bad floatingip request: fixed_ip_address cannot be specified without a port_id.",
    )


def update(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change the description; lead the address elsewhere, or (without a port) nowhere."""
    if "description" in item:
        changed(act.tx, floating, row["id"], act.work.now, {"description": item["description"]})
    port_id = item.get("port_id", row["port_id"] if "fixed_ip_address" in item else None)
    if port_id is not None:
        target = _port(act, row, port_id)
        store.associate(act.work, row, target, item.get("fixed_ip_address"))
    elif item.get("fixed_ip_address"):
        raise _needs_port()
    elif "port_id" in item:
        store.disassociate(act.work, row)


def delete(act: Act, row: Row) -> None:
    """Give a floating address back."""
    store.delete(act.work, row)


FLOATINGIPS = Resource(
    name="floatingip",
    plural="floatingips",
    path="floatingips",
    table=floating,
    attrs=ATTRS,
    seen=own(floating),
    target=plain_target,
    render=render,
    create=create,
    update=update,
    delete=delete,
    filters={},
)
