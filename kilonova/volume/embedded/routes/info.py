"""Version documents, extensions, and small lists that clients ask for."""

from typing import Any

from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.volume.embedded.placing import ZONE
from kilonova.volume.embedded.routes.common import HIGH, LOW, both

UPDATED = "2026-11-27T00:00:00Z"
# alias -> name; only what works
EXTENSIONS = {
    "OS-SCH-HNT": "SchedulerHints",
    "os-admin-actions": "AdminActions",
    "os-availability-zone": "AvailabilityZones",
    "os-extended-services": "ExtendedServices",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
}


class Info:
    """What has no rows."""

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        return [
            Route("GET", "/", self.versions, PUBLIC, 300),
            Route("GET", "/v3", self.version, PUBLIC),
            *both("GET", "/extensions", self.extensions, "get_info"),
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
