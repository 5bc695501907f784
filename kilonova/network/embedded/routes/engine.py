"""The five requests of every resource, and tags: find, ask policy, call one store function, render."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from kilonova.common.errors import Forbidden
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.network.embedded.faults import Missing, Refused, missing
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.routes import listing
from kilonova.network.embedded.routes.resource import TAG, Act, Resource
from kilonova.network.embedded.schema import tag
from kilonova.network.embedded.store import quotas
from kilonova.network.embedded.store.common import ADD_TAG
from kilonova.network.embedded.store.work import Work

_HAS_TAG = Q(sa.select(tag).where(tag.c.resource_id == P("resource_id"), tag.c.tag == P("tag")))
_DROP_TAG = Q(sa.delete(tag).where(tag.c.resource_id == P("resource_id"), tag.c.tag == P("tag")))
_DROP_TAGS = Q(sa.delete(tag).where(tag.c.resource_id == P("resource_id")))
_TAGS = Q(sa.select(tag.c.tag).where(tag.c.resource_id == P("resource_id")).order_by(tag.c.tag))
MAX_TAGS = 50
_TAG_LIST = Schema(
    {
        "type": "object",
        "properties": {
            "tags": {
                "type": "array",
                "maxItems": MAX_TAGS,
                "items": TAG,
            }
        },
        "required": ["tags"],
        "additionalProperties": False,
    }
)


class Engine:
    """Serves one resource."""

    def __init__(self, network: EmbeddedNetwork, res: Resource) -> None:
        self.network = network
        self.res = res

    def routes(self) -> list[Route]:
        """Return the rows for the table of routes."""
        res, path = self.res, f"/v2.0/{self.res.path}"
        one = path + "/{id}"
        rule = res.name
        tags = f"{res.name}s_tags"
        out = [
            Route("GET", path, self.list, f"get_{rule}", errors=(400, 401)),
            Route(
                "POST", path, self.create, f"create_{rule}", 201, (400, 401, 403, 404, 409),
                body=res.body("POST"), target=self._asked_project,
            ),
            Route("GET", one, self.show, f"get_{rule}", errors=(401, 404)),
            Route("DELETE", one, self.delete, f"delete_{rule}", 204, (401, 403, 404, 409)),
            Route("GET", one + "/tags", self.tags, f"get_{tags}", errors=(404,)),
            Route("PUT", one + "/tags", self.put_tags, f"update_{tags}", errors=(400, 403, 404), body=_TAG_LIST),
            Route("DELETE", one + "/tags", self.drop_tags, f"delete_{tags}", 204, (403, 404)),
            Route("GET", one + "/tags/{tag}", self.has_tag, f"get_{tags}", 204, (404,)),
            Route("PUT", one + "/tags/{tag}", self.put_tag, f"update_{tags}", 201, (400, 403, 404)),
            Route("DELETE", one + "/tags/{tag}", self.drop_tag, f"delete_{tags}", 204, (403, 404)),
        ]  # fmt: skip
        if res.update is not None:
            out.append(
                Route(
                    "PUT", one, self.update, f"update_{rule}", errors=(400, 401, 403, 404, 409),
                    body=res.body("PUT"),
                )
            )  # fmt: skip
        return out

    def _asked_project(self, req: Request) -> dict[str, object]:
        """The route is asked about the caller itself; each item's owner is asked in ``create``."""
        me = req.ctx.project_id
        return {"project_id": me, "network:project_id": me}

    def _may(self, req: Request) -> Callable[[str], bool]:
        own = req.own()
        names = set(req.policy.names())

        def may(attribute: str) -> bool:
            rule = f"get_{self.res.name}:{attribute}"
            return rule not in names or req.may(rule, own)

        return may

    def _restrict(self, req: Request) -> Any:
        every = req.may("admin_only", {}) or req.may(f"see_every_{self.res.name}", {})
        return None if every else self.res.seen(req.ctx)

    def find(self, tx: Tx, req: Request, row_id: str) -> Row:
        """Return a row that the caller may see; 404 alike for missing and foreign ones."""
        clauses = [self.res.table.c.id == row_id]
        restrict = self._restrict(req)
        if restrict is not None:
            clauses.append(restrict)
        found = tx.select(sa.select(self.res.table).where(*clauses))
        if not found:
            raise missing(self.res.name, row_id)
        return found[0]

    def _found_for(self, tx: Tx, req: Request, verb: str, rule: str | None = None) -> Row:
        row = self.find(tx, req, req.params["id"])
        req.authorize(rule or f"{verb}_{self.res.name}", self.res.target(tx, row))
        return row

    def rendered(self, tx: Tx, req: Request, rows: list[Row]) -> list[dict[str, Any]]:
        """Return bodies of rows, with what the caller may see of them."""
        return listing.only(req, self.res.render(tx, rows, self._may(req)))

    def list(self, req: Request) -> dict[str, Any]:
        """List what the caller may see."""

        def body(tx: Tx) -> dict[str, Any]:
            page, limit = listing.rows(tx, req, self.res, self._restrict(req))
            out: dict[str, Any] = {self.res.plural: self.rendered(tx, req, page)}
            if links := listing.links(req, self.res, page, limit):
                out[f"{self.res.plural}_links"] = links
            return out

        return self.network.database.read(body)

    def show(self, req: Request) -> dict[str, Any]:
        """Show one."""

        def body(tx: Tx) -> dict[str, Any]:
            row = self._found_for(tx, req, "get")
            return {self.res.name: self.rendered(tx, req, [row])[0]}

        return self.network.database.read(body)

    def act(self, req: Request, fn: Callable[[Act], Any]) -> Any:
        """Run one write."""

        def body(work: Work) -> Any:
            return fn(Act(work, req, self.network))

        return self.network.write(body)

    def create(self, req: Request) -> dict[str, Any]:
        """Create one, or many in one transaction."""
        many = self.res.plural in req.body
        items: list[dict[str, Any]] = (
            req.body[self.res.plural] if many else [req.body[self.res.name]]
        )

        def body(act: Act) -> dict[str, Any]:
            ids = [self._create_one(act, dict(item)) for item in items]
            rows = [self.find_any(act.tx, i) for i in ids]
            out = self.rendered(act.tx, req, rows)
            return {self.res.plural: out} if many else {self.res.name: out[0]}

        made: dict[str, Any] = self.act(req, body)
        return made

    def find_any(self, tx: Tx, row_id: str) -> Row:
        """Return a row whoever it belongs to."""
        return tx.select(sa.select(self.res.table).where(self.res.table.c.id == row_id))[0]

    def _create_one(self, act: Act, item: dict[str, Any]) -> str:
        req = act.req
        project = _owner(req, item)
        others = req.may("admin_only", {}) or req.may(f"create_{self.res.name}_for_others", {})
        if project != req.ctx.project_id and not others:
            raise Forbidden(f"Policy doesn't allow create_{self.res.name} to be performed.")
        self.guard(req, "create", item, {"project_id": project, "network:project_id": None})
        quotas.check(act.tx, project, self.res.name, 1, self.network.quota_defaults)
        return self.res.create(act, item, project)

    def guard(
        self, req: Request, verb: str, item: dict[str, Any], target: dict[str, object]
    ) -> None:
        """Ask policy about the attributes of a body that have rules of their own."""
        defaults = dict(self.res.defaults)
        for name in self.res.guarded:
            if name not in item:
                continue
            if verb == "create" and name in defaults and item[name] == defaults[name]:
                continue
            req.authorize(f"{verb}_{self.res.name}:{name}", target)

    def update(self, req: Request) -> dict[str, Any]:
        """Change one."""
        update = self.res.update
        assert update is not None  # noqa: S101 - the route exists only with it

        def body(act: Act) -> dict[str, Any]:
            row = self._found_for(act.tx, req, "update")
            item = dict(req.body[self.res.name])
            self.guard(req, "update", item, self.res.target(act.tx, row))
            if item:
                update(act, row, item)
            return {
                self.res.name: self.rendered(act.tx, req, [self.find_any(act.tx, row["id"])])[0]
            }

        changed: dict[str, Any] = self.act(req, body)
        return changed

    def delete(self, req: Request) -> None:
        """Delete one."""

        def body(act: Act) -> None:
            self.res.delete(act, self._found_for(act.tx, req, "delete"))

        self.act(req, body)

    def tags(self, req: Request) -> dict[str, Any]:
        """List tags."""
        return self.network.database.read(
            lambda tx: {"tags": _tags(tx, self._tagged(tx, req, "get")["id"])}
        )

    def _tagged(self, tx: Tx, req: Request, verb: str) -> Row:
        return self._found_for(tx, req, verb, f"{verb}_{self.res.name}s_tags")

    def put_tags(self, req: Request) -> dict[str, Any]:
        """Replace all tags."""

        def body(act: Act) -> dict[str, Any]:
            row = self._tagged(act.tx, req, "update")
            act.tx.run(_DROP_TAGS, resource_id=row["id"])
            for t in req.body["tags"]:
                act.tx.run(ADD_TAG, resource_id=row["id"], tag=t)
            self._touched(act, row)
            return {"tags": _tags(act.tx, row["id"])}

        out: dict[str, Any] = self.act(req, body)
        return out

    def _touched(self, act: Act, row: Row) -> None:
        t = self.res.table
        act.tx.change(
            sa.update(t)
            .where(t.c.id == row["id"])
            .values(revision=t.c.revision + 1, updated_at=act.work.now)
        )

    def drop_tags(self, req: Request) -> None:
        """Remove all tags."""

        def body(act: Act) -> None:
            row = self._tagged(act.tx, req, "delete")
            act.tx.run(_DROP_TAGS, resource_id=row["id"])
            self._touched(act, row)

        self.act(req, body)

    def has_tag(self, req: Request) -> None:
        """Tell whether there is a tag."""

        def body(tx: Tx) -> None:
            row = self._tagged(tx, req, "get")
            if tx.one(_HAS_TAG, resource_id=row["id"], tag=req.params["tag"]) is None:
                raise _no_tag(req.params["tag"])

        self.network.database.read(body)

    def put_tag(self, req: Request) -> Response:
        """Add one tag."""

        def body(act: Act) -> None:
            row = self._tagged(act.tx, req, "update")
            _TAG_LIST.check({"tags": [req.params["tag"]]})
            have = _tags(act.tx, row["id"])
            if len(have) >= MAX_TAGS and req.params["tag"] not in have:
                raise Refused(
                    "InvalidInput", f"tags: the number of tags exceeds the maximum {MAX_TAGS}."
                )
            act.tx.run(ADD_TAG, resource_id=row["id"], tag=req.params["tag"])
            self._touched(act, row)

        self.act(req, body)
        return Response(status=201)

    def drop_tag(self, req: Request) -> None:
        """Remove one tag."""

        def body(act: Act) -> None:
            row = self._tagged(act.tx, req, "delete")
            if not act.tx.run(_DROP_TAG, resource_id=row["id"], tag=req.params["tag"]):
                raise _no_tag(req.params["tag"])
            self._touched(act, row)

        self.act(req, body)


def _no_tag(name: str) -> Missing:
    return Missing("TagNotFound", f"Tag {name[:255]} could not be found.")


def _tags(tx: Tx, row_id: str) -> list[str]:
    return [r[0] for r in tx.all(_TAGS, resource_id=row_id)]


def _owner(req: Request, item: dict[str, Any]) -> str:
    given = {item.pop(k) for k in ("project_id", "tenant_id") if k in item}
    if len(given) > 1:
        raise Refused(
            "HTTPBadRequest",
            "'project_id' and 'tenant_id' have been specified with different values",
        )
    return str(given.pop()) if given else req.project()
