"""Version documents: what a client asks first."""

from kilonova.http.policy import PUBLIC
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.identity.embedded.shapes import Json


def _v3(req: Request) -> Json:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{req.base}/v3/"}],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}
        ],
    }


def versions(req: Request) -> Response:
    """List the versions of the identity API."""
    return Response(
        body={"versions": {"values": [_v3(req)]}}, headers={"Location": f"{req.base}/v3/"}
    )


def version(req: Request) -> Json:
    """Describe version 3."""
    return {"version": _v3(req)}


ROUTES = [
    Route("GET", "/", versions, PUBLIC, success=300),
    Route("GET", "/v3", version, PUBLIC),
]
