"""Check the networks of POST /servers against a real Neutron, in Nova's words (source: nova.exception)."""

import ipaddress

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, Forbidden, NotFound
from kilonova.network.interface import AddressTaken, NotThere, Requested
from kilonova.network.openstack_calls import Calls
from kilonova.network.openstack_shapes import Json, key_of
from kilonova.objects.port import NicPlan, RequestedNic

AUTO = "auto"
_INNER = ("router:external", "False")


def plan(ctx: Context, calls: Calls, project_id: str, requested: Requested) -> list[NicPlan]:
    """See NetworkService.plan."""
    if requested == "none":
        return []
    if requested is None or requested == AUTO or not requested:
        return _unasked(calls, project_id, create=requested == AUTO)
    assert not isinstance(requested, str)  # noqa: S101 - narrows the type
    seen: set[str] = set()
    return [
        _port(calls, project_id, r, seen) if r.port_id else _network(ctx, calls, project_id, r)
        for r in requested
    ]


def _unasked(calls: Calls, project_id: str, create: bool) -> list[NicPlan]:
    found = calls.rows("networks", [("project_id", project_id), _INNER])
    found = found or calls.rows("networks", [("shared", "True"), _INNER])
    if len(found) > 1:
        raise Conflict("Multiple possible networks found, use a Network ID to be more specific.")
    if found:
        return [_checked(found[0])]
    if not create:
        return []
    try:
        calls.call("GET", f"/auto-allocated-topology/{project_id}?fields=dry-run")
    except (BadRequest, Conflict, NotFound) as exc:
        raise BadRequest(
            f"Unable to automatically allocate a network for project {project_id}: {exc.message}"
        ) from exc
    return [NicPlan(network_id=AUTO)]


def _checked(net: Json) -> NicPlan:
    if not net["subnets"]:
        raise BadRequest(f"Network {net['id']} requires a subnet in order to boot instances on.")
    return NicPlan(network_id=net["id"], network_name=net["name"])


def _network(ctx: Context, calls: Calls, project_id: str, r: RequestedNic) -> NicPlan:
    net = calls.find("networks", r.network_id or "")
    mine = net is not None and (net["project_id"] == project_id or net["shared"] or ctx.is_admin)
    if net is None or not (mine or net["router:external"]):
        raise NotThere(f"Network {str(r.network_id)[:80]} could not be found.")
    if net["router:external"] and not mine:
        raise Forbidden(f"It is not allowed to create an interface on external network {net['id']}")
    chosen = _checked(net)
    if r.fixed_ip is not None:
        _address(calls, net, r.fixed_ip)
    return chosen.replace(fixed_ip=r.fixed_ip, tag=r.tag)


def _address(calls: Calls, net: Json, text: str) -> None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise BadRequest(f"Invalid fixed IP address ({text[:60]})") from None
    subnets = calls.rows("subnets", [("network_id", net["id"])])
    if not any(ip in ipaddress.ip_network(s["cidr"]) for s in subnets):
        raise BadRequest(f"Fixed IP {ip} is not a valid ip address for network {net['id']}.")
    held = calls.rows("ports", [("network_id", net["id"]), ("fixed_ips", f"ip_address={ip}")])
    if held:
        raise AddressTaken(
            f"Fixed IP address {ip} is already in use on instance {held[0]['device_id'] or 'another device'}."
        )


def _port(calls: Calls, project_id: str, r: RequestedNic, seen: set[str]) -> NicPlan:
    row = calls.find("ports", r.port_id or "")
    if row is None or row["project_id"] != project_id:
        raise NotThere(f"Port id {str(r.port_id)[:80]} could not be found.")
    if row["device_id"] or key_of(row) or row["id"] in seen:
        raise Conflict(f"Port {row['id']} is still in use.")
    seen.add(row["id"])
    if not row["fixed_ips"]:
        raise BadRequest(f"Port {row['id']} requires a FixedIP in order to be used.")
    net = calls.find("networks", row["network_id"]) or {"name": ""}
    return NicPlan(
        network_id=row["network_id"], network_name=net["name"], port_id=row["id"], tag=r.tag
    )
