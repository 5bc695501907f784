"""/routers, their interfaces and extra routes"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.network.embedded.faults import Refused, missing
from kilonova.network.embedded.routes import ports as ports_api
from kilonova.network.embedded.routes import subnets as subnets_api
from kilonova.network.embedded.routes.engine import Engine
from kilonova.network.embedded.routes.resource import (
    FLAG,
    TEXT,
    UUID,
    Act,
    Attr,
    Resource,
    common,
    flag,
    own,
    plain_target,
    standard,
    tags_of,
)
from kilonova.network.embedded.schema import address, port, router, subnet
from kilonova.network.embedded.store import networks, ports, routers
from kilonova.network.embedded.store.common import by, listed
from kilonova.network.embedded.store.fixed import FixedRequest

_FIXED: Json = {
    "type": ["array", "null"],
    "maxItems": 4,
    "items": {
        "type": "object",
        "properties": {"subnet_id": UUID, "ip_address": TEXT},
        "minProperties": 1,
        "additionalProperties": False,
    },
}
_GATEWAY: Json = {
    "type": ["object", "null"],
    "properties": {"network_id": UUID, "enable_snat": FLAG, "external_fixed_ips": _FIXED},
    "required": [],
    "additionalProperties": False,
}
ROUTES: Json = {
    "type": ["array", "null"],
    "maxItems": 30,
    "items": {
        "type": "object",
        "properties": {"destination": TEXT, "nexthop": TEXT},
        "required": ["destination", "nexthop"],
        "additionalProperties": False,
    },
}
_ZONES: Json = {"type": "array", "items": {"enum": ["nova"]}}
ATTRS = (
    *standard(router),
    Attr("admin_state_up", router.c.admin_up, "bool", FLAG, FLAG),
    Attr("external_gateway_info", post=_GATEWAY, put=_GATEWAY),
    Attr("routes", post=None, put=ROUTES),
    Attr("availability_zone_hints", post=_ZONES),
    Attr("distributed", post={"enum": [False, None]}),
    Attr("ha", post={"enum": [False, None]}),
)
_GATEWAYS = Q(sa.select(port.c.id, port.c.network_id).where(among(port.c.id, "ids")))
_HELD = Q(
    sa.select(address.c.port_id, address.c.subnet_id, address.c.ip)
    .where(among(address.c.port_id, "ids"))
    .order_by(address.c.port_id, address.c.place)
)


def render(tx: Tx, rows: Sequence[Row], may: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return bodies."""
    tags = tags_of(tx, rows)
    ids = listed(r["gateway_port"] for r in rows if r["gateway_port"])
    nets = {p["id"]: p["network_id"] for p in tx.all(_GATEWAYS, ids=ids)}
    held = by(tx.all(_HELD, ids=ids), "port_id")
    out = []
    for r in rows:
        gateway = None
        if r["gateway_port"]:
            gateway = {
                "network_id": nets[r["gateway_port"]],
                "enable_snat": bool(r["snat"]),
                "external_fixed_ips": [
                    {"subnet_id": a["subnet_id"], "ip_address": a["ip"]}
                    for a in held.get(r["gateway_port"], [])
                ],
            }
        out.append(
            {
                **common(r, tags),
                "admin_state_up": bool(r["admin_up"]),
                "status": "ACTIVE",
                "external_gateway_info": gateway,
                "routes": json.loads(r["routes"]),
                "distributed": False,
                "ha": False,
                "flavor_id": None,
                "availability_zone_hints": [],
                "availability_zones": ["nova"] if r["host"] else [],
            }
        )
    return out


def _gateway(act: Act, router_id: str, info: dict[str, Any] | None) -> None:
    if not info or "network_id" not in info:
        if info:
            raise Refused(
                "InvalidInput",
                "Invalid input for external_gateway_info. Reason: network_id is missing.",
            )
        routers.clear_gateway(act.work, router_id)
        routers.place(act.work, router_id, act.live)
        return
    net = act.tx.one(networks.FIND, id=info["network_id"])
    mine = act.req.ctx.project_id or ""
    if net is None or not (networks.usable(net, mine) or act.req.may("admin_only", {})):
        raise missing("network", info["network_id"])
    what: dict[str, object] = {"project_id": mine}
    if not flag(info.get("enable_snat", True)):
        act.req.authorize("create_router:external_gateway_info:enable_snat", what)
    fixed = info.get("external_fixed_ips")
    if any(f.get("ip_address") for f in fixed or []):
        act.req.authorize("create_router:external_gateway_info:external_fixed_ips", what)
    routers.set_gateway(
        act.work,
        router_id,
        act.live,
        net["id"],
        [FixedRequest(f.get("subnet_id"), f.get("ip_address")) for f in fixed] if fixed else None,
        flag(info["enable_snat"]) if "enable_snat" in info else None,
    )


def create(act: Act, item: dict[str, Any], project: str) -> str:
    """Make a router, with its gateway if asked."""
    router_id = routers.make(
        act.work,
        routers.NewRouter(
            project_id=project,
            name=item.get("name", ""),
            description=item.get("description", ""),
            admin_up=flag(item.get("admin_state_up", True)),
        ),
    )
    if item.get("external_gateway_info"):
        _gateway(act, router_id, item["external_gateway_info"])
    return router_id


def update(act: Act, row: Row, item: dict[str, Any]) -> None:
    """Change a router."""
    values: dict[str, Any] = {k: item[k] for k in ("name", "description") if k in item}
    if "admin_state_up" in item:
        values["admin_up"] = int(flag(item["admin_state_up"]))
    if "external_gateway_info" in item:
        _gateway(act, row["id"], item["external_gateway_info"])
    if "routes" in item:
        values["routes"] = json.dumps(
            routers.checked_routes(act.tx, row["id"], item["routes"] or [])
        )
    routers.change(act.work, row, values)


def delete(act: Act, row: Row) -> None:
    """Delete a router."""
    routers.delete(act.work, row)


def _by_gateway_network(values: list[str]) -> sa.ColumnElement[bool]:
    return router.c.gateway_port.in_(
        sa.select(port.c.id).where(sa.or_(*[port.c.network_id == v for v in values]))
    )


ROUTERS = Resource(
    name="router",
    plural="routers",
    path="routers",
    table=router,
    attrs=ATTRS,
    seen=own(router),
    target=plain_target,
    render=render,
    create=create,
    update=update,
    delete=delete,
    filters={
        "status": lambda values: sa.true() if "ACTIVE" in values else sa.false(),
        "external_gateway_info": lambda values: _by_gateway_network(
            [v.partition("=")[2] for v in values]
        ),
    },
)
_INTERFACE = Schema(
    {
        "type": "object",
        "properties": {"subnet_id": UUID, "port_id": UUID},
        "minProperties": 1,
        "additionalProperties": False,
    }
)
_EXTRA = Schema(
    {
        "type": "object",
        "properties": {
            "router": {
                "type": "object",
                "properties": {"routes": {**ROUTES, "type": "array"}},
                "required": ["routes"],
                "additionalProperties": False,
            }
        },
        "required": ["router"],
        "additionalProperties": False,
    }
)


class Interfaces:
    """add_router_interface and its kin."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def routes(self) -> list[Route]:
        """Return the rows for the table of routes."""
        one, codes = "/v2.0/routers/{id}/", (400, 401, 403, 404, 409)
        return [
            Route("PUT", one + "add_router_interface", self.add, "add_router_interface", 200, codes, body=_INTERFACE),
            Route("PUT", one + "remove_router_interface", self.remove, "remove_router_interface", 200, codes,
                  body=_INTERFACE),
            Route("PUT", one + "add_extraroutes", self.add_routes, "add_extraroutes", 200, codes, body=_EXTRA),
            Route("PUT", one + "remove_extraroutes", self.drop_routes, "remove_extraroutes", 200, codes, body=_EXTRA),
        ]  # fmt: skip

    def _router(self, act: Act, rule: str) -> Row:
        row = self.engine.find(act.tx, act.req, act.req.params["id"])
        act.req.authorize(rule, plain_target(act.tx, row))
        return row

    def add(self, req: Request) -> dict[str, Any]:
        """Give a router a leg in a subnet, or make a port one."""

        def body(act: Act) -> dict[str, Any]:
            row = self._router(act, "add_router_interface")
            if len(req.body) == 2:
                raise Refused(
                    "BadRequest", "Bad router request: Cannot specify both subnet-id and port-id."
                )
            if "port_id" in req.body:
                leg = _visible(act, port, "port", req.body["port_id"])
                held = routers.add_port(act.work, row, act.live, leg)
                return _answer(row, leg, held)
            wanted = _visible(act, subnet, "subnet", req.body["subnet_id"])
            port_id = routers.add_subnet(act.work, row, act.live, wanted)
            return _answer(row, ports.get(act.tx, port_id), [wanted["id"]])

        out: dict[str, Any] = self.engine.act(req, body)
        return out

    def remove(self, req: Request) -> dict[str, Any]:
        """Take a leg away."""

        def body(act: Act) -> dict[str, Any]:
            row = self._router(act, "remove_router_interface")
            port_id, subnet_id = req.body.get("port_id"), req.body.get("subnet_id")
            gone, held = routers.remove_interface(act.work, row, act.live, port_id, subnet_id)
            return _answer(row, gone, [held])

        out: dict[str, Any] = self.engine.act(req, body)
        return out

    def _set_routes(self, req: Request, rule: str, add: bool) -> dict[str, Any]:
        def body(act: Act) -> dict[str, Any]:
            row = self._router(act, rule)
            old, given = json.loads(row["routes"]), req.body["router"]["routes"]
            new = old + given if add else [r for r in old if r not in given]
            checked = routers.checked_routes(act.tx, row["id"], new)
            routers.change(act.work, row, {"routes": json.dumps(checked)})
            fresh = self.engine.find_any(act.tx, row["id"])
            return {"router": self.engine.rendered(act.tx, req, [fresh])[0]}

        out: dict[str, Any] = self.engine.act(req, body)
        return out

    def add_routes(self, req: Request) -> dict[str, Any]:
        """Add extra routes to those that are there."""
        return self._set_routes(req, "add_extraroutes", True)

    def drop_routes(self, req: Request) -> dict[str, Any]:
        """Remove extra routes; fine when they are not there."""
        return self._set_routes(req, "remove_extraroutes", False)


def _visible(act: Act, table: sa.Table, name: str, row_id: str) -> Row:
    clauses = [table.c.id == row_id]
    if not act.req.may("admin_only", {}):
        seen = {"port": ports_api.seen, "subnet": subnets_api.seen}[name]
        clauses.append(seen(act.req.ctx))
    found = act.tx.select(sa.select(table).where(*clauses))
    if not found:
        raise missing(name, row_id)
    return found[0]


def _answer(row: Row, leg: Row, subnet_ids: list[str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "port_id": leg["id"],
        "network_id": leg["network_id"],
        "subnet_id": subnet_ids[0],
        "subnet_ids": subnet_ids,
        "tags": [],
    }
