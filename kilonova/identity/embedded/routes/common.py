"""What the handlers of several nouns share: filters of lists, policy targets, checks of names."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.identity.embedded.identity import DEFAULT_DOMAIN, EmbeddedIdentity
from kilonova.identity.embedded.records import Records, domains

Json = dict[str, Any]
Target = dict[str, object]
T = TypeVar("T")
_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "contains": lambda have, want: want in have,
    "startswith": lambda have, want: have.startswith(want),
    "endswith": lambda have, want: have.endswith(want),
}


class Noun:
    """The handlers of one noun."""

    def __init__(self, identity: EmbeddedIdentity) -> None:
        self.identity = identity

    def read(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` on one snapshot."""
        return self.identity.read(fn)

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run ``fn`` in a write transaction."""
        return self.identity.write(fn)

    def target_of(
        self, records: Records, noun: str, param: str | None = None
    ) -> Callable[[Request], Target]:
        """Return a policy target made from the thing that the path names; empty when there is none."""
        name = param or f"{noun}_id"

        def target(req: Request) -> Target:
            return self.facts(req, records, noun, req.params[name])

        return target

    def facts(self, req: Request, records: Records, noun: str, id_: str) -> Target:
        """Return ``target.<noun>.id`` and ``domain_id`` with what the caller itself is."""
        row = self.read(lambda tx: records.find(tx, id_))
        out = req.own()
        if row is not None:
            out[f"target.{noun}.id"] = row["id"]
            if "domain_id" in records.table.c:
                out[f"target.{noun}.domain_id"] = row["domain_id"]
        return out

    def new_in_domain(self, noun: str) -> Callable[[Request], Target]:
        """Return a policy target for something that is about to be made in a domain."""

        def target(req: Request) -> Target:
            return {**req.own(), f"target.{noun}.domain_id": home(req, inner(req.body, noun))}

        return target


def inner(body: Any, noun: str) -> Json:
    """Return what is wrapped in a body that was not checked yet."""
    found = body.get(noun) if isinstance(body, dict) else None
    return found if isinstance(found, dict) else {}


def home(req: Request, body: Json) -> str:
    """Return the domain of a new thing: the one named, else the caller's."""
    named = body.get("domain_id")
    if isinstance(named, str):
        return named
    return req.ctx.domain_id or req.ctx.project_domain_id or DEFAULT_DOMAIN


def require_domain(tx: Tx, domain_id: str) -> Row:
    """Return the domain that a body names. Raises NotFound when there is none, as Keystone does."""
    row = domains.find(tx, domain_id)
    if row is None:
        raise NotFound(f"Could not find domain: {domain_id[:64]}. It is named by domain_id.")
    return row


def checked_domain(tx: Tx, domain_id: str) -> Row:
    """The same for projects, whose domain is a parent of theirs: BadRequest names the field."""
    row = domains.find(tx, domain_id)
    if row is None:
        raise BadRequest(
            f"Invalid input for field/attribute domain_id. Value: {domain_id[:64]}. Could not find domain."
        )
    return row


def refuse_move(body: Json, row: Row) -> None:
    """Raise BadRequest when an update names another domain."""
    if "domain_id" in body and body["domain_id"] != row["domain_id"]:
        raise BadRequest("Invalid input for field/attribute domain_id: it cannot be changed.")


def refuse_options(body: Json, allowed: Iterable[str] = ()) -> None:
    """Raise BadRequest for an option that would have an effect here that we do not give it."""
    for option, value in (body.get("options") or {}).items():
        if value not in (None, False, []) and option not in allowed:
            raise BadRequest(
                f"Invalid input for field/attribute options: {option[:64]} is not supported here."
            )


def domain_filter(req: Request) -> Json:
    """Return the domain that a list is cut to: the caller's own when its token is of a domain."""
    asked = req.query.get("domain_id")
    own = req.ctx.domain_id
    if own is not None:
        return {"domain_id": own if asked in (None, own) else ""}
    return {"domain_id": asked} if asked else {}


def truth(text: str) -> bool:
    """Read a boolean of a query as Keystone does: 0 and false in any case are false, all else is true."""
    return text.lower() not in ("0", "false", "off", "no")


def flag(req: Request, name: str) -> bool:
    """Tell whether a query asks for something by naming it (``effective``, ``effective=true``)."""
    value = req.query.get(name)
    return value is not None and truth(value)


def equals(req: Request, *columns: str) -> Json:
    """Return the filters of a query that name columns; ``enabled`` is read as a boolean."""
    out: Json = {}
    for c in columns:
        value = req.query.get(c)
        if value is not None:
            out[c] = int(truth(value)) if c == "enabled" else value
    return out


def matching(req: Request, rows: Iterable[Row]) -> list[Row]:
    """Keep the rows that the query's inexact name filters (``name__icontains=x``) let through."""
    kept = list(rows)
    for key, want in req.query.pairs:
        column, sep, how = key.partition("__")
        if column != "name" or not sep:
            continue
        folded = how.startswith("i")
        match = _MATCHES.get(how.removeprefix("i"))
        if match is not None:
            want_ = want.lower() if folded else want
            kept = [r for r in kept if match(r["name"].lower() if folded else r["name"], want_)]
    return kept


def require(found: bool, message: str) -> None:
    """Raise NotFound unless ``found``."""
    if not found:
        raise NotFound(message)
