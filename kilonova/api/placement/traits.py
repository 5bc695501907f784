"""/traits, and /resource_providers/{uuid}/traits (1.6)."""

from kilonova.api.placement import common
from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.placement import providers, traits

_SET = Schema(
    {
        "type": "object",
        "properties": {
            "resource_provider_generation": {"type": "integer"},
            "traits": {
                "type": "array",
                "items": {"type": "string", "pattern": common.TRAIT, "maxLength": 255},
                "uniqueItems": True,
            },
        },
        "required": ["resource_provider_generation", "traits"],
        "additionalProperties": False,
    }
)


def list_(req: Request) -> Response:
    """List traits; filters name=in:A,B, name=startswith:P, associated=true|false."""
    common.only(req, {"name", "associated"})
    associated = req.query.get("associated")
    if associated is not None and associated.lower() not in ("true", "false"):
        raise BadRequest('The query parameter "associated" only accepts "true" or "false"')

    def found(tx: Tx) -> list[str]:
        out = traits.every(tx)
        name = req.query.get("name")
        if name is not None:
            op, sep, value = name.partition(":")
            if not sep or op not in ("in", "startswith"):
                raise BadRequest(
                    "Badly formatted name parameter. Expected name query string parameter in form: "
                    f"?name=[in|startswith]:[name1,name2|prefix]. Got: {name[:200]!r}"
                )
            among = frozenset(value.split(","))
            out = [t for t in out if (t in among if op == "in" else t.startswith(value))]
        if associated is not None:
            used, wanted = traits.in_use(tx), associated.lower() == "true"
            out = [t for t in out if (t in used) == wanted]
        return out

    return common.answer(req, {"traits": common.read(req, found)})


def show(req: Request) -> Response:
    """204 when the trait exists."""
    name = req.params["name"]
    if not common.read(req, lambda tx: traits.exists(tx, name)):
        raise NotFound(f"No such trait {name[:60]}.")
    return common.answer(req, None)


def make(req: Request) -> Response:
    """Make a CUSTOM_ trait: 201, or 204 when it is there."""
    name = req.params["name"]
    if not name.startswith("CUSTOM_"):
        raise BadRequest(
            "The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix "
            '"CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"'
        )
    made = common.write(req, lambda tx: traits.make(tx, name, common.now(req)))
    where = "/" + req.base.removeprefix(req.root).strip("/") + "/traits/" + name
    return common.answer(req, None, status=201 if made else 204, location=where)


def forget(req: Request) -> None:
    """Delete a CUSTOM_ trait that no provider has."""
    common.write(req, lambda tx: traits.forget(tx, req.params["name"]))


def list_of(req: Request) -> Response:
    """List a provider's traits."""

    def found(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        body = {"traits": sorted(traits.of(tx, p.id)), "resource_provider_generation": p.generation}
        return common.answer(req, body, modified=p.changed_at)

    return common.read(req, found)


def set_of(req: Request) -> Response:
    """Make a provider's traits exactly these."""

    def change(tx: Tx) -> Response:
        p = common.provider_of(req, tx)
        wanted = frozenset(req.body["traits"])
        generation = providers.bump(
            tx, p, common.now(req), req.body["resource_provider_generation"]
        )
        traits.check(tx, wanted)
        traits.replace(tx, p.id, wanted)
        body = {"traits": sorted(wanted), "resource_provider_generation": generation}
        return common.answer(req, body)

    return common.write(req, change)


def clear_of(req: Request) -> None:
    """Take all traits from a provider."""

    def change(tx: Tx) -> None:
        p = common.provider_of(req, tx)
        if traits.replace(tx, p.id, frozenset()):
            providers.touch(tx, p.id, common.now(req))

    common.write(req, change)


_OF = "/resource_providers/{uuid}/traits"
_P, _PT = "placement:resource_providers:traits:", "placement:traits:"
ROUTES = (
    Route("GET", "/traits", list_, _PT + "list", since=V(1, 6), errors=(400,)),
    Route("GET", "/traits/{name}", show, _PT + "show", success=204, since=V(1, 6), errors=(404,)),
    Route(
        "PUT", "/traits/{name}", make, _PT + "update", success=201, since=V(1, 6), errors=(204, 400)
    ),
    Route(
        "DELETE",
        "/traits/{name}",
        forget,
        _PT + "delete",
        success=204,
        since=V(1, 6),
        errors=(400, 404, 409),
    ),
    Route("GET", _OF, list_of, _P + "list", since=V(1, 6), errors=(404,)),
    Route("PUT", _OF, set_of, _P + "update", since=V(1, 6), body=_SET, errors=(400, 404, 409)),
    Route("DELETE", _OF, clear_of, _P + "delete", success=204, since=V(1, 6), errors=(404,)),
)
