"""Version documents, extensions, and the read-only lists that clients ask for."""

from typing import Any

import sqlalchemy as sa

from kilonova.db.engine import Row, Tx
from kilonova.db.portable import among
from kilonova.db.sql import Q
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.network.embedded.faults import Missing, missing
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.schema import address, network, subnet
from kilonova.network.embedded.store import fixed, networks, topology
from kilonova.network.embedded.store.common import by, listed

# alias -> (name, description); only what works
EXTENSIONS: dict[str, tuple[str, str]] = {
    "agent": ("agent", "The agent management extension."),
    "allowed-address-pairs": ("Allowed Address Pairs", "Provides allowed address pairs"),
    "auto-allocated-topology": ("Auto Allocated Topology Services", "Auto Allocated Topology Services."),
    "availability_zone": ("Availability Zone", "The availability zone extension."),
    "binding": ("Port Binding", "Expose port bindings of a virtual port to external application"),
    "binding-extended": ("Port Bindings Extended", "Expose port bindings of a virtual port to external application"),
    "dns-integration": ("DNS Integration", "Provides integration with DNS."),
    "empty-string-filtering": ("Empty String Filtering Extension", "Allow filtering by attributes with empty string"),
    "ext-gw-mode": ("Neutron L3 Configurable external gateway mode", "Router abstraction for SNAT on the gateway"),
    "external-net": ("Neutron external network", "Adds external network attribute to network resource."),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "Extra options configuration for DHCP"),
    "extraroute": ("Neutron Extra Route", "Extra routes configuration for L3 router"),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Edit extra routes of a router on server side"),
    "filter-validation": ("Filter parameters validation", "Provides validation on filter parameters."),
    "fip-port-details": ("Floating IP Port Details Extension", "Add port_details attribute to Floating IP resource"),
    "ip-substring-filtering": ("IP address substring filtering", "Provides IP address substring filtering"),
    "net-mtu": ("Network MTU", "Provides MTU attribute for a network resource."),
    "net-mtu-writable": ("Network MTU (writable)", "Provides a writable MTU attribute for a network resource."),
    "network-ip-availability": ("Network IP Availability", "Provides IP availability data for networks and subnets."),
    "network_availability_zone": ("Network Availability Zone", "Availability zone support for network."),
    "pagination": ("Pagination support", "Extension that indicates that pagination is enabled."),
    "port-security": ("Port Security", "Provides port security"),
    "port-security-groups-filtering": ("Port Security Groups Filtering", "Provides security groups filtering of ports"),
    "project-id": ("project_id field enabled", "Extension that indicates that project_id field is enabled."),
    "provider": ("Provider Network", "Expose mapping of virtual networks to physical networks"),
    "quota_details": ("Quota details management support", "Expose functions for quotas usage statistics per project"),
    "quotas": ("Quota management support", "Expose functions for quotas management per tenant"),
    "router": ("Neutron L3 Router", "Router abstraction for basic L3 forwarding between L2 Neutron networks"),
    "router_availability_zone": ("Router Availability Zone", "Availability zone support for router."),
    "security-group": ("security-group", "The security groups extension."),
    "security-groups-normalized-cidr": ("Normalized CIDR field for security group rules", "Adds normalized_cidr"),
    "service-type": ("Neutron Service Type Management", "API for retrieving service providers"),
    "sorting": ("Sorting support", "Extension that indicates that sorting is enabled."),
    "standard-attr-description": ("standard-attr-description", "Add descriptions to standard attributes"),
    "standard-attr-revisions": ("Resource revision numbers", "Display the revision number of resources."),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Enables to set tag on resources"),
    "standard-attr-timestamp": ("Resource timestamps", "This extension can be used for recording timestamps"),
    "subnet-dns-publish-fixed-ip": ("Subnet DNS publish fixed IP", "Adds dns_publish_fixed_ip to subnets"),
    "tag-ports-during-bulk-creation": ("Tag Ports During Bulk Creation", "Allow to tag ports during bulk creation"),
}  # fmt: skip

_ALL_NETWORKS = Q(sa.select(network).order_by(network.c.created_at, network.c.id))
_ALL_SUBNETS = Q(
    sa.select(subnet).where(among(subnet.c.network_id, "ids")).order_by(subnet.c.created_at)
)
_USED = Q(
    sa.select(address.c.subnet_id, sa.func.count().label("used"))
    .where(among(address.c.subnet_id, "ids"))
    .group_by(address.c.subnet_id)
)
COLLECTIONS = ("networks", "subnets", "ports", "routers", "floatingips", "security-groups", "security-group-rules",
               "quotas", "agents", "availability_zones", "extensions", "network-ip-availabilities")  # fmt: skip


class Info:
    """What is not a resource with rows of its own."""

    def __init__(self, service: EmbeddedNetwork, public_url: str) -> None:
        self.network = service
        self.url = public_url.rstrip("/")

    def routes(self) -> list[Route]:
        """Return the rows for the table of routes."""
        base = "/v2.0"
        auto = base + "/auto-allocated-topology/{project}"
        return [
            Route("GET", "/", self.versions, PUBLIC),
            Route("GET", base, self.version, PUBLIC),
            Route("GET", base + "/extensions", self.extensions, "get_extension"),
            Route("GET", base + "/extensions/{alias}", self.extension, "get_extension", errors=(404,)),
            Route("GET", base + "/agents", lambda req: {"agents": []}, "get_agent", summary="List agents"),
            Route("GET", base + "/agents/{id}", self.agent, "get_agent", errors=(404,)),
            Route("GET", base + "/availability_zones", self.zones, "get_availability_zone"),
            Route("GET", base + "/service-providers", lambda req: {"service_providers": []},
                  "get_service_provider", summary="List service providers"),
            Route("GET", base + "/network-ip-availabilities", self.availabilities,
                  "get_network_ip_availability", errors=(403,)),
            Route("GET", base + "/network-ip-availabilities/{id}", self.availability,
                  "get_network_ip_availability", errors=(403, 404)),
            Route("GET", auto, self.auto, "get_auto_allocated_topology", errors=(403, 409)),
            Route("DELETE", auto, self.drop_auto, "delete_auto_allocated_topology", 204, (403, 404, 409)),
        ]  # fmt: skip

    def versions(self, req: Request) -> dict[str, Any]:
        """List API versions."""
        links = [{"rel": "self", "href": f"{self.url}/v2.0/"}]
        return {"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}

    def version(self, req: Request) -> dict[str, Any]:
        """Describe version 2.0."""
        return {
            "resources": [
                {
                    "name": name.rstrip("s").replace("-", "_"),
                    "collection": name.replace("-", "_"),
                    "links": [{"rel": "self", "href": f"{self.url}/v2.0/{name}"}],
                }
                for name in COLLECTIONS
            ]
        }

    def _extension(self, alias: str) -> dict[str, Any]:
        name, text = EXTENSIONS[alias]
        return {
            "alias": alias,
            "name": name,
            "description": text,
            "updated": "2026-01-01T00:00:00-00:00",
            "links": [],
        }

    def extensions(self, req: Request) -> dict[str, Any]:
        """List extensions that work."""
        return {"extensions": [self._extension(a) for a in sorted(EXTENSIONS)]}

    def extension(self, req: Request) -> dict[str, Any]:
        """Show one extension."""
        alias = req.params["alias"]
        if alias not in EXTENSIONS:
            raise Missing("ExtensionNotFound", f"Extension with alias {alias[:60]} does not exist")
        return {"extension": self._extension(alias)}

    def agent(self, req: Request) -> None:
        """There are no agents of the kind that Neutron has."""
        raise missing("agent", req.params["id"])

    def zones(self, req: Request) -> dict[str, Any]:
        """List availability zones."""
        return {
            "availability_zones": [
                {"name": "nova", "resource": kind, "state": "available"}
                for kind in ("network", "router")
            ]
        }

    def _availability(self, tx: Tx, rows: list[Row]) -> list[dict[str, Any]]:
        nets = by(tx.all(_ALL_SUBNETS, ids=listed(r["id"] for r in rows)), "network_id")
        ids = [s["id"] for found in nets.values() for s in found]
        used = {u["subnet_id"]: u["used"] for u in tx.all(_USED, ids=listed(ids))}
        out = []
        for r in rows:
            parts = [
                {
                    "subnet_id": s["id"],
                    "subnet_name": s["name"],
                    "cidr": s["cidr"],
                    "ip_version": s["ip_version"],
                    "total_ips": fixed.pool_size(s),
                    "used_ips": used.get(s["id"], 0),
                }
                for s in nets.get(r["id"], [])
            ]
            out.append(
                {
                    "network_id": r["id"],
                    "network_name": r["name"],
                    "project_id": r["project_id"],
                    "tenant_id": r["project_id"],
                    "total_ips": sum(p["total_ips"] for p in parts),
                    "used_ips": sum(p["used_ips"] for p in parts),
                    "subnet_ip_availability": parts,
                }
            )
        return out

    def availabilities(self, req: Request) -> dict[str, Any]:
        """List how full networks are."""

        def body(tx: Tx) -> list[dict[str, Any]]:
            return self._availability(tx, tx.all(_ALL_NETWORKS))

        found = self.network.database.read(body)
        for name in ("network_id", "network_name", "project_id", "tenant_id"):
            wanted = req.query.all(name)
            found = [f for f in found if not wanted or f[name] in wanted]
        versions = req.query.all("ip_version")
        if versions:
            found = [
                f
                for f in found
                if any(str(p["ip_version"]) in versions for p in f["subnet_ip_availability"])
            ]
        return {"network_ip_availabilities": found}

    def availability(self, req: Request) -> dict[str, Any]:
        """Show how full a network is."""

        def body(tx: Tx) -> dict[str, Any]:
            return self._availability(tx, [networks.get(tx, req.params["id"])])[0]

        return {"network_ip_availability": self.network.database.read(body)}

    def _project(self, req: Request, rule: str) -> str:
        project = req.params["project"]
        if project.lower() in ("none", "null"):
            return req.project()
        req.authorize(rule, {"project_id": project})
        return project

    def auto(self, req: Request) -> dict[str, Any]:
        """Get me a network: make it, or (dry-run) say whether it could be made."""
        project = self._project(req, "get_auto_allocated_topology")
        if "dry-run" in req.query.all("fields"):
            self.network.database.read(
                lambda tx: topology.find(tx, project) or topology.external(tx)
            )
            return {"auto_allocated_topology": {"id": "dry-run=pass", "tenant_id": project}}
        live = list(self.network.hosts())
        made = self.network.write(lambda w: topology.ensure(w, project, live))
        return {
            "auto_allocated_topology": {"id": made, "tenant_id": project, "project_id": project}
        }

    def drop_auto(self, req: Request) -> None:
        """Remove the automatic topology."""
        project = self._project(req, "delete_auto_allocated_topology")
        live = list(self.network.hosts())
        self.network.write(lambda w: topology.delete(w, project, live))
