"""A real Neutron behind the network interface, through openstacksdk (extra ``[openstack]``).

Neutron mints its own ids. A key = (operation, item) is written into a port's ``binding:profile`` in the same request
that makes or binds it, and found there again; tags only help to find it (openstack_shapes.py). The service user needs
what Nova's has: administrator, or ``service``, on ports and their bindings. A port of the user's that is adopted is
bound, and let go, never deleted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, NotFound, QuotaExceeded
from kilonova.network import openstack_planning, openstack_servers
from kilonova.network.interface import (
    AddressTaken,
    Key,
    NetworkService,
    NoAddressLeft,
    NotThere,
    PortBindingFailed,
    Requested,
)
from kilonova.network.openstack_calls import Calls, Connect
from kilonova.network.openstack_shapes import (
    HOST,
    OURS,
    PRESERVE,
    PROFILE,
    VIF,
    Around,
    Json,
    binding_of,
    claim_of,
    is_ours,
    key_of,
    made_at,
    marks,
    path_id,
    port_of,
    subnet_of,
    tags_of,
    without_marks,
)
from kilonova.objects.port import (
    BoundPort,
    GroupInfo,
    NetworkEvent,
    NicPlan,
    PortBinding,
    PortClaim,
)

TAGS_ON_CREATE = ("tag-ports-during-bulk-creation", "tag-creation")


class OpenStackNetwork:
    """A NetworkService on Neutron. Safe from any thread as far as the connections are."""

    def __init__(self, connect: Connect, now: Callable[[], float]) -> None:
        self._calls = Calls(connect)
        self._now = now
        self._handlers: list[Callable[[NetworkEvent], None]] = []

    @property
    def binding_extended(self) -> bool:
        """See NetworkService."""
        return self._calls.has("binding-extended")

    # -- before anything is made

    def plan(self, ctx: Context, project_id: str, requested: Requested) -> list[NicPlan]:
        """See NetworkService."""
        return openstack_planning.plan(ctx, self._calls, project_id, requested)

    def resolve_groups(
        self, ctx: Context, project_id: str, names: Iterable[str]
    ) -> list[tuple[str, str]]:
        """See NetworkService."""
        return openstack_servers.resolve(self._calls, project_id, names)

    def check_quota(self, project_id: str, ports: int) -> None:
        """See NetworkService. Without ``quota_details`` nothing is known before: the making is refused then."""
        if self._calls.has("quota_details"):
            found = self._calls.call("GET", f"/quotas/{path_id(project_id)}/details")
            port = found["quota"]["port"]
            if 0 <= port["limit"] < port["used"] + port["reserved"] + ports:
                raise QuotaExceeded("Maximum number of ports exceeded")

    # -- ports

    def _put(self, port_id: str, values: Json) -> Json:
        row: Json = self._calls.call("PUT", f"/ports/{port_id}", {"port": values})["port"]
        return row

    def _of_servers(self, server_ids: Iterable[str]) -> list[Json]:
        """Return the ports that were made or adopted for servers, oldest first."""
        rows = [r for r in self._calls.among("ports", "device_id", server_ids) if key_of(r)]
        return sorted(rows, key=lambda r: (made_at(r), r["id"]))

    def _of_key(self, key: Key, server_id: str | None = None) -> list[Json]:
        rows = [r for r in self._of_servers([server_id]) if key_of(r) == key] if server_id else []
        if not rows:
            found = self._calls.rows("ports", [("tags", ",".join(tags_of(key)))])
            rows = [r for r in found if key_of(r) == key]
        return rows

    def ensure_port(
        self,
        key: Key,
        *,
        project_id: str,
        device_id: str,
        host: str,
        network_id: str | None = None,
        port_id: str | None = None,
        availability_zone: str = "nova",
        hostname: str = "",
        fixed_ip: str | None = None,
        security_groups: Sequence[str] | None = None,
        mac: str | None = None,
        tag: str | None = None,
    ) -> BoundPort:
        """See NetworkService."""
        bound: Json = {
            "device_id": device_id,
            "device_owner": f"compute:{availability_zone}",
            HOST: host,
        }
        there = self._of_key(key, device_id)
        if there:
            row = there[0]
            if row[HOST] != host or row["device_id"] != device_id:
                row = self._put(row["id"], bound)
        elif port_id is not None:
            row = self._adopt(key, port_id, project_id, {**bound, "dns_name": hostname}, tag)
        else:
            body: Json = {
                **bound,
                "project_id": project_id,
                "network_id": network_id,
                "dns_name": hostname,
                "mac_address": mac,
                "fixed_ips": [{"ip_address": fixed_ip}] if fixed_ip else None,
                "security_groups": None if security_groups is None else list(security_groups),
                PROFILE: marks(key, preserve=False, role=tag),
            }
            row = self._make(key, body)
        if row[VIF] == "binding_failed":
            raise PortBindingFailed(row["id"], host=host)
        return self._bound([row])[0]

    def _adopt(
        self, key: Key, port_id: str, project_id: str, values: Json, role: str | None
    ) -> Json:
        row = self._calls.find("ports", port_id)
        if row is None or row["project_id"] != project_id:
            raise NotThere(f"Port id {port_id[:80]} could not be found.")
        if row["device_id"] not in ("", values["device_id"]) or key_of(row):
            raise Conflict(f"Port {port_id} is still in use.")
        if not row["fixed_ips"]:
            raise BadRequest(f"Port {port_id} requires a FixedIP in order to be used.")
        if "dns_name" not in row or row["dns_name"] or not values["dns_name"]:
            values = {k: v for k, v in values.items() if k != "dns_name"}
        self._tag(port_id, key)
        profile = {**without_marks(row), **marks(key, preserve=True, role=role)}
        return self._put(port_id, {**values, PROFILE: profile})

    def _tag(self, port_id: str, key: Key) -> None:
        for one in tags_of(key):
            self._calls.call("PUT", f"/ports/{port_id}/tags/{one}")

    def _make(self, key: Key, body: Json) -> Json:
        network_id = str(body["network_id"])
        if network_id == openstack_planning.AUTO:
            path = f"/auto-allocated-topology/{path_id(body['project_id'])}"
            network_id = self._calls.call("GET", path)["auto_allocated_topology"]["id"]
        net = self._calls.find("networks", network_id)
        if net is None:
            raise NotThere(f"Network {network_id[:80]} could not be found.")
        if not net.get("port_security_enabled", True):
            body["security_groups"] = []
        if not (body["dns_name"] and self._calls.has("dns-integration")):
            del body["dns_name"]
        given = {k: v for k, v in {**body, "network_id": network_id}.items() if v is not None}
        tagged = any(self._calls.has(alias) for alias in TAGS_ON_CREATE)
        if tagged:
            given["tags"] = tags_of(key)
        try:
            row: Json = self._calls.call("POST", "/ports", {"port": given})["port"]
        except AddressTaken as exc:
            ip = given["fixed_ips"][0]["ip_address"] if "fixed_ips" in given else ""
            raise AddressTaken(f"Fixed IP address {ip} is already in use.") from exc
        except NoAddressLeft as exc:
            raise NoAddressLeft(f"No more available networks: {exc.message}") from exc
        except QuotaExceeded as exc:
            raise QuotaExceeded("Maximum number of ports exceeded") from exc
        except NotFound as exc:
            raise BadRequest(exc.message) from exc
        if not tagged:
            self._tag(row["id"], key)
        return row

    def _bound(self, rows: Sequence[Json]) -> list[BoundPort]:
        """Return ports with all that compute needs, in one question per kind of thing around them."""
        nets = {r["network_id"] for r in rows}
        ids = {f["subnet_id"] for r in rows for f in r["fixed_ips"]}
        dhcp = {
            f["subnet_id"]: f["ip_address"]
            for p in self._calls.among(
                "ports", "network_id", nets, ("device_owner", "network:dhcp")
            )
            for f in p["fixed_ips"]
        }
        lead: dict[tuple[str, str], list[str]] = {}
        for f in self._calls.among("floatingips", "port_id", [r["id"] for r in rows]):
            place = (f["port_id"], f["fixed_ip_address"])
            lead.setdefault(place, []).append(f["floating_ip_address"])
        around = Around(
            networks={n["id"]: n for n in self._calls.among("networks", "id", nets)},
            subnets={
                s["id"]: subnet_of(s, dhcp.get(s["id"]))
                for s in self._calls.among("subnets", "id", ids)
            },
            groups={i: g["name"] for i, g in openstack_servers.names_of(self._calls, rows).items()},
            lead=lead,
        )
        return [port_of(r, around) for r in rows]

    def remove_port(self, key: Key | None = None, port_id: str | None = None) -> int:
        """See NetworkService."""
        if key is not None:
            return self._remove(self._of_key(key))
        row = self._calls.find("ports", port_id or "") if port_id else None
        return self._remove([] if row is None else [row])

    def _remove(self, rows: Sequence[Json]) -> int:
        for row in rows:
            if (row.get(PROFILE) or {}).get(PRESERVE) or key_of(row) is None:
                self._let_go(row)
            else:
                self._quietly("DELETE", f"/ports/{row['id']}")
        return len(rows)

    def _let_go(self, row: Json) -> None:
        self._drop_inactive(row)
        values = {"device_id": "", "device_owner": "", HOST: None, PROFILE: without_marks(row)}
        self._put(row["id"], values)
        kept = [t for t in row.get("tags") or () if not is_ours(t)]
        self._calls.call("PUT", f"/ports/{row['id']}/tags", {"tags": kept})

    def _quietly(self, method: str, path: str) -> bool:
        """Make a request that is fine when the thing is not there; tell whether it was."""
        try:
            self._calls.call(method, path)
        except NotFound:
            return False
        return True

    def remove_ports_of(self, server_id: str) -> int:
        """See NetworkService."""
        return self._remove(self._of_servers([server_id]))

    def ports_of(self, server_ids: Sequence[str]) -> Mapping[str, list[BoundPort]]:
        """See NetworkService."""
        out: dict[str, list[BoundPort]] = {}
        rows = self._of_servers(server_ids)
        for p in self._bound(rows) if rows else ():
            out.setdefault(p.device_id, []).append(p)
        return out

    # -- where ports are bound

    def bind_ports(self, server_id: str, host: str | None) -> None:
        """See NetworkService."""
        for row in self._of_servers([server_id]):
            if (row[HOST] or None) != host:
                if any(b["host"] == host for b in self._bindings(row)):
                    self._calls.call("DELETE", _binding(row, host or ""))
                changed = self._put(row["id"], {HOST: host})
                if changed[VIF] == "binding_failed":
                    raise PortBindingFailed(row["id"], host=host)
            self._drop_inactive(row)

    def _bindings(self, row: Json) -> list[Json]:
        found: list[Json] = self._calls.call("GET", f"/ports/{row['id']}/bindings")["bindings"]
        return found

    def _drop_inactive(self, row: Json, host: str | None = None) -> int:
        """Remove the inactive bindings of a port, or the one at a host; return how many there were."""
        if not self.binding_extended or not row["device_owner"].startswith("compute:"):
            return 0
        n = 0
        for b in self._bindings(row):
            if b["status"] == "INACTIVE" and host in (None, b["host"]):
                n += self._quietly("DELETE", _binding(row, b["host"]))
        return n

    def add_bindings(self, server_id: str, host: str) -> None:
        """See NetworkService."""
        for row in self._of_servers([server_id]):
            if not row[HOST]:
                self._put(row["id"], {HOST: host})
                continue
            if any(b["host"] == host for b in self._bindings(row)):
                continue
            body = {
                "host": host,
                "vnic_type": row["binding:vnic_type"],
                "profile": row.get(PROFILE) or {},
            }
            try:
                answer = self._calls.call(
                    "POST", f"/ports/{row['id']}/bindings", {"binding": body}
                )["binding"]
            except KilonovaError as exc:
                raise PortBindingFailed(row["id"], host=host, why=exc.message) from exc
            if answer["vif_type"] == "binding_failed":
                raise PortBindingFailed(row["id"], host=host)

    def activate_bindings(self, server_id: str, host: str) -> None:
        """See NetworkService. In one step per port: Neutron has none for all of a server's."""
        rows = [r for r in self._of_servers([server_id]) if r[HOST] != host]
        for row in rows:
            if not any(b["host"] == host for b in self._bindings(row)):
                raise PortBindingFailed(row["id"], host=host, why="there is no binding to activate")
        for row in rows:
            try:
                self._calls.call("PUT", _binding(row, host) + "/activate")
            except Conflict:
                continue  # it is active already: somebody was faster
            except NotFound as exc:
                raise PortBindingFailed(row["id"], host=host, why=exc.message) from exc

    def delete_bindings(self, server_id: str, host: str) -> int:
        """See NetworkService."""
        return sum(self._drop_inactive(r, host) for r in self._of_servers([server_id]))

    def bindings_of(self, server_ids: Sequence[str]) -> Mapping[str, list[PortBinding]]:
        """See NetworkService. One question per port: Neutron lists bindings of one port only."""
        out: dict[str, list[PortBinding]] = {}
        for row in self._of_servers(server_ids):
            found = [binding_of(row, b) for b in self._bindings(row)]
            out.setdefault(row["device_id"], []).extend(found)
        return out

    def inactive_bindings(self, older_than_s: float) -> list[PortBinding]:
        """See NetworkService. One question per port that has a host."""
        if not self.binding_extended:
            return []
        before, out = self._now() - older_than_s, []
        for row in self._calls.rows("ports", [("tags", OURS)]):
            if key_of(row) is not None and row["device_owner"].startswith("compute:"):
                found = (binding_of(row, b) for b in self._bindings(row))
                out += [b for b in found if not b.active and b.created_at <= before]
        return out

    # -- groups and addresses of servers

    def security_groups_of(self, server_ids: Sequence[str]) -> Mapping[str, list[tuple[str, str]]]:
        """See NetworkService."""
        rows = self._of_servers(server_ids)
        named = openstack_servers.names_of(self._calls, rows)
        out: dict[str, set[tuple[str, str]]] = {}
        for row in rows:
            for i in row["security_groups"]:
                out.setdefault(row["device_id"], set()).add(
                    (named[i]["name"] if i in named else i, i)
                )
        return {server: [(i, name) for name, i in sorted(found)] for server, found in out.items()}

    def describe_groups(self, server_id: str) -> list[GroupInfo]:
        """See NetworkService."""
        return openstack_servers.describe(self._calls, self._of_servers([server_id]))

    def set_security_group(self, ctx: Context, server_id: str, name_or_id: str, add: bool) -> None:
        """See NetworkService."""
        rows = self._of_servers([server_id])
        openstack_servers.set_group(
            self._calls, ctx.project_id or "", server_id, rows, name_or_id, add
        )

    def associate_floating_ip(
        self, ctx: Context, server_id: str, address: str, fixed_address: str | None = None
    ) -> None:
        """See NetworkService."""
        project, rows = None if ctx.is_admin else ctx.project_id, self._of_servers([server_id])
        openstack_servers.associate(self._calls, project, server_id, rows, address, fixed_address)

    def disassociate_floating_ip(self, ctx: Context, server_id: str, address: str) -> None:
        """See NetworkService."""
        project, rows = None if ctx.is_admin else ctx.project_id, self._of_servers([server_id])
        openstack_servers.disassociate(self._calls, project, server_id, rows, address)

    def add_fixed_ip(self, server_id: str, network_id: str) -> None:
        """See NetworkService."""
        openstack_servers.add_fixed(
            self._calls, server_id, self._of_servers([server_id]), network_id
        )

    def remove_fixed_ip(self, server_id: str, address: str) -> None:
        """See NetworkService."""
        openstack_servers.remove_fixed(
            self._calls, server_id, self._of_servers([server_id]), address
        )

    # -- events, and for reconcilers

    def on_event(self, handler: Callable[[NetworkEvent], None]) -> None:
        """See NetworkService. Neutron tells compute through os-server-external-events: they are given to ``heard``."""
        self._handlers.append(handler)

    def heard(self, event: NetworkEvent) -> None:
        """Take an event that came to the compute API."""
        for handler in self._handlers:
            handler(event)

    def claims(self, older_than_s: float) -> list[PortClaim]:
        """See NetworkService."""
        before = self._now() - older_than_s
        found = (claim_of(r) for r in self._calls.rows("ports", [("tags", OURS)]))
        return sorted(
            (c for c in found if c is not None and c.created_at <= before),
            key=lambda c: c.operation,
        )

    def sweep(self, keys: Iterable[Key]) -> int:
        """See NetworkService."""
        return sum(self.remove_port(key) for key in keys)


def _binding(row: Json, host: str) -> str:
    return f"/ports/{row['id']}/bindings/{path_id(host)}"


def as_service(made: OpenStackNetwork) -> NetworkService:
    """Return it as what compute knows: the type checker holds it to the whole interface."""
    return made
