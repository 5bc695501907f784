"""/v3/domains."""

import sqlalchemy as sa

from kilonova.common.errors import Conflict, Forbidden
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded import schema as s
from kilonova.identity.embedded.identity import DEFAULT_DOMAIN
from kilonova.identity.embedded.records import domains
from kilonova.identity.embedded.routes.common import Json, Noun, equals, matching, refuse_options

_KNOWN = ("name", "description", "enabled", "explicit_domain_id", "tags", "options")


class Domains(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = "/v3/domains/{domain_id}"
        target = self.target_of(domains, "domain")
        return [
            Route("GET", "/v3/domains", self.list, "identity:list_domains", errors=(401, 403)),
            Route(
                "POST",
                "/v3/domains",
                self.create,
                "identity:create_domain",
                success=201,
                errors=(400, 401, 403, 409),
                body=bodies.DOMAIN_CREATE,
            ),
            Route(
                "GET", one, self.show, "identity:get_domain", errors=(401, 403, 404), target=target
            ),
            Route(
                "PATCH",
                one,
                self.update,
                "identity:update_domain",
                errors=(400, 401, 403, 404, 409),
                body=bodies.DOMAIN_UPDATE,
            ),
            Route(
                "DELETE",
                one,
                self.delete,
                "identity:delete_domain",
                success=204,
                errors=(401, 403, 404),
            ),
        ]

    def list(self, req: Request) -> Json:
        """List domains."""
        where = equals(req, "name", "enabled")
        if req.ctx.domain_id is not None:
            where["id"] = req.ctx.domain_id
        rows = matching(req, self.read(lambda tx: domains.list(tx, where)))
        return shapes.many(req, "domains", map(shapes.domain, rows))

    def create(self, req: Request) -> Json:
        """Make a domain."""
        body = req.body["domain"]
        refuse_options(body)
        id_ = body.get("explicit_domain_id") or new_hex()

        def make(tx: Tx) -> Row:
            domains.require_free_name(tx, body["name"], None)
            if domains.find(tx, id_) is not None:
                raise Conflict(f"Conflict occurred attempting to store domain - {id_} is taken.")
            row = {
                "id": id_,
                "name": body["name"],
                "description": body.get("description") or "",
                "enabled": int(body.get("enabled", True)),
                "generation": 0,
                "extra": shapes.extra_of(body, _KNOWN),
            }
            domains.add(tx, row)
            return domains.get(tx, id_)

        return shapes.one(req, "domains", "domain", shapes.domain(self.write(make)))

    def show(self, req: Request) -> Json:
        """Show a domain."""
        row = self.read(lambda tx: domains.get(tx, req.params["domain_id"]))
        return shapes.one(req, "domains", "domain", shapes.domain(row))

    def update(self, req: Request) -> Json:
        """Change a domain; when it is disabled, every token of its users and on its projects dies."""
        id_, body = req.params["domain_id"], req.body["domain"]
        refuse_options(body)

        def change(tx: Tx) -> Row:
            row = domains.get(tx, id_)
            values: Json = {"extra": shapes.merged_extra(row, body, _KNOWN)}
            if "name" in body:
                domains.require_free_name(tx, body["name"], None, id_)
                values["name"] = body["name"]
            if "description" in body:
                values["description"] = body["description"] or ""
            if "enabled" in body:
                if id_ == DEFAULT_DOMAIN and not body["enabled"]:
                    raise Forbidden(
                        "The default domain holds the cloud's own user: it stays enabled."
                    )
                values["enabled"] = int(body["enabled"])
                if row["enabled"] and not body["enabled"]:
                    values["generation"] = row["generation"] + 1
                    for t in (s.user, s.project):
                        older = t.c.generation + 1
                        tx.change(sa.update(t).where(t.c.domain_id == id_).values(generation=older))
            return domains.change(tx, id_, values)

        return shapes.one(req, "domains", "domain", shapes.domain(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a disabled domain with all that is in it."""
        id_ = req.params["domain_id"]

        def remove(tx: Tx) -> None:
            if domains.get(tx, id_)["enabled"]:
                raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
            store.remove_domain(tx, id_)

        self.write(remove)
