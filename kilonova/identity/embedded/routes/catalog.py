"""/v3/regions, services and endpoints. What this cloud itself offers is listed and cannot be changed here."""

from collections.abc import Sequence

from kilonova.common.errors import BadRequest, Conflict, Forbidden, NotFound
from kilonova.common.ids import new_hex
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Handler, Route
from kilonova.http.schema import Schema
from kilonova.identity.embedded import bodies, shapes
from kilonova.identity.embedded import catalog as catalogs
from kilonova.identity.embedded.catalog import REGION
from kilonova.identity.embedded.records import endpoints, regions, services
from kilonova.identity.embedded.routes.common import Json, Noun, equals, matching, truth

_SERVICE = ("type", "name", "description", "enabled")
_ENDPOINT = ("service_id", "interface", "url", "region", "region_id", "enabled")
_ERRORS = (400, 401, 403, 404, 409)


def _crud(noun: str, handlers: Sequence[Handler], create: Schema, update: Schema) -> list[Route]:
    """Return the five usual rows: list, create, show, update, delete."""
    many, one = f"/v3/{noun}s", f"/v3/{noun}s/{{{noun}_id}}"
    rows = [
        ("GET", many, f"list_{noun}s", 200, None),
        ("POST", many, f"create_{noun}", 201, create),
        ("GET", one, f"get_{noun}", 200, None),
        ("PATCH", one, f"update_{noun}", 200, update),
        ("DELETE", one, f"delete_{noun}", 204, None),
    ]
    return [
        Route(m, p, h, f"identity:{r}", success=ok, errors=_ERRORS, body=b)
        for (m, p, r, ok, b), h in zip(rows, handlers, strict=True)
    ]


class Regions(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        handlers = (self.list, self.create, self.show, self.update, self.delete)
        rows = _crud("region", handlers, bodies.REGION_CREATE, bodies.REGION_UPDATE)
        named = Route(
            "PUT",
            "/v3/regions/{region_id}",
            self.create,
            "identity:create_region",
            success=201,
            errors=_ERRORS,
            body=bodies.REGION_CREATE,
        )
        return [*rows, named]

    def list(self, req: Request) -> Json:
        """List regions."""
        rows = self.read(lambda tx: regions.list(tx, equals(req, "parent_region_id"), order="id"))
        return shapes.many(req, "regions", map(shapes.region, rows))

    def create(self, req: Request) -> Json:
        """Make a region, with an id of the caller's choice if one is given."""
        body = req.body["region"]
        id_ = req.params.get("region_id") or body.get("id") or new_hex()
        if not 1 <= len(id_) <= 255:
            raise BadRequest("Invalid input for field/attribute id: it has 1 to 255 characters.")

        def make(tx: Tx) -> Row:
            if regions.find(tx, id_) is not None:
                raise Conflict(
                    f"Conflict occurred attempting to store region - Duplicate ID, {id_}."
                )
            self._check_parent(tx, id_, body.get("parent_region_id"))
            regions.add(
                tx,
                {
                    "id": id_,
                    "description": body.get("description") or "",
                    "parent_region_id": body.get("parent_region_id"),
                },
            )
            return regions.get(tx, id_)

        return shapes.one(req, "regions", "region", shapes.region(self.write(make)))

    @staticmethod
    def _check_parent(tx: Tx, id_: str, parent_id: str | None) -> None:
        at = parent_id
        while at is not None:
            if at == id_:
                raise BadRequest(
                    "Invalid input for field/attribute parent_region_id: it makes a circle."
                )
            row = regions.find(tx, at)
            if row is None:
                raise BadRequest(
                    f"Invalid input for field/attribute parent_region_id. Value: {at}. There is no such region."
                )
            at = row["parent_region_id"]

    def show(self, req: Request) -> Json:
        """Show a region."""
        row = self.read(lambda tx: regions.get(tx, req.params["region_id"]))
        return shapes.one(req, "regions", "region", shapes.region(row))

    def update(self, req: Request) -> Json:
        """Change a region."""
        id_, body = req.params["region_id"], req.body["region"]

        def change(tx: Tx) -> Row:
            regions.get(tx, id_)
            values: Json = {}
            if "description" in body:
                values["description"] = body["description"] or ""
            if "parent_region_id" in body:
                self._check_parent(tx, id_, body["parent_region_id"])
                values["parent_region_id"] = body["parent_region_id"]
            return regions.change(tx, id_, values)

        return shapes.one(req, "regions", "region", shapes.region(self.write(change)))

    def delete(self, req: Request) -> None:
        """Delete a region that nothing is in."""
        id_ = req.params["region_id"]

        def remove(tx: Tx) -> None:
            if id_ == REGION:
                raise Forbidden("This region is where the cloud's own services are.")
            if endpoints.list(tx, {"region_id": id_}, order="id") or regions.list(
                tx, {"parent_region_id": id_}, order="id"
            ):
                raise Forbidden(
                    f"Unable to delete region {id_} because it or its children are in use."
                )
            regions.remove(tx, id_)

        self.write(remove)


class Services(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        handlers = (self.list, self.create, self.show, self.update, self.delete)
        return _crud("service", handlers, bodies.SERVICE_CREATE, bodies.SERVICE_UPDATE)

    def list(self, req: Request) -> Json:
        """List services."""
        found = self.read(lambda tx: catalogs.all_services(tx, self.identity.offers))
        for key in ("type", "name"):
            want = req.query.get(key)
            found = [s for s in found if want is None or s[key] == want]
        return shapes.many(req, "services", matching(req, found))

    def create(self, req: Request) -> Json:
        """Make a service."""
        body, id_ = req.body["service"], new_hex()

        def make(tx: Tx) -> Row:
            services.add(
                tx,
                {
                    "id": id_,
                    "type": body["type"],
                    "name": body.get("name", ""),
                    "description": body.get("description") or "",
                    "enabled": int(body.get("enabled", True)),
                    "extra": shapes.extra_of(body, _SERVICE),
                },
            )
            return services.get(tx, id_)

        record = catalogs.service_record(self.write(make))
        return shapes.one(req, "services", "service", record)

    def show(self, req: Request) -> Json:
        """Show a service."""
        id_ = req.params["service_id"]
        for s in self.read(lambda tx: catalogs.all_services(tx, self.identity.offers)):
            if s["id"] == id_:
                return shapes.one(req, "services", "service", s)
        raise NotFound(f"Could not find service: {id_[:64]}.")

    def _stored(self, tx: Tx, id_: str) -> Row:
        if any(o.id == id_ for o in self.identity.offers):
            raise Forbidden("This service is part of the cloud itself.")
        return services.get(tx, id_)

    def update(self, req: Request) -> Json:
        """Change a service."""
        id_, body = req.params["service_id"], req.body["service"]

        def change(tx: Tx) -> Row:
            row = self._stored(tx, id_)
            values: Json = {"extra": shapes.merged_extra(row, body, _SERVICE)}
            values |= {k: body[k] for k in ("type", "name") if k in body}
            if "description" in body:
                values["description"] = body["description"] or ""
            if "enabled" in body:
                values["enabled"] = int(body["enabled"])
            return services.change(tx, id_, values)

        record = catalogs.service_record(self.write(change))
        return shapes.one(req, "services", "service", record)

    def delete(self, req: Request) -> None:
        """Delete a service with its endpoints."""

        def remove(tx: Tx) -> None:
            id_ = self._stored(tx, req.params["service_id"])["id"]
            for e in endpoints.list(tx, {"service_id": id_}, order="id"):
                endpoints.remove(tx, e["id"])
            services.remove(tx, id_)

        self.write(remove)


class Endpoints(Noun):
    """The handlers."""

    def routes(self) -> list[Route]:
        """Return the rows of this noun."""
        handlers = (self.list, self.create, self.show, self.update, self.delete)
        return _crud("endpoint", handlers, bodies.ENDPOINT_CREATE, bodies.ENDPOINT_UPDATE)

    def list(self, req: Request) -> Json:
        """List endpoints."""
        found = self.read(lambda tx: catalogs.all_endpoints(tx, self.identity.offers))
        for key in ("service_id", "interface", "region_id", "region"):
            want = req.query.get(key)
            found = [e for e in found if want is None or e[key] == want]
        enabled = req.query.get("enabled")
        if enabled is not None:
            found = [e for e in found if e["enabled"] == truth(enabled)]
        return shapes.many(req, "endpoints", found)

    def _references(self, tx: Tx, body: Json) -> Json:
        """Return service and region of a body; a region named the old way is made. Raises BadRequest."""
        out: Json = {}
        if "service_id" in body:
            known = [s["id"] for s in catalogs.all_services(tx, self.identity.offers)]
            if body["service_id"] not in known:
                raise BadRequest(
                    f"Invalid input for field/attribute service_id. Value: {body['service_id']}. "
                    "There is no such service."
                )
            out["service_id"] = body["service_id"]
        region_id = body.get("region_id") or body.get("region")
        if region_id and regions.find(tx, region_id) is None:
            if body.get("region_id"):
                raise BadRequest(
                    f"Invalid input for field/attribute region_id. Value: {region_id}. There is no such region."
                )
            regions.add(tx, {"id": region_id, "description": "", "parent_region_id": None})
        if "region_id" in body or "region" in body:
            out["region_id"] = region_id
        return out

    def create(self, req: Request) -> Json:
        """Make an endpoint."""
        body, id_ = req.body["endpoint"], new_hex()

        def make(tx: Tx) -> Row:
            row = {
                "id": id_,
                "region_id": None,
                "interface": body["interface"],
                "url": body["url"],
                "enabled": int(body.get("enabled", True)),
                "extra": shapes.extra_of(body, _ENDPOINT),
            }
            endpoints.add(tx, row | self._references(tx, body))
            return endpoints.get(tx, id_)

        record = catalogs.endpoint_record(self.write(make))
        return shapes.one(req, "endpoints", "endpoint", record)

    def show(self, req: Request) -> Json:
        """Show an endpoint."""
        id_ = req.params["endpoint_id"]
        for e in self.read(lambda tx: catalogs.all_endpoints(tx, self.identity.offers)):
            if e["id"] == id_:
                return shapes.one(req, "endpoints", "endpoint", e)
        raise NotFound(f"Could not find endpoint: {id_[:64]}.")

    def _stored(self, tx: Tx, id_: str) -> Row:
        if any(e["id"] == id_ for o in self.identity.offers for e in o.endpoints()):
            raise Forbidden("This endpoint is part of the cloud itself.")
        return endpoints.get(tx, id_)

    def update(self, req: Request) -> Json:
        """Change an endpoint."""
        id_, body = req.params["endpoint_id"], req.body["endpoint"]

        def change(tx: Tx) -> Row:
            row = self._stored(tx, id_)
            values: Json = {"extra": shapes.merged_extra(row, body, _ENDPOINT)}
            values |= {k: body[k] for k in ("interface", "url") if k in body}
            if "enabled" in body:
                values["enabled"] = int(body["enabled"])
            return endpoints.change(tx, id_, values | self._references(tx, body))

        record = catalogs.endpoint_record(self.write(change))
        return shapes.one(req, "endpoints", "endpoint", record)

    def delete(self, req: Request) -> None:
        """Delete an endpoint."""
        id_ = req.params["endpoint_id"]
        self.write(lambda tx: endpoints.remove(tx, self._stored(tx, id_)["id"]))
