"""What the rest of Kilonova asks of identity, embedded or a real Keystone."""

from typing import Protocol

import msgspec

from kilonova.common.context import Context
from kilonova.common.secret import Secret


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project as others need it: to name it, and to know whether it may be used."""

    id: str
    name: str
    domain_id: str
    enabled: bool


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user as others need it."""

    id: str
    name: str
    domain_id: str
    enabled: bool


class Identity(Protocol):
    """Who a token belongs to, which projects exist, and our own tokens. Safe to use from any thread."""

    def authenticate(
        self, token: str | None, service_token: str | None, request_id: str
    ) -> Context:
        """Return the caller that ``token`` stands for; roles hold implied ones.

        A service token of a user with the role *service* sets ``is_service``.
        Raises Unauthorized, always in the same words, Unavailable when identity cannot be asked.
        """
        ...

    def project_exists(self, project_id: str) -> bool:
        """Tell whether there is such a project, enabled or not. Raises Unavailable."""
        ...

    def get_project(self, project_id: str) -> Project:
        """Return a project. Raises NotFound, Unavailable."""
        ...

    def get_user(self, user_id: str) -> User:
        """Return a user. Raises NotFound, Unavailable."""
        ...

    def service_token(self) -> Secret:
        """Return a token of our service user on the service project, good for at least 10 more minutes."""
        ...

    def endpoint(self, service_type: str, interface: str = "internal") -> str:
        """Return the URL of a service from the catalog. Raises NotFound."""
        ...
