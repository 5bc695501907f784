"""Who asks: one frozen value that travels with a request and rests in journals."""

from typing import Self

import msgspec

from kilonova.common.ids import new_request_id


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The caller as far as policy and audit need it; never holds a token.

    roles holds implied roles too (admin implies manager, manager member, member reader).
    system_scope is "all" for a system-scoped token. is_service marks our own service user. operation: the id that an
    operation accepted for this request must have, when the request may come again (Idempotency-Key); never at rest.
    """

    request_id: str
    user_id: str | None = None
    user_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    domain_id: str | None = None
    user_domain_id: str | None = None
    project_domain_id: str | None = None
    roles: tuple[str, ...] = ()
    system_scope: str | None = None
    is_service: bool = False
    operation: str | None = None

    @property
    def is_admin(self) -> bool:
        """True where Nova's default ``context_is_admin`` holds: role admin in any scope."""
        return "admin" in self.roles

    def replace(self, **changes: object) -> Self:
        """Return a changed copy; a context is never changed in place."""
        return msgspec.structs.replace(self, **changes)


def service_context(project_id: str | None = None, request_id: str | None = None) -> Context:
    """Return the context of our own work (reconcilers, sagas calling neighbours)."""
    return Context(
        request_id=request_id or new_request_id(),
        user_id="kilonova",
        user_name="kilonova",
        project_id=project_id,
        roles=("admin", "manager", "member", "reader", "service"),
        is_service=True,
    )
