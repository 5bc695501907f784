"""/v3/users/{id}/application_credentials: a secret that gives some of its user's roles on one project."""

import secrets

import msgspec

from kilonova.common.clock import iso_micro, parse_iso
from kilonova.common.errors import BadRequest, Conflict, Forbidden
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes
from kilonova.identity.embedded.records import credentials, roles, users
from kilonova.identity.embedded.routes.common import Json, Noun, require
from kilonova.identity.embedded.standing import Standing

_MANY = "/v3/users/{user_id}/application_credentials"
_RULES = "/v3/users/{user_id}/access_rules"


class ApplicationCredentials(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = _MANY + "/{credential_id}"
        create = bodies.CREDENTIAL_CREATE
        rows = [
            ("GET", _MANY, self.list, "list_application_credentials", 200, None),
            ("POST", _MANY, self.create, "create_application_credential", 201, create),
            ("GET", one, self.show, "get_application_credential", 200, None),
            ("DELETE", one, self.delete, "delete_application_credential", 204, None),
            ("GET", _RULES, self.rules, "list_access_rules", 200, None),
        ]
        target = self.target_of(users, "user")
        return [
            Route(
                m,
                p,
                h,
                f"identity:{r}",
                success=ok,
                errors=(400, 401, 403, 404, 409, 503),
                body=b,
                target=target,
            )
            for m, p, h, r, ok, b in rows
        ]

    def _unrestricted(self, req: Request) -> Standing:
        standing = self.identity.standing(req.headers.get("x-auth-token"))
        if standing.restricted:
            raise Forbidden(
                "A restricted application credential may neither make nor delete application credentials."
            )
        return standing

    def list(self, req: Request) -> Json:
        """List a user's application credentials."""
        where = {"user_id": req.params["user_id"]}
        name = req.query.get("name")
        if name is not None:
            where["name"] = name
        found = self.read(lambda tx: [_shape(tx, r) for r in credentials.list(tx, where)])
        return shapes.many(req, "application_credentials", found, at=_path(req))

    def create(self, req: Request) -> Json:
        """Make an application credential on the token's project; the secret is shown this once."""
        standing = self._unrestricted(req)
        project_id = standing.context.project_id
        if project_id is None:
            raise BadRequest("An application credential needs a token that is scoped to a project.")
        body = req.body["application_credential"]
        if body.get("access_rules"):
            raise BadRequest(
                "Invalid input for field/attribute access_rules: they are not supported here."
            )
        if body.get("project_id", project_id) != project_id:
            raise BadRequest(
                "Invalid input for field/attribute project_id: it is not the token's project."
            )
        expires = self._expiry(body.get("expires_at"))
        granted = _chosen(body.get("roles"), standing.roles)
        secret = body.get("secret") or secrets.token_urlsafe(64)
        hashed, id_ = self.identity.passwords.hash(secret), new_hex()

        def make(tx: Tx) -> Json:
            user_id = users.get(tx, req.params["user_id"])["id"]
            if credentials.list(tx, {"user_id": user_id, "name": body["name"]}):
                raise Conflict(
                    "Conflict occurred attempting to store application_credential - "
                    f"Duplicate entry found with name {body['name']}."
                )
            credentials.add(
                tx,
                {
                    "id": id_,
                    "name": body["name"],
                    "user_id": user_id,
                    "project_id": project_id,
                    "description": body.get("description"),
                    "secret": hashed,
                    "roles": msgspec.json.encode(granted).decode(),
                    "expires_at": expires,
                    "unrestricted": int(body.get("unrestricted") or False),
                },
            )
            return _shape(tx, credentials.get(tx, id_))

        record = self.write(make)
        return shapes.one(req, _path(req), "application_credential", {**record, "secret": secret})

    def rules(self, req: Request) -> Json:
        """List access rules: there are none, because no credential can be made with them here."""
        return shapes.many(req, "access_rules", [])

    def _expiry(self, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            moment = parse_iso(text)
        except (ValueError, OverflowError) as exc:
            raise BadRequest(
                "Invalid input for field/attribute expires_at: it is not a time."
            ) from exc
        if moment <= self.identity.clock.now():
            raise BadRequest("Invalid input for field/attribute expires_at: it is in the past.")
        return moment

    def _mine(self, tx: Tx, req: Request) -> Row:
        id_ = req.params["credential_id"]
        row = credentials.get(tx, id_)
        require(
            row["user_id"] == req.params["user_id"],
            f"Could not find application credential: {id_[:64]}.",
        )
        return row

    def show(self, req: Request) -> Json:
        """Show an application credential, without its secret."""
        record = self.read(lambda tx: _shape(tx, self._mine(tx, req)))
        return shapes.one(req, _path(req), "application_credential", record)

    def delete(self, req: Request) -> None:
        """Delete an application credential; tokens made with it die."""
        self._unrestricted(req)
        self.write(lambda tx: credentials.remove(tx, self._mine(tx, req)["id"]))


def _path(req: Request) -> str:
    return f"users/{req.params['user_id']}/application_credentials"


def _chosen(asked: list[Json] | None, held: dict[str, str]) -> list[str]:
    """Return the ids of the roles asked for, all of the token's when none are. Raises BadRequest for one not held."""
    if not asked:
        return list(held)
    out = []
    for role in asked:
        found = [
            i
            for i, n in held.items()
            if i == role.get("id") or ("id" not in role and n == role["name"])
        ]
        if not found:
            raise BadRequest(
                "Invalid input for field/attribute roles: the token does not hold one of them."
            )
        out += found
    return list(dict.fromkeys(out))


def _shape(tx: Tx, row: Row) -> Json:
    given = roles.list(tx, {"id": msgspec.json.decode(row["roles"])})
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "user_id": row["user_id"],
        "project_id": row["project_id"],
        "system": None,
        "expires_at": iso_micro(row["expires_at"]) if row["expires_at"] is not None else None,
        "unrestricted": bool(row["unrestricted"]),
        "roles": [
            {"id": r["id"], "name": r["name"], "domain_id": r["domain_id"] or None} for r in given
        ],
    }
