"""/ports/{port}/bindings: a port bound to several hosts, of which one has its traffic (binding-extended).

source: neutron, plugins/ml2/plugin.py and neutron_lib.api.definitions.portbindings_extended (statuses and wording).
"""

import json
from collections.abc import Callable
from typing import Any

from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.network.embedded import moving
from kilonova.network.embedded.faults import Clash, Missing, Refused, invalid
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.routes import listing
from kilonova.network.embedded.routes.ports import PROFILE, VNIC
from kilonova.network.embedded.store import bindings, bound, ports
from kilonova.network.embedded.store.work import Work

_HOST: Json = {"type": "string", "minLength": 1, "maxLength": 255}
_PROPERTIES: Json = {"host": _HOST, "vnic_type": VNIC, "profile": PROFILE}
_FILTERS = ("host", "status", "vif_type", "vnic_type")


def _schema(required: list[str]) -> Schema:
    one: Json = {
        "type": "object",
        "properties": _PROPERTIES,
        "required": required,
        "additionalProperties": False,
    }
    return Schema(
        {
            "type": "object",
            "properties": {"binding": one},
            "required": ["binding"],
            "additionalProperties": False,
        }
    )


class Bindings:
    """The bindings of one port."""

    def __init__(self, network: EmbeddedNetwork) -> None:
        self.network = network

    def routes(self) -> list[Route]:
        """Return the rows for the table of routes."""
        every, codes = "/v2.0/ports/{id}/bindings", (400, 401, 403, 404)
        one = every + "/{host}"
        return [
            Route("GET", every, self.list, "get_port_binding", 200, codes),
            Route("POST", every, self.create, "create_port_binding", 201, (*codes, 409), body=_schema(["host"])),
            Route("GET", one, self.show, "get_port_binding", 200, codes),
            Route("PUT", one, self.update, "update_port_binding", 200, codes, body=_schema([])),
            Route("DELETE", one, self.delete, "delete_port_binding", 204, codes),
            Route("PUT", one + "/activate", self.activate, "activate", 200, (*codes, 409)),
        ]  # fmt: skip

    def list(self, req: Request) -> dict[str, Any]:
        """List a port's bindings."""
        unknown = [n for n in req.query.names() if n not in (*_FILTERS, "fields")]
        if unknown:
            raise Refused(
                "HTTPBadRequest", f"{[u[:60] for u in unknown]} is invalid attribute for filtering"
            )
        found = self.network.database.read(lambda tx: _all(tx, _compute_port(tx, req)))
        for name in _FILTERS:
            wanted = req.query.all(name)
            found = [b for b in found if not wanted or b[name] in wanted]
        return {"bindings": listing.only(req, found)}

    def show(self, req: Request) -> dict[str, Any]:
        """Show the binding at one host."""

        def body(tx: Tx) -> dict[str, Any]:
            return _one(tx, _compute_port(tx, req), req.params["host"])

        return {"binding": listing.only(req, [self.network.database.read(body)])[0]}

    def _change(self, fn: Callable[[Work], dict[str, Any]]) -> dict[str, Any]:
        return {"binding": self.network.write(fn)}

    def create(self, req: Request) -> dict[str, Any]:
        """Bind a port to one more host; the first binding is active, others are not."""
        item = req.body["binding"]
        host, kind = item["host"], item.get("vnic_type", "normal")
        profile = json.dumps(item.get("profile") or {})
        live = self.network.hosts()

        def body(work: Work) -> dict[str, Any]:
            row = _compute_port(work.tx, req)
            if row["host"] == host or bindings.find(work.tx, row["id"], host) is not None:
                raise Clash(
                    "PortBindingAlreadyExists",
                    f"Binding for port {row['id']} on host {host} already exists.",
                )
            if live and host not in live:  # 500 in Neutron
                raise Clash(
                    "PortBindingError",
                    f"Binding for port {row['id']} on host {host} could not be created or updated.",
                )
            if row["host"]:
                moving.add(work, row, host, kind, profile)
            else:
                ports.bind(work, row, host, {"vnic_type": kind, "profile": profile})
            return _one(work.tx, ports.get(work.tx, row["id"]), host)

        return self._change(body)

    def update(self, req: Request) -> dict[str, Any]:
        """Change the binding at one host."""
        item, host = req.body["binding"], req.params["host"]
        if item.get("host", host) != host:
            raise invalid("host: a binding cannot be given to another host")

        def body(work: Work) -> dict[str, Any]:
            row = _compute_port(work.tx, req)
            old = _one(work.tx, row, host)
            kind = item.get("vnic_type", old["vnic_type"])
            profile = json.dumps(item.get("profile", old["profile"]) or {})
            if old["status"] == "ACTIVE":
                ports.change(work, row, {"vnic_type": kind, "profile": profile}, published=False)
            else:
                bindings.change(work.tx, row["id"], host, kind, profile)
            return _one(work.tx, ports.get(work.tx, row["id"]), host)

        return self._change(body)

    def activate(self, req: Request) -> dict[str, Any]:
        """Lead the port's traffic to this host; the binding that was active becomes inactive."""
        host = req.params["host"]

        def body(work: Work) -> dict[str, Any]:
            row = _compute_port(work.tx, req)
            if row["host"] == host:
                raise Clash(
                    "PortBindingAlreadyActive",
                    f"Binding for port {row['id']} on host {host} is already active.",
                )
            kept = bindings.find(work.tx, row["id"], host)
            if kept is None:
                raise _missing(row["id"], host)
            moving.activate(work, row, kept)
            return _one(work.tx, ports.get(work.tx, row["id"]), host)

        return self._change(body)

    def delete(self, req: Request) -> None:
        """Remove the binding at one host; without its active one a port has no traffic."""
        host = req.params["host"]

        def body(work: Work) -> None:
            row = _compute_port(work.tx, req)
            if row["host"] == host:
                moving.let_go(work, row)
            elif not moving.delete(work, row, host):
                raise _missing(row["id"], host)

        self.network.write(body)


def _compute_port(tx: Tx, req: Request) -> Row:
    row = ports.get(tx, req.params["id"])
    if not row["device_owner"].startswith("compute:"):
        raise Refused(
            "BadRequest",
            f"Bad port request: Invalid port {row['id']}. Operation only valid on compute ports.",
        )
    return row


def _missing(port_id: str, host: str) -> Missing:
    return Missing(
        "PortBindingNotFound",
        f"Binding for port {port_id} for host {host[:255]} could not be found.",
    )


def _one(tx: Tx, row: Row, host: str) -> dict[str, Any]:
    for found in _all(tx, row):
        if found["host"] == host:
            return found
    raise _missing(row["id"], host)


def _all(tx: Tx, row: Row) -> list[dict[str, Any]]:
    out = [_body(row, "ACTIVE")] if row["host"] else []
    return out + [_body(b, "INACTIVE") for b in bindings.of_port(tx, row["id"])]


def _body(r: Row, status: str) -> dict[str, Any]:
    return {
        "host": r["host"],
        "status": status,
        "vif_type": bound.vif_type(r),
        "vif_details": bound.vif_details(r),
        "vnic_type": r["vnic_type"],
        "profile": json.loads(r["profile"]),
    }
