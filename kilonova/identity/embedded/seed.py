"""The first content: domain, projects, users, roles and who holds them. Safe to repeat."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from kilonova.common.ids import new_hex
from kilonova.common.secret import Secret
from kilonova.db.engine import Tx
from kilonova.db.sql import Q, insert
from kilonova.identity.embedded import schema as s
from kilonova.identity.embedded import store
from kilonova.identity.embedded.catalog import REGION
from kilonova.identity.embedded.identity import DEFAULT_DOMAIN, EmbeddedIdentity
from kilonova.identity.embedded.records import domains, projects, regions, roles, users
from kilonova.identity.embedded.standing import SERVICE_USER

ROLES = ("admin", "manager", "member", "reader", "service")
IMPLIES = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
_FIND_IMPLIED = Q(
    sa.select(s.implied).where(
        s.implied.c.prior_id == sa.bindparam("prior"),
        s.implied.c.implied_id == sa.bindparam("implied"),
    )
)
_IMPLY = insert(s.implied)


@dataclass(frozen=True)
class Seeded:
    """What is there now. passwords: of the users that this call made; users that were there keep theirs."""

    projects: dict[str, str]  # name -> id
    users: dict[str, str]  # name -> id
    roles: dict[str, str]  # name -> id
    passwords: dict[str, Secret]


def seed(identity: EmbeddedIdentity, passwords: Mapping[str, str] | None = None) -> Seeded:
    """Make what is missing of the first content.

    passwords: for the users admin, demo, kilonova; a random one for each that is not named.
    """
    missing = identity.read(
        lambda tx: [
            n
            for n in ("admin", "demo", SERVICE_USER)
            if users.find_named(tx, n, DEFAULT_DOMAIN) is None
        ]
    )
    chosen = {n: (passwords or {}).get(n) or secrets.token_urlsafe(18) for n in missing}
    hashes = {n: identity.passwords.hash(p) for n, p in chosen.items()}
    found = identity.write(lambda tx: _fill(tx, hashes))
    return Seeded(*found, passwords={n: Secret(p) for n, p in chosen.items()})


def set_password(identity: EmbeddedIdentity, name: str, password: str) -> None:
    """Give a user of the default domain a new password; its tokens die. Raises NotFound."""
    hashed = identity.passwords.hash(password)

    def change(tx: Tx) -> None:
        row = users.find_named(tx, name, DEFAULT_DOMAIN)
        row = row if row is not None else users.get(tx, name)
        users.change(tx, row["id"], {"password": hashed, "generation": row["generation"] + 1})

    identity.write(change)


def _fill(
    tx: Tx, hashes: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    if domains.find(tx, DEFAULT_DOMAIN) is None:
        domains.add(
            tx,
            {
                "id": DEFAULT_DOMAIN,
                "name": "Default",
                "description": "The default domain",
                "enabled": 1,
                "generation": 0,
                "extra": "{}",
            },
        )
    if regions.find(tx, REGION) is None:
        regions.add(tx, {"id": REGION, "description": "", "parent_region_id": None})
    role_ids = {name: _role(tx, name) for name in ROLES}
    for prior, implied in IMPLIES:
        key = {"prior": role_ids[prior], "implied": role_ids[implied]}
        if tx.one(_FIND_IMPLIED, **key) is None:
            tx.run(_IMPLY, prior_id=key["prior"], implied_id=key["implied"])
    project_ids = {
        "admin": _project(tx, "admin", "For those who run the cloud"),
        "demo": _project(tx, "demo", "A project to try things in"),
        "service": _project(tx, "service", "The cloud's own services"),
    }
    user_ids = {
        n: _user(tx, n, project_ids, hashes.get(n)) for n in ("admin", "demo", SERVICE_USER)
    }
    for user, project, role in (
        ("admin", "admin", "admin"),
        ("admin", "demo", "admin"),
        ("demo", "demo", "member"),
        (SERVICE_USER, "service", "admin"),
        (SERVICE_USER, "service", "service"),
    ):
        if user in hashes:
            _give(tx, user_ids[user], "project", project_ids[project], role_ids[role])
    if "admin" in hashes:
        _give(tx, user_ids["admin"], "system", "all", role_ids["admin"])
    return project_ids, user_ids, role_ids


def _give(tx: Tx, user_id: str, kind: str, target_id: str, role_id: str) -> None:
    store.assign(
        tx,
        {
            "actor_kind": "user",
            "actor_id": user_id,
            "target_kind": kind,
            "target_id": target_id,
            "role_id": role_id,
        },
    )


def _role(tx: Tx, name: str) -> str:
    row = roles.find_named(tx, name, "")
    if row is not None:
        return str(row["id"])
    id_ = new_hex()
    roles.add(
        tx,
        {
            "id": id_,
            "name": name,
            "domain_id": "",
            "description": None,
            "immutable": 1,
            "extra": "{}",
        },
    )
    return id_


def _project(tx: Tx, name: str, description: str) -> str:
    row = projects.find_named(tx, name, DEFAULT_DOMAIN)
    if row is not None:
        return str(row["id"])
    id_ = new_hex()
    projects.add(
        tx,
        {
            "id": id_,
            "name": name,
            "domain_id": DEFAULT_DOMAIN,
            "parent_id": DEFAULT_DOMAIN,
            "description": description,
            "enabled": 1,
            "generation": 0,
            "tags": "[]",
            "extra": "{}",
        },
    )
    return id_


def _user(tx: Tx, name: str, project_ids: Mapping[str, str], password: str | None) -> str:
    row = users.find_named(tx, name, DEFAULT_DOMAIN)
    if row is not None:
        return str(row["id"])
    id_ = SERVICE_USER if name == SERVICE_USER else new_hex()
    users.add(
        tx,
        {
            "id": id_,
            "name": name,
            "domain_id": DEFAULT_DOMAIN,
            "default_project_id": project_ids.get(name),
            "description": None,
            "enabled": 1,
            "generation": 0,
            "password": password,
            "options": "{}",
            "extra": "{}",
        },
    )
    return id_
