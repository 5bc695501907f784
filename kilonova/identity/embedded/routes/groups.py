"""/v3/groups and their members."""

from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded.records import groups, users
from kilonova.identity.embedded.routes.common import (
    Json,
    Noun,
    Target,
    domain_filter,
    equals,
    home,
    matching,
    refuse_move,
    require,
    require_domain,
)

_KNOWN = ("name", "description", "domain_id")


class Groups(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = "/v3/groups/{group_id}"
        target = self.target_of(groups, "group")
        errors = (400, 401, 403, 404, 409)
        rows = [
            ("GET", one, self.show, "get_group", 200, None),
            ("PATCH", one, self.update, "update_group", 200, bodies.GROUP_UPDATE),
            ("DELETE", one, self.delete, "delete_group", 204, None),
            ("GET", one + "/users", self.members, "list_users_in_group", 200, None),
            ("GET", one + "/users/{user_id}", self.check, "check_user_in_group", 204, None),
            ("PUT", one + "/users/{user_id}", self.join, "add_user_to_group", 204, None),
            ("DELETE", one + "/users/{user_id}", self.leave, "remove_user_from_group", 204, None),
        ]
        return [
            Route("GET", "/v3/groups", self.list, "identity:list_groups", errors=(400, 401, 403)),
            Route(
                "POST",
                "/v3/groups",
                self.create,
                "identity:create_group",
                success=201,
                errors=errors,
                body=bodies.GROUP_CREATE,
                target=self.new_in_domain("group"),
            ),
            *(
                Route(
                    m,
                    p,
                    h,
                    f"identity:{r}",
                    success=ok,
                    errors=errors,
                    body=b,
                    target=self._membership if "{user_id}" in p else target,
                )
                for m, p, h, r, ok, b in rows
            ),
        ]

    def _membership(self, req: Request) -> Target:
        return {
            **self.facts(req, groups, "group", req.params["group_id"]),
            **self.facts(req, users, "user", req.params["user_id"]),
        }

    def list(self, req: Request) -> Json:
        """List groups."""
        where = equals(req, "name") | domain_filter(req)
        rows = matching(req, self.read(lambda tx: groups.list(tx, where)))
        return shapes.many(req, "groups", map(shapes.group, rows))

    def create(self, req: Request) -> Json:
        """Make a group."""
        body = req.body["group"]
        domain_id, id_ = home(req, body), new_hex()

        def make(tx: Tx) -> Row:
            require_domain(tx, domain_id)
            groups.require_free_name(tx, body["name"], domain_id)
            groups.add(
                tx,
                {
                    "id": id_,
                    "name": body["name"],
                    "domain_id": domain_id,
                    "description": body.get("description") or "",
                    "extra": shapes.extra_of(body, _KNOWN),
                },
            )
            return groups.get(tx, id_)

        return shapes.one(req, "groups", "group", shapes.group(self.write(make)))

    def show(self, req: Request) -> Json:
        """Show a group."""
        row = self.read(lambda tx: groups.get(tx, req.params["group_id"]))
        return shapes.one(req, "groups", "group", shapes.group(row))

    def update(self, req: Request) -> Json:
        """Change a group."""
        id_, body = req.params["group_id"], req.body["group"]

        def change(tx: Tx) -> Row:
            row = groups.get(tx, id_)
            refuse_move(body, row)
            values: Json = {"extra": shapes.merged_extra(row, body, _KNOWN)}
            if "name" in body:
                groups.require_free_name(tx, body["name"], row["domain_id"], id_)
                values["name"] = body["name"]
            if "description" in body:
                values["description"] = body["description"] or ""
            return groups.change(tx, id_, values)

        return shapes.one(req, "groups", "group", shapes.group(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a group; its members lose the roles that they had by it."""
        self.write(lambda tx: store.remove_group(tx, req.params["group_id"]))

    def members(self, req: Request) -> Json:
        """List the users of a group."""
        id_ = req.params["group_id"]
        rows = self.read(lambda tx: (groups.get(tx, id_), store.members(tx, id_))[1])
        name = req.query.get("name")
        kept = [r for r in rows if name is None or r["name"] == name]
        return shapes.many(req, "users", map(shapes.user, matching(req, kept)))

    def _pair(self, tx: Tx, req: Request) -> tuple[str, str]:
        group_id, user_id = req.params["group_id"], req.params["user_id"]
        groups.get(tx, group_id)
        users.get(tx, user_id)
        return group_id, user_id

    def check(self, req: Request) -> None:
        """Tell whether a user is in a group."""
        there = self.read(lambda tx: store.in_group(tx, *self._pair(tx, req)))
        require(there, _NOT_IN.format(**req.params))

    def join(self, req: Request) -> None:
        """Put a user into a group."""
        self.write(lambda tx: store.join(tx, *self._pair(tx, req)))

    def leave(self, req: Request) -> None:
        """Take a user out of a group."""
        there = self.write(lambda tx: store.leave(tx, *self._pair(tx, req)))
        require(there, _NOT_IN.format(**req.params))


_NOT_IN = "Could not find user {user_id:.64} in group {group_id:.64}."
