"""/v3/projects and their tags."""

from collections.abc import Iterable

import msgspec

from kilonova.common.errors import BadRequest, Forbidden
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.identity.embedded import bodies, shapes, store
from kilonova.identity.embedded.identity import DEFAULT_DOMAIN
from kilonova.identity.embedded.records import domains, projects
from kilonova.identity.embedded.routes.common import (
    Json,
    Noun,
    Target,
    checked_domain,
    domain_filter,
    equals,
    home,
    inner,
    matching,
    refuse_move,
    refuse_options,
    require,
    truth,
)

_KNOWN = (
    "name",
    "description",
    "enabled",
    "domain_id",
    "parent_id",
    "is_domain",
    "tags",
    "options",
)
DEEPEST = 5


class Projects(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        one = "/v3/projects/{project_id}"
        target = self.target_of(projects, "project")
        errors = (400, 401, 403, 404, 409)
        return [
            Route(
                "GET", "/v3/projects", self.list, "identity:list_projects", errors=(400, 401, 403)
            ),
            Route(
                "POST",
                "/v3/projects",
                self.create,
                "identity:create_project",
                success=201,
                errors=errors,
                body=bodies.PROJECT_CREATE,
                target=self._new,
            ),
            Route("GET", one, self.show, "identity:get_project", errors=errors, target=target),
            Route(
                "PATCH",
                one,
                self.update,
                "identity:update_project",
                errors=errors,
                body=bodies.PROJECT_UPDATE,
                target=target,
            ),
            Route(
                "DELETE",
                one,
                self.delete,
                "identity:delete_project",
                success=204,
                errors=errors,
                target=target,
            ),
            *self._tag_routes(one),
        ]

    def _tag_routes(self, one: str) -> list[Route]:
        target = self.target_of(projects, "project")
        tag = one + "/tags/{tag}"
        errors = (400, 401, 403, 404)
        return [
            Route("GET", one + "/tags", self.tags, "identity:list_project_tags", target=target),
            Route(
                "PUT",
                one + "/tags",
                self.set_tags,
                "identity:update_project_tags",
                errors=errors,
                body=bodies.PROJECT_TAGS,
                target=target,
            ),
            Route(
                "DELETE",
                one + "/tags",
                self.clear_tags,
                "identity:delete_project_tags",
                success=204,
                errors=errors,
                target=target,
            ),
            Route(
                "GET",
                tag,
                self.check_tag,
                "identity:get_project_tag",
                success=204,
                errors=errors,
                target=target,
            ),
            Route(
                "PUT",
                tag,
                self.add_tag,
                "identity:create_project_tag",
                success=201,
                errors=errors,
                target=target,
            ),
            Route(
                "DELETE",
                tag,
                self.remove_tag,
                "identity:delete_project_tag",
                success=204,
                errors=errors,
                target=target,
            ),
        ]

    def _new(self, req: Request) -> Target:
        return {
            **req.own(),
            "target.project.domain_id": self._home(req, inner(req.body, "project")),
        }

    def _home(self, req: Request, body: Json) -> str:
        """Return the domain of a new project: named, else its parent's, else the caller's."""
        parent = body.get("parent_id")
        if not isinstance(body.get("domain_id"), str) and isinstance(parent, str):
            row = self.read(lambda tx: projects.find(tx, parent))
            return str(row["domain_id"]) if row is not None else parent
        return home(req, body)

    def list(self, req: Request) -> Json:
        """List projects."""
        where = equals(req, "name", "enabled", "parent_id") | domain_filter(req)
        if truth(req.query.get("is_domain") or "0"):
            return shapes.many(req, "projects", [])
        rows = matching(req, self.read(lambda tx: projects.list(tx, where)))
        return shapes.many(req, "projects", _tagged(req, map(shapes.project, rows)))

    def create(self, req: Request) -> Json:
        """Make a project."""
        body = req.body["project"]
        refuse_options(body)
        domain_id = self._home(req, body)
        id_ = new_hex()

        def make(tx: Tx) -> Row:
            checked_domain(tx, domain_id)
            parent_id = body.get("parent_id") or domain_id
            if parent_id != domain_id:
                _check_parent(tx, parent_id, domain_id)
            projects.require_free_name(tx, body["name"], domain_id)
            projects.add(
                tx,
                {
                    "id": id_,
                    "name": body["name"],
                    "domain_id": domain_id,
                    "parent_id": parent_id,
                    "description": body.get("description") or "",
                    "enabled": int(body.get("enabled", True)),
                    "generation": 0,
                    "tags": msgspec.json.encode(body.get("tags", [])).decode(),
                    "extra": shapes.extra_of(body, _KNOWN),
                },
            )
            return projects.get(tx, id_)

        return shapes.one(req, "projects", "project", shapes.project(self.write(make)))

    def show(self, req: Request) -> Json:
        """Show a project; with ``parents_as_ids`` or ``subtree_as_ids``, also what is above or below it."""

        def read(tx: Tx) -> Json:
            row = projects.get(tx, req.params["project_id"])
            out = shapes.project(row)
            if "parents_as_ids" in req.query:
                out["parents"] = _parents(tx, row)
            if "subtree_as_ids" in req.query:
                out["subtree"] = _subtree(tx, row["id"])
            return out

        return shapes.one(req, "projects", "project", self.read(read))

    def update(self, req: Request) -> Json:
        """Change a project; when it is disabled its tokens die."""
        id_, body = req.params["project_id"], req.body["project"]
        refuse_options(body)

        def change(tx: Tx) -> Row:
            row = projects.get(tx, id_)
            refuse_move(body, row)
            if body.get("parent_id", row["parent_id"]) != row["parent_id"]:
                raise Forbidden("Update of `parent_id` is not allowed.")
            values: Json = {"extra": shapes.merged_extra(row, body, _KNOWN)}
            if "name" in body:
                projects.require_free_name(tx, body["name"], row["domain_id"], id_)
                values["name"] = body["name"]
            if "description" in body:
                values["description"] = body["description"] or ""
            if "tags" in body:
                values["tags"] = msgspec.json.encode(body["tags"]).decode()
            if "enabled" in body:
                values |= _switch(tx, row, body["enabled"])
            return projects.change(tx, id_, values)

        return shapes.one(req, "projects", "project", shapes.project(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a project that has none below it."""
        id_ = req.params["project_id"]

        def remove(tx: Tx) -> None:
            row = projects.get(tx, id_)
            _refuse_own(row)
            if projects.list(tx, {"parent_id": id_}):
                raise Forbidden(
                    f"Cannot delete the project {id_} since it is not a leaf in the hierarchy."
                )
            store.remove_project(tx, id_)

        self.write(remove)

    # -- tags -------------------------------------------------------------------------------------------------------

    def tags(self, req: Request) -> Json:
        """List a project's tags."""
        row = self.read(lambda tx: projects.get(tx, req.params["project_id"]))
        return self._tag_answer(req, shapes.project(row)["tags"])

    def _tag_answer(self, req: Request, tags: Iterable[str]) -> Json:
        return {
            "tags": list(tags),
            "links": {"self": f"{req.root}{req.path}", "next": None, "previous": None},
        }

    def _change_tags(
        self, req: Request, tags: Iterable[str] | None, plus: str = "", minus: str = ""
    ) -> None:
        def change(tx: Tx) -> None:
            row = projects.get(tx, req.params["project_id"])
            kept: list[str] = msgspec.json.decode(row["tags"]) if tags is None else list(tags)
            if minus:
                require(minus in kept, f"Could not find project tag: {minus[:64]}.")
                kept.remove(minus)
            if plus and plus not in kept:
                kept.append(plus)
                if not bodies.PROJECT_TAGS.fits({"tags": kept}):
                    raise BadRequest(f"Invalid input for field/attribute tags: {plus[:64]}")
            projects.change(tx, row["id"], {"tags": msgspec.json.encode(kept).decode()})

        self.write(change)

    def set_tags(self, req: Request) -> Json:
        """Replace a project's tags."""
        self._change_tags(req, req.body["tags"])
        return self._tag_answer(req, req.body["tags"])

    def clear_tags(self, req: Request) -> None:
        """Remove all tags of a project."""
        self._change_tags(req, [])

    def check_tag(self, req: Request) -> None:
        """Tell whether a project has a tag."""
        row = self.read(lambda tx: projects.get(tx, req.params["project_id"]))
        tag = req.params["tag"]
        require(tag in shapes.project(row)["tags"], f"Could not find project tag: {tag[:64]}.")

    def add_tag(self, req: Request) -> None:
        """Give a project a tag."""
        self._change_tags(req, None, plus=req.params["tag"])

    def remove_tag(self, req: Request) -> None:
        """Take a tag from a project."""
        self._change_tags(req, None, minus=req.params["tag"])


def _refuse_own(row: Row) -> None:
    if row["name"] == "service" and row["domain_id"] == DEFAULT_DOMAIN:
        raise Forbidden(
            "This project belongs to the cloud itself; it can be neither disabled nor deleted."
        )


def _check_parent(tx: Tx, parent_id: str, domain_id: str) -> None:
    parent = projects.find(tx, parent_id)
    if parent is None or parent["domain_id"] != domain_id:
        raise BadRequest(
            f"Invalid input for field/attribute parent_id. Value: {parent_id}. "
            "There is no such project in the project's domain."
        )
    if not parent["enabled"]:
        raise Forbidden("Cannot create a project below one that is disabled.")
    depth, above = 2, parent
    while (up := projects.find(tx, above["parent_id"])) is not None:
        depth, above = depth + 1, up
    if depth > DEEPEST:
        raise Forbidden(
            f"Max hierarchy depth reached: at most {DEEPEST} projects below each other."
        )


def _switch(tx: Tx, row: Row, enabled: bool) -> Json:
    """Return the columns that enabling or disabling sets. Raises Forbidden when relatives do not allow it."""
    if enabled:
        parent = projects.find(tx, row["parent_id"])
        if parent is not None and not parent["enabled"]:
            raise Forbidden("Cannot enable a project whose parent is disabled.")
        return {"enabled": 1}
    _refuse_own(row)
    if projects.list(tx, {"parent_id": row["id"], "enabled": 1}):
        raise Forbidden("Cannot disable a project whose subtree contains enabled projects.")
    more = 1 if row["enabled"] else 0
    return {"enabled": 0, "generation": row["generation"] + more}


def _parents(tx: Tx, row: Row) -> Json | None:
    above = projects.find(tx, row["parent_id"])
    if above is None:
        domain = domains.find(tx, row["domain_id"])
        return {domain["id"]: None} if domain is not None else None
    return {above["id"]: _parents(tx, above)}


def _subtree(tx: Tx, project_id: str) -> Json | None:
    below = projects.list(tx, {"parent_id": project_id})
    return {r["id"]: _subtree(tx, r["id"]) for r in below} or None


def subtree_ids(tx: Tx, project_id: str) -> list[str]:
    """Return the ids of a project and all below it."""
    out, todo = [], [project_id]
    while todo:
        at = todo.pop()
        out.append(at)
        todo += [r["id"] for r in projects.list(tx, {"parent_id": at})]
    return out


def _tagged(req: Request, records: Iterable[Json]) -> list[Json]:
    """Keep the projects that the query's tag filters let through."""

    def asked(name: str) -> set[str] | None:
        text = req.query.get(name)
        return set(text.split(",")) if text else None

    every, some = asked("tags"), asked("tags-any")
    not_every, not_some = asked("not-tags"), asked("not-tags-any")
    return [
        r
        for r in records
        if (every is None or every <= set(r["tags"]))
        and (some is None or some & set(r["tags"]))
        and (not_every is None or not not_every <= set(r["tags"]))
        and (not_some is None or not not_some & set(r["tags"]))
    ]
