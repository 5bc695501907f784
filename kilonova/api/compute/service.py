"""The compute API as a mounted service: every noun's routes and rules in one list."""

from collections.abc import Mapping

from kilonova.api.compute import rules, versions
from kilonova.api.compute.servers import routes as servers
from kilonova.http import errors as forms
from kilonova.http.app import Service
from kilonova.http.policy import Policy

MOUNT = "/compute"
NOUNS = (servers,)  # each module: ROUTES, RULES


def service(overrides: Mapping[str, str] | None = None) -> Service:
    """Return the compute API. overrides: a policy file's content."""
    routes = [*versions.ROUTES]
    texts = {**rules.BASE, **rules.SERVERS}
    for noun in NOUNS:
        routes += noun.ROUTES
        texts.update(noun.RULES)
    return Service(
        name="compute",
        mount=MOUNT,
        routes=tuple(routes),
        policy=Policy(texts, overrides),
        render=forms.compute,
        microversions=versions.MICROVERSIONS,
        id_header="x-compute-request-id",
    )
