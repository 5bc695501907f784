"""/v3/users: accounts, passwords, and what belongs to a user."""

import msgspec

from kilonova.common.errors import BadRequest, Forbidden, Unauthorized
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded.records import projects, users
from kilonova.identity.embedded.routes.common import (
    Json,
    Noun,
    domain_filter,
    equals,
    home,
    matching,
    refuse_move,
    refuse_options,
    require_domain,
)
from kilonova.identity.embedded.standing import SERVICE_USER
from kilonova.identity.embedded.tokens import REQUIRES_AUTH

Rows = list[Row]
_KNOWN = (
    "name",
    "description",
    "enabled",
    "domain_id",
    "default_project_id",
    "password",
    "original_password",
    "password_expires_at",
    "options",
)
# True here anyway: no password expires, none must be changed at first use.
_OPTIONS = ("ignore_change_password_upon_first_use", "ignore_password_expiry")


class Users(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = "/v3/users/{user_id}"
        target = self.target_of(users, "user")
        errors = (400, 401, 403, 404, 409, 503)
        return [
            Route("GET", "/v3/users", self.list, "identity:list_users", errors=(400, 401, 403)),
            Route(
                "POST",
                "/v3/users",
                self.create,
                "identity:create_user",
                success=201,
                errors=errors,
                body=bodies.USER_CREATE,
                target=self.new_in_domain("user"),
            ),
            Route("GET", one, self.show, "identity:get_user", errors=errors, target=target),
            Route(
                "PATCH",
                one,
                self.update,
                "identity:update_user",
                errors=errors,
                body=bodies.USER_UPDATE,
                target=target,
            ),
            Route(
                "DELETE",
                one,
                self.delete,
                "identity:delete_user",
                success=204,
                errors=errors,
                target=target,
            ),
            Route(
                "POST",
                one + "/password",
                self.change_password,
                "identity:change_password",
                success=204,
                errors=errors,
                body=bodies.PASSWORD_CHANGE,
                target=target,
            ),
            Route(
                "GET",
                one + "/projects",
                self.projects,
                "identity:list_user_projects",
                errors=errors,
                target=target,
            ),
            Route(
                "GET",
                one + "/groups",
                self.groups,
                "identity:list_groups_for_user",
                errors=errors,
                target=target,
            ),
        ]

    def list(self, req: Request) -> Json:
        """List users."""
        where = equals(req, "name", "enabled") | domain_filter(req)
        rows = matching(req, self.read(lambda tx: users.list(tx, where)))
        return shapes.many(req, "users", map(shapes.user, rows))

    def create(self, req: Request) -> Json:
        """Make a user."""
        body = req.body["user"]
        refuse_options(body, _OPTIONS)
        domain_id, id_ = home(req, body), new_hex()
        password = body.get("password")
        hashed = self.identity.passwords.hash(password) if password is not None else None

        def make(tx: Tx) -> Row:
            require_domain(tx, domain_id)
            users.require_free_name(tx, body["name"], domain_id)
            users.add(
                tx,
                {
                    "id": id_,
                    "name": body["name"],
                    "domain_id": domain_id,
                    "default_project_id": body.get("default_project_id"),
                    "description": body.get("description"),
                    "enabled": int(body.get("enabled", True)),
                    "generation": 0,
                    "password": hashed,
                    "options": _options(body),
                    "extra": shapes.extra_of(body, _KNOWN),
                },
            )
            return users.get(tx, id_)

        return shapes.one(req, "users", "user", shapes.user(self.write(make)))

    def show(self, req: Request) -> Json:
        """Show a user."""
        row = self.read(lambda tx: users.get(tx, req.params["user_id"]))
        return shapes.one(req, "users", "user", shapes.user(row))

    def update(self, req: Request) -> Json:
        """Change a user; a new password or disabling ends all its tokens."""
        id_, body = req.params["user_id"], req.body["user"]
        refuse_options(body, _OPTIONS)
        if id_ == SERVICE_USER:
            raise Forbidden("This user belongs to the cloud itself.")
        password = body.get("password")
        hashed = self.identity.passwords.hash(password) if password is not None else None

        def change(tx: Tx) -> Row:
            row = users.get(tx, id_)
            refuse_move(body, row)
            values: Json = {"extra": shapes.merged_extra(row, body, _KNOWN)}
            if "name" in body:
                users.require_free_name(tx, body["name"], row["domain_id"], id_)
            values |= {
                k: body[k] for k in ("name", "description", "default_project_id") if k in body
            }
            if "enabled" in body:
                values["enabled"] = int(body["enabled"])
            if "options" in body:
                values["options"] = _options(body)
            if "password" in body:
                values["password"] = hashed
            if "password" in body or (row["enabled"] and not body.get("enabled", True)):
                values["generation"] = row["generation"] + 1
            return users.change(tx, id_, values)

        return shapes.one(req, "users", "user", shapes.user(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a user; its tokens and application credentials die."""
        if req.params["user_id"] == SERVICE_USER:
            raise Forbidden("This user belongs to the cloud itself.")
        self.write(lambda tx: store.remove_user(tx, req.params["user_id"]))

    def change_password(self, req: Request) -> None:
        """Change one's own password, knowing the old one; all tokens end."""
        id_, body = req.params["user_id"], req.body["user"]
        if self.identity.standing(req.headers.get("x-auth-token")).credential is not None:
            raise Forbidden("A password cannot be changed with an application credential.")
        row = self.read(lambda tx: users.get(tx, id_))
        if not self.identity.passwords.check(id_, body["original_password"], row["password"]):
            raise Unauthorized(REQUIRES_AUTH)
        if body["password"] == body["original_password"]:
            raise BadRequest("Invalid input for field/attribute password: it is the old one.")
        hashed = self.identity.passwords.hash(body["password"])

        def change(tx: Tx) -> None:
            now = users.get(tx, id_)
            if now["password"] != row["password"]:
                raise Unauthorized(REQUIRES_AUTH)
            users.change(tx, id_, {"password": hashed, "generation": now["generation"] + 1})

        self.write(change)

    def projects(self, req: Request) -> Json:
        """List the projects on which a user holds a role."""
        id_ = req.params["user_id"]

        def read(tx: Tx) -> Rows:
            users.get(tx, id_)
            ids = store.targets_of(tx, id_, "project")
            where = equals(req, "name", "enabled", "domain_id", "parent_id")
            return projects.list(tx, {"id": ids, **where}) if ids else []

        return shapes.many(req, "projects", map(shapes.project, matching(req, self.read(read))))

    def groups(self, req: Request) -> Json:
        """List the groups of a user."""
        id_ = req.params["user_id"]

        def read(tx: Tx) -> Rows:
            users.get(tx, id_)
            return store.groups_of(tx, id_)

        name = req.query.get("name")
        rows = [r for r in self.read(read) if name is None or r["name"] == name]
        return shapes.many(req, "groups", map(shapes.group, matching(req, rows)))


def _options(body: Json) -> str:
    kept = {k: v for k, v in (body.get("options") or {}).items() if v is not None}
    return msgspec.json.encode(kept).decode()
