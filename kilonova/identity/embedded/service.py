"""Embedded identity as a mounted API: ``Application([service(identity), ...], ..., identity.authenticate, url)``."""

from collections.abc import Mapping

from kilonova.http import errors as forms
from kilonova.http.policy import Policy
from kilonova.http.routing import Route
from kilonova.http.service import Service
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.routes import versions
from kilonova.identity.embedded.routes.auth import Auth
from kilonova.identity.embedded.routes.catalog import Endpoints, Regions, Services
from kilonova.identity.embedded.routes.credentials import ApplicationCredentials
from kilonova.identity.embedded.routes.domains import Domains
from kilonova.identity.embedded.routes.grants import Assignments, Grants
from kilonova.identity.embedded.routes.groups import Groups
from kilonova.identity.embedded.routes.projects import Projects
from kilonova.identity.embedded.routes.roles import Roles
from kilonova.identity.embedded.routes.users import Users
from kilonova.identity.embedded.rules import RULES

MOUNT = "/identity"


def routes(identity: EmbeddedIdentity) -> list[Route]:
    """Return every route of the identity API."""
    nouns = (
        Auth(identity),
        Domains(identity),
        Projects(identity),
        Users(identity),
        ApplicationCredentials(identity),
        Groups(identity),
        Roles(identity),
        Grants(identity),
        Assignments(identity),
        Regions(identity),
        Services(identity),
        Endpoints(identity),
    )
    return [*versions.ROUTES, *(r for n in nouns for r in n.routes())]


def service(
    identity: EmbeddedIdentity,
    public_url: str | None = None,
    policy_overrides: Mapping[str, str] | None = None,
) -> Service:
    """Return the service to mount. public_url is that of the Application; links come from there.

    policy_overrides: a policy file's content.
    """
    return Service(
        name="identity",
        mount=MOUNT,
        routes=routes(identity),
        policy=Policy(RULES, policy_overrides),
        render=forms.identity,
        extra_headers={"Vary": "X-Auth-Token"},
    )
