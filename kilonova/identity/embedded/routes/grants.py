"""Roles of users and groups on projects, domains and the system, and the list of all of them."""

from typing import Any

from kilonova.common.errors import BadRequest, Forbidden
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Handler, Route
from kilonova.identity.embedded import shapes, store
from kilonova.identity.embedded.records import (
    DomainRecords,
    domains,
    groups,
    projects,
    roles,
    users,
)
from kilonova.identity.embedded.routes.common import Json, Noun, Target, flag, require

_ACTORS: dict[str, DomainRecords] = {"user": users, "group": groups}


class Grants(Noun):
    """The handlers. Which actor and which target a path is about is seen from its parameters."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        out: list[Route] = []
        for place in ("projects/{project_id}", "domains/{domain_id}", "system"):
            for actor in ("user", "group"):
                out += self._of(place, actor)
        return out

    def _of(self, place: str, actor: str) -> list[Route]:
        many = f"/v3/{place}/{actor}s/{{{actor}_id}}/roles"
        one = many + "/{role_id}"
        system = place == "system"

        def rule(verb: str) -> str:
            if not system:
                return f"identity:{verb}_grant" + ("s" if verb == "list" else "")
            return (
                f"identity:{verb}_system_grant" + ("s" if verb == "list" else "") + f"_for_{actor}"
            )

        def route(method: str, path: str, handler: Handler, verb: str, success: int) -> Route:
            return Route(
                method,
                path,
                handler,
                rule(verb),
                success=success,
                errors=(401, 403, 404),
                target=None if system else self._facts,
            )

        return [
            route("GET", many, self.list, "list", 200),
            route("GET", one, self.check, "check", 204),
            route("PUT", one, self.give, "create", 204),
            route("DELETE", one, self.take, "revoke", 204),
        ]

    def _facts(self, req: Request) -> Target:
        def read(tx: Tx) -> Target:
            p, out = req.params, req.own()
            actor = (
                users.find(tx, p["user_id"]) if "user_id" in p else groups.find(tx, p["group_id"])
            )
            if actor is not None:
                out["target.actor.domain_id"] = actor["domain_id"]
            if "project_id" in p:
                project = projects.find(tx, p["project_id"])
                out["target.target.domain_id"] = (
                    project["domain_id"] if project is not None else None
                )
            else:
                out["target.target.domain_id"] = p["domain_id"]
            role = roles.find(tx, p.get("role_id", ""))
            if role is not None and role["domain_id"] == "":
                out["target.role.name"] = role["name"]
            return out

        return self.read(read)

    def _key(self, tx: Tx, req: Request) -> dict[str, str]:
        """Return who and on what. Raises NotFound for things that are not there."""
        p = req.params
        kind = "user" if "user_id" in p else "group"
        key = {"actor_kind": kind, "actor_id": _ACTORS[kind].get(tx, p[kind + "_id"])["id"]}
        if "project_id" in p:
            target = ("project", projects.get(tx, p["project_id"])["id"])
        elif "domain_id" in p:
            target = ("domain", domains.get(tx, p["domain_id"])["id"])
        else:
            target = ("system", "all")
        return {**key, "target_kind": target[0], "target_id": target[1]}

    def _full(self, tx: Tx, req: Request) -> dict[str, str]:
        return {**self._key(tx, req), "role_id": roles.get(tx, req.params["role_id"])["id"]}

    def list(self, req: Request) -> Json:
        """List the roles that an actor holds directly."""
        rows = self.read(lambda tx: store.direct_roles(tx, self._key(tx, req)))
        return shapes.many(req, "roles", map(shapes.role, rows))

    def check(self, req: Request) -> None:
        """Tell whether an actor holds a role directly."""
        there = self.read(lambda tx: store.has_assignment(tx, self._full(tx, req)))
        require(there, _NO_ROLE.format(**req.params))

    def give(self, req: Request) -> None:
        """Give a role."""

        def make(tx: Tx) -> None:
            key = self._full(tx, req)
            role = roles.get(tx, key["role_id"])
            if role["domain_id"]:
                target = (
                    projects.find(tx, key["target_id"]) if key["target_kind"] == "project" else None
                )
                owner = target["domain_id"] if target is not None else key["target_id"]
                if owner != role["domain_id"]:
                    raise Forbidden(
                        "A role of a domain can be given only on that domain and its projects."
                    )
            store.assign(tx, key)

        self.write(make)

    def take(self, req: Request) -> None:
        """Take a role away; tokens lose it at once."""
        there = self.write(lambda tx: store.unassign(tx, self._full(tx, req)))
        require(there, _NO_ROLE.format(**req.params))


_NO_ROLE = "Could not find role assignment with role: {role_id:.64}."


class Assignments(Noun):
    """GET /v3/role_assignments."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        return [
            Route(
                "GET",
                "/v3/role_assignments",
                self.list,
                "identity:list_role_assignments",
                errors=(400, 401, 403),
            )
        ]

    def list(self, req: Request) -> Json:
        """List who holds which role where; ``effective`` resolves groups and implied roles."""
        q = req.query
        effective, names = flag(req, "effective"), flag(req, "include_names")
        if effective and "group.id" in q:
            raise BadRequest(
                "Combining effective and group filter will always result in an empty list."
            )
        if q.get("scope.OS-INHERIT:inherited_to"):
            return shapes.many(req, "role_assignments", [])

        def read(tx: Tx) -> list[Json]:
            found = store.assignments(tx, _where(tx, req, effective))
            entries = [_Entry(r) for r in found]
            if effective:
                entries = _resolve(tx, entries)
                user, role = q.get("user.id"), q.get("role.id")
                entries = [
                    e
                    for e in entries
                    if (not user or e.actor_id == user) and (not role or e.role_id == role)
                ]
            if req.ctx.domain_id is not None:
                entries = [e for e in entries if e.domain(tx) == req.ctx.domain_id]
            look = _Names(tx) if names else None
            return [e.shape(req, look) for e in entries]

        return shapes.many(req, "role_assignments", self.read(read), linked=False)


class _Entry:
    """One line of the list. group: by which group a user holds it; prior: the role that implies it."""

    __slots__ = ("actor_id", "actor_kind", "group", "prior", "role_id", "target_id", "target_kind")

    def __init__(self, row: Row, group: str | None = None, prior: str | None = None) -> None:
        self.actor_kind: str = row["actor_kind"]
        self.actor_id: str = row["actor_id"]
        self.target_kind: str = row["target_kind"]
        self.target_id: str = row["target_id"]
        self.role_id: str = row["role_id"]
        self.group, self.prior = group, prior

    def with_(self, **changes: Any) -> "_Entry":
        """Return a changed copy."""
        out = _Entry.__new__(_Entry)
        for name in self.__slots__:
            setattr(out, name, changes.get(name, getattr(self, name)))
        return out

    def domain(self, tx: Tx) -> str | None:
        """Return the domain that the target is in; None for the system."""
        if self.target_kind == "domain":
            return self.target_id
        row = projects.find(tx, self.target_id) if self.target_kind == "project" else None
        return row["domain_id"] if row is not None else None

    def shape(self, req: Request, names: "_Names | None") -> Json:
        """Return the line as the API shows it."""
        place = ["system"]
        scope: Json = {"system": {"all": True}}
        if self.target_kind != "system":
            place = [self.target_kind + "s", self.target_id]
            scope = {self.target_kind: _ref(names, self.target_kind, self.target_id)}
        actor = self.group or self.actor_id
        kind = "group" if self.group else self.actor_kind
        links = {
            "assignment": shapes.link(
                req, *place, kind + "s", actor, "roles", self.prior or self.role_id
            )
        }
        if self.group:
            links["membership"] = shapes.link(req, "groups", self.group, "users", self.actor_id)
        if self.prior:
            links["prior_role"] = shapes.link(req, "roles", self.prior)
        return {
            "role": _ref(names, "role", self.role_id),
            self.actor_kind: _ref(names, self.actor_kind, self.actor_id),
            "scope": scope,
            "links": links,
        }


def _ref(names: "_Names | None", kind: str, id_: str) -> Json:
    return {"id": id_} if names is None else {"id": id_, **names.of(kind, id_)}


class _Names:
    """Names of things, each looked up once."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._kept: dict[tuple[str, str], Json] = {}

    def of(self, kind: str, id_: str) -> Json:
        """Return the name, with the domain where it has one."""
        key = (kind, id_)
        if key not in self._kept:
            self._kept[key] = self._look(kind, id_)
        return self._kept[key]

    def _look(self, kind: str, id_: str) -> Json:
        records = {"user": users, "group": groups, "project": projects, "role": roles}.get(
            kind, domains
        )
        row = records.find(self._tx, id_)
        if row is None:
            return {"name": ""}
        out: Json = {"name": row["name"]}
        if kind in ("user", "group", "project"):
            out["domain"] = {"id": row["domain_id"], **self.of("domain", row["domain_id"])}
        return out


def _where(tx: Tx, req: Request, effective: bool) -> dict[str, Any]:
    """Return the columns that the query fixes; who and which role are filtered later when they are resolved."""
    q = req.query
    out: dict[str, Any] = {}
    if not effective:
        if user := q.get("user.id"):
            out |= {"actor_kind": "user", "actor_id": user}
        if role := q.get("role.id"):
            out["role_id"] = role
    if group := q.get("group.id"):
        out |= {"actor_kind": "group", "actor_id": group}
    if project := q.get("scope.project.id"):
        from kilonova.identity.embedded.routes.projects import subtree_ids

        deep = flag(req, "include_subtree")
        out |= {
            "target_kind": "project",
            "target_id": subtree_ids(tx, project) if deep else project,
        }
    elif domain := q.get("scope.domain.id"):
        out |= {"target_kind": "domain", "target_id": domain}
    elif q.get("scope.system"):
        out |= {"target_kind": "system", "target_id": "all"}
    return out


def _resolve(tx: Tx, entries: list[_Entry]) -> list[_Entry]:
    """Replace groups by their members and add implied roles; each fact once."""
    rules = store.implications(tx)
    members: dict[str, list[str]] = {}
    out: dict[tuple[str, ...], _Entry] = {}
    for e in entries:
        people = [e]
        if e.actor_kind == "group":
            if e.actor_id not in members:
                members[e.actor_id] = [r["id"] for r in store.members(tx, e.actor_id)]
            people = [
                e.with_(actor_kind="user", actor_id=u, group=e.actor_id)
                for u in members[e.actor_id]
            ]
        for one in people:
            todo, seen = [one], {one.role_id}
            while todo:
                at = todo.pop()
                key = (at.actor_id, at.target_kind, at.target_id, at.role_id)
                out.setdefault(key, at)
                for implied in rules.get(at.role_id, ()):
                    if implied not in seen:
                        seen.add(implied)
                        todo.append(at.with_(role_id=implied, prior=at.role_id))
    whole = {r["id"] for r in roles.list(tx, {"domain_id": ""})}
    return [
        e for e in out.values() if e.role_id in whole
    ]  # a domain's role is not effective itself
