"""The Neutron v2.0 API as a service of the process's one port, mounted at /network."""

from typing import Any, Protocol

from kilonova.common.errors import KilonovaError
from kilonova.http import errors as forms
from kilonova.http.routing import Route
from kilonova.http.service import Service
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.routes.bindings import Bindings
from kilonova.network.embedded.routes.engine import Engine
from kilonova.network.embedded.routes.floatingips import FLOATINGIPS
from kilonova.network.embedded.routes.groups import RULES, GroupEngine
from kilonova.network.embedded.routes.info import Info
from kilonova.network.embedded.routes.networks import NETWORKS
from kilonova.network.embedded.routes.ports import PORTS
from kilonova.network.embedded.routes.quotas import Quotas
from kilonova.network.embedded.routes.routers import ROUTERS, Interfaces
from kilonova.network.embedded.routes.subnets import SUBNETS
from kilonova.network.embedded.rules import POLICY
from kilonova.network.embedded.seed import seed


class _HasRoutes(Protocol):
    def routes(self) -> list[Route]: ...


_KINDS = {
    "BadRequest": "HTTPBadRequest",
    "NotFound": "HTTPNotFound",
    "Forbidden": "PolicyNotAuthorized",
    "MethodNotAllowed": "HTTPMethodNotAllowed",
    "TooLarge": "HTTPRequestEntityTooLarge",
    "UnsupportedMedia": "HTTPUnsupportedMediaType",
    "Unavailable": "ServiceUnavailable",
    "KilonovaError": "HTTPInternalServerError",
}


def render(status: int, error: KilonovaError, request_id: str) -> dict[str, Any]:
    """Return Neutron's error form with the type names that its clients know."""
    out = forms.network(status, error, request_id)
    out["NeutronError"]["type"] = _KINDS.get(
        out["NeutronError"]["type"], out["NeutronError"]["type"]
    )
    return out


def service(network: EmbeddedNetwork, public_url: str) -> Service:
    """Return the service. public_url: of this mount ("http://127.0.0.1:8774/network")."""
    routers = Engine(network, ROUTERS)
    parts: list[_HasRoutes] = [
        Info(network, public_url),
        *(Engine(network, r) for r in (NETWORKS, SUBNETS, PORTS, FLOATINGIPS, RULES)),
        Bindings(network),
        routers,
        Interfaces(routers),
        GroupEngine(network),
        Quotas(network),
    ]
    routes = [route for part in parts for route in part.routes()]
    return Service(
        name="network",
        mount="/network",
        routes=routes,
        policy=POLICY,
        render=render,
    )


__all__ = ["EmbeddedNetwork", "seed", "service"]
