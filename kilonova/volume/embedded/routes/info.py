"""Version documents, extensions, and small lists that clients ask for."""

from typing import Any

from kilonova.http.microversion import V
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.volume.embedded.placing import ZONE
from kilonova.volume.embedded.routes.common import HIGH, LOW, both

UPDATED = "2026-11-27T00:00:00Z"
# alias -> name; only what works
EXTENSIONS = {
    "OS-SCH-HNT": "SchedulerHints",
    "os-hosts": "Hosts",
    "os-admin-actions": "AdminActions",
    "os-availability-zone": "AvailabilityZones",
    "os-extended-services": "ExtendedServices",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
}


FILTERS = {
    "volume": (
        "name",
        "status",
        "metadata",
        "bootable",
        "availability_zone",
        "size",
        "created_at",
        "updated_at",
    ),
    "backup": ("name", "status", "volume_id"),
    "snapshot": ("name", "status", "volume_id", "metadata"),
    "attachment": ("volume_id", "instance_id", "attach_status"),
}


class Info:
    """What has no rows."""

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        return [
            Route("GET", "/", self.versions, PUBLIC, 300),
            Route("GET", "/v3", self.version, PUBLIC),
            *both("GET", "/extensions", self.extensions, "get_info"),
            *both("GET", "/resource_filters", self.filters, "get_info", since=V(3, 33)),
            *both(
                "GET", "/clusters", self.clusters, "volume_extension:services:index", since=V(3, 7)
            ),
            *both("GET", "/qos-specs", self.qos, "volume_extension:qos_specs_manage:get_all"),
            *both("GET", "/groups", self.groups, "group:get_all", since=V(3, 13)),
            *both("GET", "/groups/detail", self.groups, "group:get_all", since=V(3, 13)),
            *both("GET", "/os-availability-zone", self.zones, "volume:availability_zone_list"),
        ]

    def _document(self, req: Request) -> dict[str, Any]:
        return {
            "id": "v3.0",
            "status": "CURRENT",
            "version": str(HIGH),
            "min_version": str(LOW),
            "updated": UPDATED,
            "links": [
                {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
                {"rel": "self", "href": f"{req.base}/v3/"},
            ],
            "media-types": [
                {
                    "base": "application/json",
                    "type": "application/vnd.openstack.volume+json;version=3",
                }
            ],
        }

    def versions(self, req: Request) -> Response:
        """List API versions."""
        return Response({"versions": [self._document(req)]})

    def version(self, req: Request) -> dict[str, Any]:
        """Describe version 3."""
        return {"versions": [self._document(req)]}

    def extensions(self, req: Request) -> dict[str, Any]:
        """List the extensions that work."""
        return {
            "extensions": [
                {"alias": a, "name": n, "description": n, "updated": UPDATED, "links": []}
                for a, n in sorted(EXTENSIONS.items())
            ]
        }

    def zones(self, req: Request) -> dict[str, Any]:
        """List availability zones."""
        return {"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": True}}]}

    def filters(self, req: Request) -> dict[str, Any]:
        """Say by what lists can be filtered."""
        wanted = req.query.get("resource")
        found = [
            {"resource": name, "filters": sorted(filters)}
            for name, filters in FILTERS.items()
            if wanted in (None, name)
        ]
        return {"resource_filters": found}

    def clusters(self, req: Request) -> dict[str, Any]:
        """There are no clusters."""
        return {"clusters": []}

    def qos(self, req: Request) -> dict[str, Any]:
        """There are no QoS specs."""
        return {"qos_specs": []}

    def groups(self, req: Request) -> dict[str, Any]:
        """There are no volume groups."""
        return {"groups": []}
