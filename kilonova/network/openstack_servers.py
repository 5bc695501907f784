"""Security groups and addresses of servers on a real Neutron, in Nova's words. ``rows``: the ports of one server."""

import ipaddress
from collections.abc import Iterable, Sequence

from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.network.interface import NoAddressLeft
from kilonova.network.openstack_calls import Calls
from kilonova.network.openstack_shapes import Json, rule_of
from kilonova.objects.port import GroupInfo


def one_group(calls: Calls, project_id: str, given: str) -> tuple[str, str]:
    """Return the project's group of this id, else of this name; NotFound, Conflict for two of one name.

    A project's default group is made by Neutron when the project first lists its groups.
    """
    groups = calls.rows("security-groups", [("project_id", project_id)])
    found = [g for g in groups if given in (g["id"], g["name"])]
    if not found and given == "default":
        groups = calls.rows("security-groups", [("project_id", project_id)], project_id)
        found = [g for g in groups if g["name"] == given and g["project_id"] == project_id]
    found = [g for g in found if g["id"] == given] or found
    if not found:
        raise NotFound(f"Security group {given[:255]} not found.")
    if len(found) > 1:
        raise Conflict(
            f"Multiple security groups found matching '{given[:255]}'. Use an ID to be more specific."
        )
    return found[0]["id"], found[0]["name"]


def resolve(calls: Calls, project_id: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """See NetworkService.resolve_groups."""
    out: list[tuple[str, str]] = []
    for given in dict.fromkeys(names):
        try:
            found = one_group(calls, project_id, given)
        except NotFound as exc:
            raise BadRequest(exc.message) from exc
        if found not in out:
            out.append(found)
    return out


def names_of(calls: Calls, rows: Iterable[Json]) -> dict[str, Json]:
    """Return the groups on ports by id."""
    ids = {g for r in rows for g in r.get("security_groups") or ()}
    return {g["id"]: g for g in calls.among("security-groups", "id", ids)}


def describe(calls: Calls, rows: Sequence[Json]) -> list[GroupInfo]:
    """See NetworkService.describe_groups."""
    named = names_of(calls, rows)
    mine = sorted(named.values(), key=lambda g: (g["name"], g["id"]))
    rules = calls.among(
        "security-group-rules", "security_group_id", named, ("direction", "ingress")
    )
    remote = {r["remote_group_id"] for r in rules if r.get("remote_group_id")} - named.keys()
    named |= {g["id"]: g for g in calls.among("security-groups", "id", remote)}
    return [
        GroupInfo(
            id=g["id"],
            name=g["name"],
            project_id=g["project_id"],
            description=g.get("description") or "",
            rules=tuple(rule_of(r, named) for r in rules if r["security_group_id"] == g["id"]),
        )
        for g in mine
    ]


def set_group(
    calls: Calls, project_id: str, server_id: str, rows: Sequence[Json], given: str, add: bool
) -> None:
    """See NetworkService.set_security_group."""
    group_id, _ = one_group(calls, project_id, given)
    if add and not rows:
        raise NotFound(f"instance_id {server_id} could not be found as device id on any ports")
    fit = [r for r in rows if r.get("port_security_enabled", True) and r["fixed_ips"]]
    if add and not fit:
        raise BadRequest(
            f"Security group {given[:255]} cannot be added to a server without a port that can have groups."
        )
    touched = False
    for r in fit:
        have = list(r["security_groups"])
        if (group_id in have) != add:
            wanted = [*have, group_id] if add else [g for g in have if g != group_id]
            calls.call("PUT", f"/ports/{r['id']}", {"port": {"security_groups": wanted}})
        elif not add:
            continue
        touched = True
    if not add and not touched:
        raise NotFound(f"Security group {given[:255]} not associated with the instance {server_id}")


# -- floating addresses


def _floating(calls: Calls, project_id: str | None, text: str) -> Json:
    for row in calls.rows("floatingips", [("floating_ip_address", text)]):
        if project_id is None or row["project_id"] == project_id:
            return row
    raise NotFound(f"Floating IP not found for address {text[:60]}.")


def associate(
    calls: Calls,
    project_id: str | None,
    server_id: str,
    rows: Sequence[Json],
    text: str,
    fixed_address: str | None,
) -> None:
    """See NetworkService.associate_floating_ip."""
    row = _floating(calls, project_id, text)
    held = [
        (r["id"], f["ip_address"])
        for r in rows
        for f in r["fixed_ips"]
        if ":" not in f["ip_address"]
    ]
    if not held:
        raise BadRequest("No fixed IPs associated to instance")
    chosen = [h for h in held if fixed_address is None or h[1] == fixed_address]
    if not chosen:
        raise BadRequest(f"Specified fixed address {fixed_address} not assigned to instance")
    reason: KilonovaError | None = None
    for port_id, ip in chosen:
        body = {"floatingip": {"port_id": port_id, "fixed_ip_address": ip}}
        try:
            calls.call("PUT", f"/floatingips/{row['id']}", body)
            return
        except (NotFound, BadRequest) as exc:
            reason = exc
    raise BadRequest(
        f"Unable to associate floating IP {text} to fixed IP {chosen[0][1]} for instance {server_id}. "
        f"Error: {reason}"
    )


def disassociate(
    calls: Calls, project_id: str | None, server_id: str, rows: Sequence[Json], text: str
) -> None:
    """See NetworkService.disassociate_floating_ip."""
    row = _floating(calls, project_id, text)
    if row["port_id"] is None or row["port_id"] not in [r["id"] for r in rows]:
        raise Conflict(f"Floating IP {text} is not associated with instance {server_id}.")
    calls.call("PUT", f"/floatingips/{row['id']}", {"floatingip": {"port_id": None}})


# -- fixed addresses


def add_fixed(calls: Calls, server_id: str, rows: Sequence[Json], network_id: str) -> None:
    """See NetworkService.add_fixed_ip."""
    mine = [r for r in rows if r["network_id"] == network_id]
    subnets = calls.rows("subnets", [("network_id", network_id)]) if mine else []
    if not subnets:
        raise NotFound(f"Network could not be found for instance {server_id}.")
    chosen = min(subnets, key=lambda s: int(s["ip_version"]))
    wanted = [*mine[0]["fixed_ips"], {"subnet_id": chosen["id"]}]
    try:
        calls.call("PUT", f"/ports/{mine[0]['id']}", {"port": {"fixed_ips": wanted}})
    except NoAddressLeft as exc:
        raise NoAddressLeft(f"No fixed IP addresses available for network: {network_id}") from exc


def remove_fixed(calls: Calls, server_id: str, rows: Sequence[Json], address: str) -> None:
    """See NetworkService.remove_fixed_ip."""
    wanted = ipaddress.ip_address(address)
    for row in rows:
        held = row["fixed_ips"]
        left = [f for f in held if ipaddress.ip_address(f["ip_address"]) != wanted]
        if len(left) != len(held):
            calls.call("PUT", f"/ports/{row['id']}", {"port": {"fixed_ips": left}})
            return
    raise BadRequest(f"Instance {server_id} doesn't have fixed IP '{address}'.")
