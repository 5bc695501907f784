"""/v3/roles, and which role implies which."""

import sqlalchemy as sa

from kilonova.common.errors import Forbidden
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded import schema as s
from kilonova.identity.embedded.records import roles
from kilonova.identity.embedded.routes.common import (
    Json,
    Noun,
    equals,
    matching,
    refuse_options,
    require,
    require_domain,
)

_KNOWN = ("name", "description", "domain_id", "options")
_PAIR = sa.and_(s.implied.c.prior_id == P("prior_id"), s.implied.c.implied_id == P("implied_id"))
_FIND = Q(sa.select(s.implied).where(_PAIR))
_IMPLY = insert(s.implied)
_FORGET = Q(sa.delete(s.implied).where(_PAIR))
Rows = list[Row]


class Roles(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = "/v3/roles/{role_id}"
        pair = one + "/implies/{implied_id}"
        errors = (400, 401, 403, 404, 409)
        rows = [
            ("GET", "/v3/roles", self.list, "list_roles", 200, None),
            ("POST", "/v3/roles", self.create, "create_role", 201, bodies.ROLE_CREATE),
            ("GET", one, self.show, "get_role", 200, None),
            ("PATCH", one, self.update, "update_role", 200, bodies.ROLE_UPDATE),
            ("DELETE", one, self.delete, "delete_role", 204, None),
            ("GET", one + "/implies", self.implied, "list_implied_roles", 200, None),
            ("GET", pair, self.implication, "get_implied_role", 200, None),
            ("HEAD", pair, self.check, "check_implied_role", 204, None),
            ("PUT", pair, self.imply, "create_implied_role", 201, None),
            ("DELETE", pair, self.forget, "delete_implied_role", 204, None),
            ("GET", "/v3/role_inferences", self.rules, "list_role_inference_rules", 200, None),
        ]
        return [
            Route(m, p, h, f"identity:{r}", success=ok, errors=errors, body=b)
            for m, p, h, r, ok, b in rows
        ]

    def list(self, req: Request) -> Json:
        """List roles of the whole cloud, or those of one domain."""
        where = {"domain_id": req.query.get("domain_id") or "", **equals(req, "name")}
        rows = matching(req, self.read(lambda tx: roles.list(tx, where)))
        return shapes.many(req, "roles", map(shapes.role, rows))

    def create(self, req: Request) -> Json:
        """Make a role."""
        body, id_ = req.body["role"], new_hex()
        refuse_options(body)
        domain_id = body.get("domain_id") or ""

        def make(tx: Tx) -> Row:
            if domain_id:
                require_domain(tx, domain_id)
            roles.require_free_name(tx, body["name"], domain_id)
            roles.add(
                tx,
                {
                    "id": id_,
                    "name": body["name"],
                    "domain_id": domain_id,
                    "description": body.get("description"),
                    "immutable": 0,
                    "extra": shapes.extra_of(body, _KNOWN),
                },
            )
            return roles.get(tx, id_)

        return shapes.one(req, "roles", "role", shapes.role(self.write(make)))

    def show(self, req: Request) -> Json:
        """Show a role."""
        row = self.read(lambda tx: roles.get(tx, req.params["role_id"]))
        return shapes.one(req, "roles", "role", shapes.role(row))

    def _mutable(self, tx: Tx, req: Request) -> Row:
        row = roles.get(tx, req.params["role_id"])
        if row["immutable"]:
            raise Forbidden(f"Cannot change the role {row['name']}: it is immutable.")
        return row

    def update(self, req: Request) -> Json:
        """Change a role."""
        body = req.body["role"]
        refuse_options(body)

        def change(tx: Tx) -> Row:
            row = self._mutable(tx, req)
            if (body.get("domain_id") or row["domain_id"]) != row["domain_id"]:
                raise Forbidden("The domain of a role cannot be changed.")
            values: Json = {"extra": shapes.merged_extra(row, body, _KNOWN)}
            if "name" in body:
                roles.require_free_name(tx, body["name"], row["domain_id"], row["id"])
            values |= {k: body[k] for k in ("name", "description") if k in body}
            return roles.change(tx, row["id"], values)

        return shapes.one(req, "roles", "role", shapes.role(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a role; whoever held it loses it."""
        self.write(lambda tx: store.remove_role(tx, self._mutable(tx, req)["id"]))

    # -- implied roles ----------------------------------------------------------------------------------------------

    def implied(self, req: Request) -> Json:
        """List the roles that a role implies directly."""

        def read(tx: Tx) -> tuple[Row, Rows]:
            prior = roles.get(tx, req.params["role_id"])
            ids = store.implications(tx).get(prior["id"], [])
            return prior, (roles.list(tx, {"id": ids}) if ids else [])

        prior, rows = self.read(read)
        return {
            "role_inference": {
                "prior_role": _brief(req, prior),
                "implies": [_brief(req, r) for r in rows],
            },
            "links": {"self": f"{req.root}{req.path}"},
        }

    def _two(self, tx: Tx, req: Request) -> tuple[Row, Row]:
        return roles.get(tx, req.params["role_id"]), roles.get(tx, req.params["implied_id"])

    def _inference(self, req: Request, prior: Row, implied: Row) -> Json:
        return {
            "role_inference": {
                "prior_role": _brief(req, prior),
                "implies": _brief(req, implied),
            },
            "links": {"self": f"{req.root}{req.path}"},
        }

    def implication(self, req: Request) -> Json:
        """Show that a role implies another."""

        def read(tx: Tx) -> tuple[Row, Row]:
            prior, implied = self._two(tx, req)
            there = tx.one(_FIND, prior_id=prior["id"], implied_id=implied["id"])
            require(
                there is not None, f"Could not find: {prior['id']} does not imply {implied['id']}."
            )
            return prior, implied

        return self._inference(req, *self.read(read))

    def check(self, req: Request) -> None:
        """Tell whether a role implies another."""
        self.implication(req)

    def imply(self, req: Request) -> Json:
        """Make a role imply another; nothing may imply admin."""

        def make(tx: Tx) -> tuple[Row, Row]:
            prior, implied = self._two(tx, req)
            if implied["name"] == "admin" or prior["id"] == implied["id"]:
                raise Forbidden(f"{implied['name']} cannot be an implied role.")
            if implied["domain_id"] and not prior["domain_id"]:
                raise Forbidden(
                    f"The role {implied['name']} of a domain cannot be implied by one of all."
                )
            key = {"prior_id": prior["id"], "implied_id": implied["id"]}
            if tx.one(_FIND, **key) is None:
                tx.run(_IMPLY, **key)
            return prior, implied

        return self._inference(req, *self.write(make))

    def forget(self, req: Request) -> None:
        """End that a role implies another."""

        def remove(tx: Tx) -> None:
            prior, implied = self._two(tx, req)
            gone = tx.run(_FORGET, prior_id=prior["id"], implied_id=implied["id"])
            require(gone > 0, f"Could not find: {prior['id']} does not imply {implied['id']}.")

        self.write(remove)

    def rules(self, req: Request) -> Json:
        """List every implication."""

        def read(tx: Tx) -> tuple[dict[str, Row], dict[str, Rows]]:
            by_id = {r["id"]: r for r in roles.list(tx)}
            rules = store.implications(tx)
            return by_id, {p: [by_id[i] for i in implied] for p, implied in rules.items()}

        by_id, rules = self.read(read)
        return {
            "role_inferences": [
                {"prior_role": _brief(req, by_id[p]), "implies": [_brief(req, r) for r in implied]}
                for p, implied in rules.items()
            ],
            "links": {"self": f"{req.root}{req.path}"},
        }


def _brief(req: Request, row: Row) -> Json:
    return {
        "id": row["id"],
        "name": row["name"],
        "links": {"self": shapes.link(req, "roles", row["id"])},
    }
