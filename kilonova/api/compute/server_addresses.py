"""Addresses (ips) and interfaces of a server."""

from typing import Any

import msgspec

from kilonova.api.compute.answers import server_parts as a
from kilonova.api.compute.rules import MEMBER, READER
from kilonova.api.compute.schemas.common import TAG, UUID, Json
from kilonova.api.compute.servers.finding import found, seen
from kilonova.api.compute.shared import NO_QUERY, R, versioned
from kilonova.common.errors import BadRequest, NotFound
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.schema import extend
from kilonova.objects.port import BoundPort, RequestedNic
from kilonova.objects.server import InterfaceParams
from kilonova.operations import interface_attach, interface_detach
from kilonova.operations.services import Services

_IPS, _NICS = R + "ips:", R + "os-attach-interfaces:"


def _addresses(row: Any) -> dict[str, list[dict[str, Any]]]:
    shown: dict[str, list[dict[str, Any]]] = msgspec.json.decode(row["addresses"])
    return {
        label: [{"version": a["version"], "addr": a["addr"]} for a in found]
        for label, found in shown.items()
    }


def ips(req: Request) -> Any:
    """List a server's addresses by network."""
    return {"addresses": _addresses(seen(req, _IPS + "index"))}


def ips_of(req: Request) -> Any:
    """List a server's addresses on one network."""
    label, found = req.params["network"], _addresses(seen(req, _IPS + "show"))
    if label not in found:
        raise NotFound("Instance is not a member of specified network")
    return {label: found[label]}


def _shape(req: Request, p: BoundPort) -> dict[str, Any]:
    out: dict[str, Any] = {
        "net_id": p.network_id,
        "port_id": p.port_id,
        "mac_addr": p.mac,
        "port_state": p.status,
        "fixed_ips": [{"subnet_id": f.subnet_id, "ip_address": f.ip_address} for f in p.fixed_ips],
    }
    if req.version >= V(2, 70):
        out["tag"] = p.tag
    return out


def _ports(req: Request, rule: str) -> list[BoundPort]:
    services: Services = req.cloud
    server_id: str = seen(req, _NICS + rule)["uuid"]
    return list(services.network.ports_of([server_id]).get(server_id, []))


def interfaces(req: Request) -> Any:
    """List a server's interfaces."""
    return {"interfaceAttachments": [_shape(req, p) for p in _ports(req, "list")]}


def interface(req: Request) -> Any:
    """Show one interface."""
    port_id = req.params["port_id"]
    for port in _ports(req, "show"):
        if port.port_id == port_id:
            return {"interfaceAttachment": _shape(req, port)}
    raise NotFound(f"Instance {req.params['server_id']} does not have a port with id {port_id}")


def attach(req: Request) -> Any:
    """Attach an interface: its port is there when this answers; the guest has it as soon as its host is done."""
    services: Services = req.cloud
    server = found(req, _NICS + "create")
    asked = (req.body or {}).get("interfaceAttachment") or {}
    net_id, port_id = asked.get("net_id"), asked.get("port_id")
    addresses = asked.get("fixed_ips")
    if net_id and port_id:
        raise BadRequest("Must not input both network_id and port_id")
    if addresses and not net_id:
        raise BadRequest("Must input network_id when request IP address")
    nic = RequestedNic(
        network_id=net_id,
        port_id=port_id,
        fixed_ip=addresses[0]["ip_address"] if addresses else None,
        tag=asked.get("tag"),
    )
    port = interface_attach.start(services, req.ctx, server, nic)
    return {"interfaceAttachment": _shape(req, port)}


def again(req: Request, params: InterfaceParams) -> Any:
    """Show the interface of a request that was accepted before."""
    services: Services = req.cloud
    for port in services.network.ports_of([params.server_id]).get(params.server_id, []):
        if port.port_id == params.nic.port_id:
            return {"interfaceAttachment": _shape(req, port)}
    raise NotFound(f"The interface {params.nic.port_id} was attached, and is gone again.")


def detach(req: Request) -> None:
    """Detach an interface; accepted when this answers."""
    services: Services = req.cloud
    server = found(req, _NICS + "delete")
    interface_detach.start(services, req.ctx, server, req.params["port_id"])


_IP: Json = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
_A1: Json = {
    "type": "object",
    "properties": {
        "interfaceAttachment": {
            "type": "object",
            "properties": {
                "net_id": UUID,
                "port_id": UUID,
                "fixed_ips": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"ip_address": _IP},
                        "required": ["ip_address"],
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
_A49 = extend(_A1, at=("properties", "interfaceAttachment"), properties={"tag": TAG})
_S, _I = "/servers/{server_id}/ips", "/servers/{server_id}/os-interface"
_E = (400, 403, 404, 409)
ROUTES = [
    *versioned("GET", _S, ips, _IPS + "index", queries=NO_QUERY, answer=a.ADDRESSES),
    *versioned(
        "GET", _S + "/{network}", ips_of, _IPS + "show", queries=NO_QUERY, answer=a.ADDRESSES_OF
    ),
    *versioned("GET", _I, interfaces, _NICS + "list", queries=NO_QUERY, answer=a.INTERFACES),
    *versioned(
        "GET", _I + "/{port_id}", interface, _NICS + "show", queries=NO_QUERY, answer=a.INTERFACE
    ),
    *versioned(
        "POST",
        _I,
        attach,
        _NICS + "create",
        bodies={1: _A1, 49: _A49},
        errors=_E,
        answer=a.INTERFACE,
        idempotent="operation",
        again=again,
    ),
    *versioned("DELETE", _I + "/{port_id}", detach, _NICS + "delete", success=202, errors=_E),
]
RULES = {_IPS + n: READER for n in ("index", "show")} | {
    _NICS + "list": READER,
    _NICS + "show": READER,
    _NICS + "create": MEMBER,
    _NICS + "delete": MEMBER,
}
