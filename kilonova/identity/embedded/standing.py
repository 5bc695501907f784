"""What a token stands for at this moment: looked up from the ids in it, in one read transaction."""

from dataclasses import dataclass

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import Unauthorized
from kilonova.db.engine import Row, Tx
from kilonova.identity.embedded import store
from kilonova.identity.embedded.records import credentials, domains, projects, users
from kilonova.identity.embedded.tokens import REQUIRES_AUTH, Payload

SERVICE_USER = "kilonova"  # id and name


@dataclass(frozen=True, slots=True)
class Named:
    """An id with its name."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A valid token, looked up. number: the count of writes at which this was true."""

    payload: Payload
    number: int
    context: Context
    user: Named
    user_domain: Named
    scope: Named | None  # the project or domain
    scope_domain: Named | None  # a project's domain
    roles: dict[str, str]  # id -> name
    credential: Named | None
    restricted: bool


def evaluate(tx: Tx, payload: Payload, now: float) -> Standing:
    """Return what ``payload`` stands for. Raises Unauthorized when anything that it rests on is gone or disabled."""
    if payload.expires_at <= now or store.is_revoked(tx, payload.audit_ids[0]):
        raise Unauthorized(REQUIRES_AUTH)
    user = _alive(users.find(tx, payload.user_id), payload.user_generation)
    user_domain = _alive(domains.find(tx, user["domain_id"]))
    scope: Row | None = None
    scope_domain: Row | None = None
    roles: dict[str, str] = {}
    if payload.scope_kind == "project":
        scope = _alive(projects.find(tx, payload.scope_id), payload.scope_generation)
        scope_domain = _alive(domains.find(tx, scope["domain_id"]))
    elif payload.scope_kind == "domain":
        scope = _alive(domains.find(tx, payload.scope_id), payload.scope_generation)
    if payload.scope_kind:
        roles = store.roles_on(tx, user["id"], payload.scope_kind, payload.scope_id)
        if not roles:
            raise Unauthorized(REQUIRES_AUTH)
    credential: Row | None = None
    if payload.credential_id is not None:
        credential = credentials.find(tx, payload.credential_id)
        roles = _narrowed(tx, credential, roles, now)
    names = tuple(roles.values())
    in_project = payload.scope_kind == "project"
    return Standing(
        payload=payload,
        number=store.number(tx),
        context=Context(
            request_id="",
            user_id=user["id"],
            user_name=user["name"],
            user_domain_id=user["domain_id"],
            project_id=scope["id"] if scope is not None and in_project else None,
            project_name=scope["name"] if scope is not None and in_project else None,
            project_domain_id=scope["domain_id"] if scope is not None and in_project else None,
            domain_id=payload.scope_id if payload.scope_kind == "domain" else None,
            roles=names,
            system_scope="all" if payload.scope_kind == "system" else None,
            is_service=user["id"] == SERVICE_USER and "service" in names,
        ),
        user=_named(user),
        user_domain=_named(user_domain),
        scope=_named(scope) if scope is not None else None,
        scope_domain=_named(scope_domain) if scope_domain is not None else None,
        roles=roles,
        credential=_named(credential) if credential is not None else None,
        restricted=credential is not None and not credential["unrestricted"],
    )


def _alive(row: Row | None, generation: int | None = None) -> Row:
    if row is None or not row["enabled"]:
        raise Unauthorized(REQUIRES_AUTH)
    if generation is not None and row["generation"] != generation:
        raise Unauthorized(REQUIRES_AUTH)
    return row


def _narrowed(tx: Tx, credential: Row | None, held: dict[str, str], now: float) -> dict[str, str]:
    """Return the roles that an application credential gives; it is dead once its user lost any of them."""
    if credential is None or (credential["expires_at"] or now + 1) <= now:
        raise Unauthorized(REQUIRES_AUTH)
    given: list[str] = msgspec.json.decode(credential["roles"])
    if not given or not set(given) <= held.keys():
        raise Unauthorized(REQUIRES_AUTH)
    return store.with_implied(tx, given)


def _named(row: Row) -> Named:
    return Named(row["id"], row["name"])
