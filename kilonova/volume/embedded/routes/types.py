"""/types: volume types, their extra specs, who may use them, default types. No encryption is built."""

from typing import Any

import sqlalchemy as sa

from kilonova.common.errors import BadRequest, Conflict, NotFound, NotImplementedHere
from kilonova.common.ids import is_uuid, new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Json, Schema
from kilonova.volume.embedded import listing, view
from kilonova.volume.embedded.faults import invalid_input, missing
from kilonova.volume.embedded.routes.common import FLAG, TEXT, action_of, body_of, both, truth
from kilonova.volume.embedded.schema import default_type, type_access, volume_type
from kilonova.volume.embedded.store import types
from kilonova.volume.embedded.volumes import EmbeddedVolumes

_c = volume_type.c
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "\\S"}
_SPECS: Json = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[a-zA-Z0-9-_.: ]{1,255}$"},
    "additionalProperties": {"type": ["string", "null"], "maxLength": 255},
    "maxProperties": 128,
}
_CREATE = body_of(
    "volume_type",
    {
        "name": _NAME,
        "description": TEXT,
        "extra_specs": _SPECS,
        "os-volume-type-access:is_public": FLAG,
    },
    ["name"],
)
_UPDATE = body_of(
    "volume_type",
    {"name": {"anyOf": [{"type": "null"}, _NAME]}, "description": TEXT, "is_public": FLAG},
)
_ADD_SPECS = body_of("extra_specs", {}, more=True)
_PROJECT: Json = {"project": {"type": "string", "minLength": 1, "maxLength": 255}}
_DEFAULT = body_of("default_type", {"volume_type": _NAME}, ["volume_type"])
_X = "volume_extension:types_extra_specs:"
USER_VISIBLE = ("multiattach", "RESKEY:availability_zones", "replication_enabled")


class TypeRoutes:
    """Handlers of volume types."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        base, one = "/types", "/types/{type_id}"
        specs, spec = one + "/extra_specs", one + "/extra_specs/{key}"
        act, access = one + "/action", "volume_extension:volume_type_access:"
        add = action_of("addProjectAccess", _PROJECT, ["project"])
        remove = action_of("removeProjectAccess", _PROJECT, ["project"])
        default, errors = "/default-types/{project}", (400, 403, 404, 409)
        return [
            *both("GET", base, self.index, "volume_extension:type_get_all", errors=(400,)),
            *both("POST", base, self.create, "volume_extension:type_create", 200, errors, body=_CREATE),
            *both("GET", one, self.show, "volume_extension:type_get", errors=(404,)),
            *both("PUT", one, self.update, "volume_extension:type_update", 200, errors, body=_UPDATE),
            *both("DELETE", one, self.delete, "volume_extension:type_delete", 202, (400, 403, 404)),
            *both("GET", specs, self.specs, _X + "index", errors=(404,)),
            *both("POST", specs, self.add_specs, _X + "create", 200, errors, body=_ADD_SPECS),
            *both("GET", spec, self.spec, _X + "show", errors=(404,)),
            *both("PUT", spec, self.put_spec, _X + "update", 200, (400, 403, 404)),
            *both("DELETE", spec, self.drop_spec, _X + "delete", 202, (403, 404)),
            *both("GET", one + "/os-volume-type-access", self.access, access + "get_all_for_type", errors=(404,)),
            *both("POST", act, self.add_access, access + "addProjectAccess", 202, errors, body=add,
                  action="addProjectAccess"),
            *both("POST", act, self.remove_access, access + "removeProjectAccess", 202, errors, body=remove,
                  action="removeProjectAccess"),
            *both("GET", one + "/encryption", self.encryption,
                  "volume_extension:volume_type_encryption:get", errors=(404,)),
            *both("POST", one + "/encryption", self.encrypt,
                  "volume_extension:volume_type_encryption:create", 200, (404, 501)),
            *both("GET", "/default-types", self.defaults, "volume_extension:default_get_all", since=V(3, 62)),
            *both("GET", default, self.default, "volume_extension:default_get", errors=(404,), since=V(3, 62)),
            *both("PUT", default, self.set_default, "volume_extension:default_set_or_update", 200, errors,
                  since=V(3, 62), body=_DEFAULT),
            *both("DELETE", default, self.unset_default, "volume_extension:default_unset", 204, (404,),
                  since=V(3, 62)),
        ]  # fmt: skip

    def _full(self, tx: Tx, req: Request, row: Row) -> dict[str, Any]:
        """Return a type as ``show`` and lists have it."""
        return {**self._shown(tx, req, row), "qos_specs_id": None}

    def _shown(self, tx: Tx, req: Request, row: Row) -> dict[str, Any]:
        specs = types.specs_of(row)
        if not req.ctx.is_admin:
            specs = {k: v for k, v in specs.items() if k in USER_VISIBLE}
        return view.volume_type(row, specs)

    def _find(self, tx: Tx, req: Request) -> Row:
        given = req.params["type_id"]
        if given == "default":
            return types.default_for(tx, req.project())
        row = types.get(tx, given) if is_uuid(given) else None
        if row is None or not (req.ctx.is_admin or types.usable(tx, row, req.project())):
            raise missing("type", given)
        return row

    def index(self, req: Request) -> dict[str, Any]:
        """List the types that the caller may use; an administrator may ask for those that are not public."""
        noun = listing.Noun(
            volume_type,
            "volume_types",
            texts={"name": _c.name, "description": _c.description},
            sorts={"name": _c.name, "is_public": _c.is_public, "updated_at": _c.updated_at},
        )
        mine = sa.select(type_access.c.type_id).where(type_access.c.project_id == req.project())
        more: list[Any] = [sa.or_(_c.is_public == 1, _c.id.in_(mine))]
        if req.ctx.is_admin:
            asked = (req.query.get("is_public") or "true").lower()
            if asked in ("none", ""):
                more = []
            elif asked in ("false", "f", "0", "no"):
                more = [_c.is_public == 0]

        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, noun, more=more)
            return listing.answer(noun, found, [self._full(tx, req, r) for r in found.rows])

        return self.of.db.read(read)

    def create(self, req: Request) -> dict[str, Any]:
        """Make a type."""
        body = req.body["volume_type"]
        name = body["name"].strip()
        specs = {k: v or "" for k, v in (body.get("extra_specs") or {}).items()}

        def write(tx: Tx) -> dict[str, Any]:
            if types.find(tx, name) is not None:
                raise Conflict(f"Volume Type {name} already exists.")
            made, now = new_uuid(), self.of.clock.now()
            types.add(
                tx,
                id=made,
                name=name,
                description=body.get("description"),
                is_public=int(truth(body.get("os-volume-type-access:is_public", True))),
                extra_specs=view.packed(specs),
                created_at=now,
                updated_at=now,
            )
            return self._shown(tx, req, types.get(tx, made))

        return {"volume_type": self.of.db.write(write)}

    def show(self, req: Request) -> dict[str, Any]:
        """Show a type; ``default`` is that of the caller's project."""

        def read(tx: Tx) -> dict[str, Any]:
            return {"volume_type": self._full(tx, req, self._find(tx, req))}

        return self.of.db.read(read)

    def update(self, req: Request) -> dict[str, Any]:
        """Change a type's name, description or whether it is public."""
        body = req.body["volume_type"]
        changes: dict[str, Any] = {}
        if body.get("name"):
            changes["name"] = body["name"].strip()
        if "description" in body and body["description"] is not None:
            changes["description"] = body["description"]
        if "is_public" in body:
            changes["is_public"] = int(truth(body["is_public"]))
        if not changes:
            raise BadRequest(
                "Specify volume type name, description, is_public or a combination thereof."
            )

        def write(tx: Tx) -> dict[str, Any]:
            row = self._find(tx, req)
            other = types.find(tx, changes["name"]) if "name" in changes else None
            if other is not None and other["id"] != row["id"]:
                raise Conflict(f"Volume Type {changes['name']} already exists.")
            types.change(tx, row["id"], self.of.clock.now(), **changes)
            shown = self._shown(tx, req, types.get(tx, row["id"]))
            del shown["os-volume-type-access:is_public"]
            return shown

        return {"volume_type": self.of.db.write(write)}

    def delete(self, req: Request) -> None:
        """Delete a type that no volume has; never the default."""

        def write(tx: Tx) -> None:
            row = self._find(tx, req)
            if row["name"] == types.DEFAULT_NAME:
                raise BadRequest("The default volume type cannot be deleted.")
            if types.in_use(tx, row["id"]):
                raise BadRequest(
                    f"Target volume type is still in use. Volume type {row['id']} has volumes."
                )
            tx.change(sa.delete(default_type).where(default_type.c.type_id == row["id"]))
            types.drop(tx, row["id"])

        self.of.db.write(write)

    # -- extra specs

    def specs(self, req: Request) -> dict[str, Any]:
        """Show a type's extra specs."""
        return {"extra_specs": self.show(req)["volume_type"]["extra_specs"]}

    def _put(self, tx: Tx, req: Request, change: dict[str, str]) -> None:
        row = self._find(tx, req)
        if types.in_use(tx, row["id"]) and {"multiattach", "encryption"} & change.keys():
            raise BadRequest(
                f"Volume type {row['id']} is in use: its multiattach cannot be changed."
            )
        specs = {**types.specs_of(row), **change}
        types.change(tx, row["id"], self.of.clock.now(), extra_specs=view.packed(specs))

    def add_specs(self, req: Request) -> dict[str, Any]:
        """Add extra specs."""
        given = _checked(req.body["extra_specs"])
        self.of.db.write(lambda tx: self._put(tx, req, given))
        return {"extra_specs": given}

    def spec(self, req: Request) -> dict[str, Any]:
        """Show one extra spec."""
        have, key = self.specs(req)["extra_specs"], req.params["key"]
        if key not in have:
            raise NotFound(
                f"Volume Type {req.params['type_id'][:40]} has no extra specs with key {key[:255]}."
            )
        return {key: have[key]}

    def put_spec(self, req: Request) -> dict[str, Any]:
        """Set one extra spec."""
        key = req.params["key"]
        if not isinstance(req.body, dict) or list(req.body) != [key]:
            raise BadRequest("Request body and URI mismatch")
        given = _checked(req.body)
        self.of.db.write(lambda tx: self._put(tx, req, given))
        return given

    def drop_spec(self, req: Request) -> None:
        """Remove one extra spec."""
        key = req.params["key"]

        def write(tx: Tx) -> None:
            row = self._find(tx, req)
            specs = types.specs_of(row)
            if key not in specs:
                raise NotFound(f"Volume Type {row['id']} has no extra specs with key {key[:255]}.")
            del specs[key]
            types.change(tx, row["id"], self.of.clock.now(), extra_specs=view.packed(specs))

        self.of.db.write(write)

    # -- access

    def access(self, req: Request) -> dict[str, Any]:
        """List the projects that a type that is not public is for."""

        def read(tx: Tx) -> list[dict[str, str]]:
            row = self._find(tx, req)
            if row["is_public"]:
                raise NotFound("Access list not available for public volume types.")
            found = types.projects_of(tx, row["id"])
            return [{"volume_type_id": row["id"], "project_id": p} for p in found]

        return {"volume_type_access": self.of.db.read(read)}

    def _private(self, tx: Tx, req: Request) -> Row:
        row = self._find(tx, req)
        if row["is_public"]:
            raise Conflict("Type access modification is not applicable to public volume type.")
        return row

    def add_access(self, req: Request) -> None:
        """Let a project use a type."""
        project = req.body["addProjectAccess"]["project"]

        def write(tx: Tx) -> None:
            row = self._private(tx, req)
            if project in types.projects_of(tx, row["id"]):
                raise Conflict(
                    f"Volume type access for {row['id']} / {project} combination already exists."
                )
            tx.change(sa.insert(type_access).values(type_id=row["id"], project_id=project))

        self.of.db.write(write)

    def remove_access(self, req: Request) -> None:
        """Let a project not use a type any more."""
        project = req.body["removeProjectAccess"]["project"]

        def write(tx: Tx) -> None:
            row = self._private(tx, req)
            gone = sa.delete(type_access).where(
                type_access.c.type_id == row["id"], type_access.c.project_id == project
            )
            if not tx.change(gone):
                raise NotFound(
                    f"Volume type access not found for {row['id']} / {project} combination."
                )

        self.of.db.write(write)

    def encryption(self, req: Request) -> dict[str, Any]:
        """Say how volumes of a type are encrypted: they are not."""
        self.of.db.read(lambda tx: self._find(tx, req))
        return {}

    def encrypt(self, req: Request) -> None:
        """Refuse it: volumes here are not encrypted."""
        self.of.db.read(lambda tx: self._find(tx, req))
        raise NotImplementedHere("This cloud cannot encrypt volumes.")

    # -- default types

    def defaults(self, req: Request) -> dict[str, Any]:
        """List the default types of projects that have one."""
        rows = self.of.db.read(lambda tx: tx.select(sa.select(default_type)))
        return {
            "default_types": [
                {"project_id": r["project_id"], "volume_type_id": r["type_id"]} for r in rows
            ]
        }

    def default(self, req: Request) -> dict[str, Any]:
        """Show a project's default type."""
        project = req.params["project"]
        statement = sa.select(default_type).where(default_type.c.project_id == project)
        rows = self.of.db.read(lambda tx: tx.select(statement))
        if not rows:
            raise NotFound(f"Default type for project {project[:64]} not found.")
        return {"default_type": {"project_id": project, "volume_type_id": rows[0]["type_id"]}}

    def set_default(self, req: Request) -> dict[str, Any]:
        """Set a project's default type."""
        project, wanted = req.params["project"], req.body["default_type"]["volume_type"]
        if len(project) > 64:
            raise invalid_input("project_id is too long.")

        def write(tx: Tx) -> str:
            row = types.get(tx, wanted)
            tx.change(sa.delete(default_type).where(default_type.c.project_id == project))
            tx.change(sa.insert(default_type).values(project_id=project, type_id=row["id"]))
            return str(row["id"])

        type_id = self.of.db.write(write)
        return {"default_type": {"project_id": project, "volume_type_id": type_id}}

    def unset_default(self, req: Request) -> None:
        """Forget a project's default type."""
        project = req.params["project"]
        statement = sa.delete(default_type).where(default_type.c.project_id == project)
        if not self.of.db.write(lambda tx: tx.change(statement)):
            raise NotFound(f"Default type for project {project[:64]} not found.")


_ONLY_SPECS = Schema(_SPECS)


def _checked(given: dict[str, Any]) -> dict[str, str]:
    _ONLY_SPECS.check(given)
    return {k: v or "" for k, v in given.items()}
