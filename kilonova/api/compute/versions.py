"""The compute API's range of microversions and its version documents."""

from typing import Any

from kilonova.api.compute.answers import others as a
from kilonova.http.microversion import V
from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.service import Microversions

LOW, HIGH = V(2, 1), V(2, 104)
MICROVERSIONS = Microversions(
    kind="compute",
    low=LOW,
    high=HIGH,
    default=LOW,
    legacy_header="X-OpenStack-Nova-API-Version",
)


def _document(req: Request, *, media: bool) -> dict[str, Any]:
    links = [{"rel": "self", "href": req.url("v2.1") + "/"}]
    out: dict[str, Any] = {
        "id": "v2.1",
        "status": "CURRENT",
        "version": str(HIGH),
        "min_version": str(LOW),
        "updated": "2013-07-23T11:33:21Z",
        "links": links,
    }
    if media:
        links.append(
            {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}
        )
        out["media-types"] = [
            {
                "base": "application/json",
                "type": "application/vnd.openstack.compute+json;version=2.1",
            }
        ]
    return out


def versions(req: Request) -> Any:
    """List the API versions."""
    return {"versions": [_document(req, media=False)]}


def version(req: Request) -> Any:
    """Describe version 2.1 and its microversions."""
    return {"version": _document(req, media=True)}


ROUTES = (
    Route("GET", "/", versions, PUBLIC, answer=a.VERSIONS),
    Route("GET", "/v2.1", version, PUBLIC, answer=a.VERSION),
)
