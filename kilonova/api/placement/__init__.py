"""The Placement HTTP API, 1.0 to 1.39, mounted at /placement.

source: OpenStack Placement, "REST API Version History".
"""

from collections.abc import Mapping

from kilonova.api.placement import (
    aggregates,
    allocation_candidates,
    allocations,
    inventories,
    reshaper,
    resource_classes,
    resource_providers,
    traits,
    usages,
)
from kilonova.api.placement import common as _common
from kilonova.http import errors as forms
from kilonova.http.microversion import V
from kilonova.http.policy import PUBLIC, Policy
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.service import Microversions, Service

LOW, HIGH = V(1, 0), V(1, 39)


def root(req: Request) -> Response:
    """Say which versions there are."""
    document = {
        "id": f"v{LOW}",
        "max_version": str(HIGH),
        "min_version": str(LOW),
        "status": "CURRENT",
        "links": [{"rel": "self", "href": ""}],
    }
    return _common.answer(req, {"versions": [document]})


ROUTES: tuple[Route, ...] = (
    Route("GET", "/", root, PUBLIC, since=LOW),
    *resource_providers.ROUTES,
    *inventories.ROUTES,
    *aggregates.ROUTES,
    *traits.ROUTES,
    *usages.ROUTES,
    *allocations.ROUTES,
    *resource_classes.ROUTES,
    *allocation_candidates.ROUTES,
    *reshaper.ROUTES,
)

_ADMIN = "role:admin or role:service"
RULES: dict[str, str] = {
    **{r.policy: _ADMIN for r in ROUTES if r.policy != PUBLIC},
    "placement:usages": f"{_ADMIN} or (role:reader and project_id:%(project_id)s)",
}


def service(overrides: Mapping[str, str] | None = None) -> Service:
    """Return the service to mount. overrides: rules of a policy file, by Placement's names."""
    return Service(
        name="placement",
        mount="/placement",
        routes=ROUTES,
        policy=Policy(RULES, overrides),
        render=forms.placement,
        microversions=Microversions("placement", LOW, HIGH, LOW),
    )
