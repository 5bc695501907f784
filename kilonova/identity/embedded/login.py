"""POST /v3/auth/tokens: prove who you are, say on what you want to act, get a token.

Every refusal of a proof has the same words, and an account that does not exist costs as much as a wrong password.
"""

from dataclasses import dataclass
from typing import Any

from kilonova.common.errors import BadRequest, Forbidden, Unauthorized
from kilonova.db.engine import Row, Tx
from kilonova.identity.embedded import store
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.records import credentials, domains, projects, users
from kilonova.identity.embedded.standing import Standing
from kilonova.identity.embedded.tokens import REQUIRES_AUTH, Payload

Json = dict[str, Any]
METHODS = ("password", "token", "application_credential")


@dataclass(frozen=True)
class _Proof:
    """A method that was passed: whose it is, and what it was made from."""

    user_id: str
    generation: int
    parent: Standing | None = None
    credential: Row | None = None


def login(identity: EmbeddedIdentity, auth: Json) -> Standing:
    """Check every method asked for; return the standing of a new token (not sealed yet).

    Raises Unauthorized; BadRequest when the methods contradict the scope; Forbidden when a scope may not be changed.
    """
    methods = list(dict.fromkeys(auth["identity"]["methods"]))
    if any(m not in METHODS for m in methods):
        raise Unauthorized("Attempted to authenticate with an unsupported method.")
    proofs = []
    for method in methods:
        given = auth["identity"].get(method)
        if given is None:
            raise BadRequest(
                f"Invalid input for field/attribute auth/identity/{method}: "
                "the method is named and its data is missing."
            )
        proofs.append(_CHECKS[method](identity, given))
    if len({(p.user_id, p.generation) for p in proofs}) != 1:
        raise Unauthorized(REQUIRES_AUTH)
    parent = next((p.parent for p in proofs if p.parent is not None), None)
    credential = next((p.credential for p in proofs if p.credential is not None), None)
    all_methods = tuple(dict.fromkeys([*methods, *(parent.payload.methods if parent else ())]))
    wanted = auth.get("scope")
    return identity.read(
        lambda tx: _issue(
            identity,
            tx,
            proofs[0],
            all_methods,
            wanted,
            parent.payload if parent else None,
            credential,
        )
    )


def _issue(
    identity: EmbeddedIdentity,
    tx: Tx,
    proof: _Proof,
    methods: tuple[str, ...],
    wanted: Any,
    parent: Payload | None,
    credential: Row | None,
) -> Standing:
    user = users.find(tx, proof.user_id)
    if user is None or user["generation"] != proof.generation:
        raise Unauthorized(REQUIRES_AUTH)
    if parent is not None and parent.credential_id is not None:
        credential = credentials.find(tx, parent.credential_id)
        if credential is None:
            raise Unauthorized(REQUIRES_AUTH)
    if credential is not None:
        if wanted is not None and not (parent is not None and _same_project(wanted, credential)):
            raise (Forbidden if parent else BadRequest)(
                "Application credentials cannot request a scope."
            )
        project = projects.find(tx, credential["project_id"])
        if project is None:
            raise Unauthorized(REQUIRES_AUTH)
        return identity.issue(tx, user, methods, "project", project, parent, credential)
    if wanted is None:
        return _default(identity, tx, user, methods, parent)
    kind, scope = _scope(tx, wanted)
    return identity.issue(tx, user, methods, kind, scope, parent)


def _same_project(wanted: Any, credential: Row) -> bool:
    return (
        isinstance(wanted, dict) and wanted.get("project", {}).get("id") == credential["project_id"]
    )


def _default(
    identity: EmbeddedIdentity, tx: Tx, user: Row, methods: tuple[str, ...], parent: Payload | None
) -> Standing:
    """Scope to the user's default project if it may act there, else to nothing."""
    default = user["default_project_id"]
    if default is not None and parent is None:
        project = projects.find(tx, default)
        if (
            project is not None
            and project["enabled"]
            and store.roles_on(tx, user["id"], "project", default)
        ):
            domain = domains.find(tx, project["domain_id"])
            if domain is not None and domain["enabled"]:
                return identity.issue(tx, user, methods, "project", project)
    return identity.issue(tx, user, methods, "", None, parent)


def _scope(tx: Tx, wanted: Any) -> tuple[str, Row | None]:
    if wanted == "unscoped" or "unscoped" in wanted:
        return "", None
    if "system" in wanted:
        return "system", None
    if "domain" in wanted:
        return "domain", _known(find_domain(tx, wanted["domain"]))
    p = wanted["project"]
    if "id" in p:
        return "project", _known(projects.find(tx, p["id"]))
    domain = _known(find_domain(tx, p["domain"]))
    return "project", _known(projects.find_named(tx, p["name"], domain["id"]))


def _known(row: Row | None) -> Row:
    if row is None:
        raise Unauthorized(REQUIRES_AUTH)
    return row


def find_domain(tx: Tx, named: Json) -> Row | None:
    """Return a domain given by id or by name."""
    if "id" in named:
        return domains.find(tx, named["id"])
    found = domains.list(tx, {"name": named["name"]})
    return found[0] if found else None


def _find_user(tx: Tx, given: Json) -> Row | None:
    if "id" in given:
        return users.find(tx, given["id"])
    domain = find_domain(tx, given["domain"])
    return None if domain is None else users.find_named(tx, given["name"], domain["id"])


def _account(given: Json) -> str:
    """Return a text that tells an account that does not exist from others."""
    domain = given.get("domain", {})
    return "\0".join(
        (
            "?",
            *(
                str(v)
                for v in (given.get("id"), domain.get("id"), domain.get("name"), given.get("name"))
            ),
        )
    )


def _password(identity: EmbeddedIdentity, given: Json) -> _Proof:
    who = given["user"]
    user = identity.read(lambda tx: _find_user(tx, who))
    name = user["id"] if user is not None else _account(who)
    good = identity.passwords.check(name, who["password"], user["password"] if user else None)
    if not good or user is None:
        raise Unauthorized(REQUIRES_AUTH)
    return _Proof(user["id"], user["generation"])


def _token(identity: EmbeddedIdentity, given: Json) -> _Proof:
    standing = identity.standing(given["id"])
    return _Proof(standing.user.id, standing.payload.user_generation, parent=standing)


def _credential(identity: EmbeddedIdentity, given: Json) -> _Proof:
    def find(tx: Tx) -> tuple[Row | None, Row | None]:
        if "id" in given:
            found = credentials.find(tx, given["id"])
            return found, users.find(tx, found["user_id"]) if found is not None else None
        user = _find_user(tx, given["user"])
        if user is None:
            return None, None
        rows = credentials.list(tx, {"user_id": user["id"], "name": given["name"]})
        return (rows[0] if rows else None), user

    row, user = identity.read(find)
    name = "credential\0" + (
        row["id"]
        if row is not None
        else f"{given.get('id')}\0{given.get('name')}\0{_account(given.get('user', {}))}"
    )
    good = identity.passwords.check(name, given["secret"], row["secret"] if row else None)
    if not good or row is None or user is None:
        raise Unauthorized(REQUIRES_AUTH)
    return _Proof(user["id"], user["generation"], credential=row)


_CHECKS = {"password": _password, "token": _token, "application_credential": _credential}
