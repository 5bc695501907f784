"""Key pairs of a user. From 2.92 on nothing is generated here any more: the caller brings the public key."""

from typing import Any

from kilonova.api.compute.answers import keypairs as a
from kilonova.api.compute.schemas import keypairs as s
from kilonova.api.compute.shared import R, next_link, page, versioned
from kilonova.common.clock import iso_micro
from kilonova.common.errors import Conflict, Forbidden, NotFound, QuotaExceeded
from kilonova.db import keypairs as db
from kilonova.db import quotas
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.operations import keys, notices
from kilonova.operations.services import Services


def _user(req: Request, given: str | None) -> str:
    """Return whose key pairs are meant; only from 2.10 on may it be somebody else."""
    user = (given if req.version >= V(2, 10) else None) or req.ctx.user_id
    if user is None:
        raise Forbidden("Key pairs belong to a user; this token has none.")
    return user


def _authorized(req: Request, what: str, given: str | None) -> str:
    user = _user(req, given)
    req.authorize(R + "os-keypairs:" + what, {"user_id": user})
    return user


def _shape(req: Request, row: Row) -> dict[str, Any]:
    out = {
        "name": row["name"],
        "public_key": row["public_key"],
        "fingerprint": row["fingerprint"],
    }
    if req.version >= V(2, 2):
        out["type"] = row["type"]
    return out


def index(req: Request) -> Any:
    """List a user's key pairs; in pages from 2.35 on."""
    services: Services = req.cloud
    user = _authorized(req, "index", req.query.get("user_id"))
    rows = services.world.read(lambda tx: db.of_user(tx, user))
    more = False
    if req.version >= V(2, 35):
        rows, more = page(req, rows, lambda r: str(r["name"]), "Marker {} could not be found.")
    out: dict[str, Any] = {"keypairs": [{"keypair": _shape(req, r)} for r in rows]}
    if more:
        out["keypairs_links"] = next_link(req, "/os-keypairs", rows[-1]["name"])
    return out


def show(req: Request) -> Any:
    """Show one key pair."""
    services: Services = req.cloud
    user = _authorized(req, "show", req.query.get("user_id"))
    name = req.params["name"]
    row = services.world.read(lambda tx: db.find(tx, user, name))
    if row is None:
        raise NotFound(f"Keypair {name} not found for user {user}")
    late = {
        "user_id": user,
        "created_at": iso_micro(row["created_at"]),
        "deleted": False,
        "deleted_at": None,
        "id": row["id"],
        "updated_at": None,
    }
    return {"keypair": {**_shape(req, row), **late}}


def create(req: Request) -> Any:
    """Import a public key, or (before 2.92) make a pair and tell the private half this once."""
    services: Services = req.cloud
    body = req.body["keypair"]
    user = _authorized(req, "create", body.get("user_id"))
    name, type_ = body["name"].strip(), body.get("type", "ssh")
    private = None
    how = "import" if "public_key" in body else "create"
    if "public_key" in body:
        public, print_ = body["public_key"], keys.fingerprint(body["public_key"], type_)
    else:
        made = keys.make(type_, user)
        public, print_, private = made.public_key, made.fingerprint, made.private_key

    def put(tx: Tx) -> Row | None:
        limit = quotas.limits(tx, str(req.ctx.project_id), user)["key_pairs"]
        if 0 <= limit <= db.count(tx, user):
            raise QuotaExceeded("Quota exceeded, too many key pairs.")
        if db.find(tx, user, name) is not None:
            raise Conflict(f"Key pair '{name}' already exists.")
        db.add(
            tx,
            user_id=user,
            name=name,
            type_=type_,
            fingerprint=print_,
            public_key=public,
            now=services.now(),
        )
        row = db.find(tx, user, name)
        notices.keypair(tx, req.ctx, f"keypair.{how}.end", row, services.now())
        return row

    row = services.world.write(put)
    out = {**_shape(req, row), "user_id": user}
    if private is None:
        return {"keypair": out}
    told = (
        f"Key pair '{name}' was made by this request, and its private key is in the first answer only: "
        "it is kept nowhere. Delete the key pair and make another one."
    )
    return Response(body={"keypair": {**out, "private_key": private.reveal()}}, told_once=told)


def delete(req: Request) -> None:
    """Delete a key pair; servers keep what they were built with."""
    services: Services = req.cloud
    user = _authorized(req, "delete", req.query.get("user_id"))
    name = req.params["name"]

    def drop(tx: Tx) -> bool:
        notices.keypair(tx, req.ctx, "keypair.delete.end", db.find(tx, user, name), services.now())
        return db.remove(tx, user, name)

    if not services.world.write(drop):
        raise NotFound(f"Keypair {name} not found for user {user}")


_RULE = R + "os-keypairs:"
_ONE = "/os-keypairs/{name}"
ROUTES = [
    *versioned("GET", "/os-keypairs", index, _RULE + "index", queries=s.LIST, answer=a.LIST),
    *versioned("GET", _ONE, show, _RULE + "show", queries=s.ONE, answer=a.SHOW),
    *versioned(
        "POST",
        "/os-keypairs",
        create,
        _RULE + "create",
        bodies=s.CREATE,
        success={1: 200, 2: 201},
        errors=(400, 403, 409),
        answer=a.CREATE,
        idempotent="record",
    ),
    *versioned("DELETE", _ONE, delete, _RULE + "delete", queries=s.ONE, success={1: 202, 2: 204}),
]
RULES = {
    _RULE + n: "(rule:context_is_admin) or user_id:%(user_id)s"
    for n in ("index", "show", "create", "delete")
}
