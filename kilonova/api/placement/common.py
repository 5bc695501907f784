"""What the handlers of the Placement API share: the query language, answers with Last-Modified, schemas' parts."""

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, TypeVar

from kilonova.common.errors import BadRequest, NotFound
from kilonova.common.ids import canonical_uuid, is_uuid
from kilonova.db.engine import Database, Tx
from kilonova.http.microversion import V
from kilonova.http.request import Request, Response
from kilonova.placement import names, providers
from kilonova.placement.providers import Provider

T = TypeVar("T")
CLASS = "^[A-Z0-9_]+$"
UUID = "^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$"
TRAIT = "^[A-Z0-9_]+$"
MAX_INT = names.MAX_UNIT


class BadQuery(BadRequest):
    """A query parameter has a value that nothing can be done with."""

    code = "bad_query"
    placement_code = "placement.query.bad_value"


class RepeatedQuery(BadRequest):
    """A query parameter that may be given once was given twice."""

    code = "repeated_query"
    placement_code = "placement.query.duplicate_key"


def database(req: Request) -> Database:
    """Return the global database."""
    db: Database = req.cloud.world
    return db


def now(req: Request) -> float:
    """Return the time."""
    value: float = req.cloud.clock.now()
    return value


def read(req: Request, fn: Callable[[Tx], T]) -> T:
    """Run ``fn`` on a snapshot."""
    return database(req).read(fn)


def write(req: Request, fn: Callable[[Tx], T]) -> T:
    """Run ``fn`` in a transaction."""
    return database(req).write(fn)


def answer(
    req: Request,
    body: Any,
    *,
    modified: float | None = None,
    status: int | None = None,
    **headers: str,
) -> Response:
    """Return an answer; from 1.15 on it says when the thing changed and that it is not to be cached."""
    out = {k.replace("_", "-").title(): v for k, v in headers.items()}
    if req.version >= V(1, 15):
        out["Last-Modified"] = formatdate(
            modified if modified is not None else time.time(), usegmt=True
        )
        out["Cache-Control"] = "no-cache"
    return Response(body=body, status=status, headers=out)


def provider_of(req: Request, tx: Tx) -> Provider:
    """Return the provider that the path names. Raises NotFound."""
    given = req.params["uuid"]
    if not is_uuid(given):
        raise NotFound(f"No resource provider with uuid {given[:60]} found")
    return providers.get(tx, canonical_uuid(given))


def url_of(req: Request, uuid: str, *parts: str) -> str:
    """Return the path of a provider, as Placement gives it: without scheme and host."""
    base = "/" + req.base.removeprefix(req.root).strip("/")
    return "/".join([base.rstrip("/"), "resource_providers", uuid, *parts])


def only(req: Request, allowed: Iterable[str], many: Iterable[str] = ()) -> None:
    """Refuse query parameters that this version does not have, and repeated ones other than ``many``."""
    known, repeatable = frozenset(allowed), frozenset(many)
    for name in req.query.names():
        if name not in known:
            raise BadRequest(
                f"Invalid query string parameters: Additional properties are not allowed ('{name[:60]}' was unexpected)"
            )
        if name not in repeatable and len(req.query.all(name)) > 1:
            raise RepeatedQuery(f"Query parameter {name} may be given once only.")


def resources(text: str) -> dict[str, int]:
    """Parse ``VCPU:2,MEMORY_MB:512``."""
    out: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"([A-Z0-9_]+):([0-9]{1,10})", part.strip())
        if found is None:
            raise BadQuery(
                "Badly formed resources parameter. Expected resources query string parameter in form: "
                f"?resources=VCPU:2,MEMORY_MB:1024. Got: {text[:200]}."
            )
        amount = int(found[2])
        if amount < 1:
            raise BadQuery("Requested resource amounts must be at least 1.")
        out[found[1]] = amount
    return out


def required(
    values: Iterable[str], *, forbidden: bool, any_of: bool
) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """Parse ``A,!B`` and ``in:A,B`` into (each any-of, forbidden), as far as the version has them."""
    wanted: list[frozenset[str]] = []
    unwanted: set[str] = set()
    for text in values:
        if any_of and text.startswith("in:"):
            parts = [p.strip() for p in text[3:].split(",")]
            if not all(parts) or any(p.startswith("!") for p in parts):
                raise _bad_traits(text)
            wanted.append(frozenset(parts))
            continue
        for part in (p.strip() for p in text.split(",")):
            if part.startswith("!") and forbidden:
                unwanted.add(part[1:])
            elif not part or part.startswith(("!", "in:")):
                raise _bad_traits(text)
            else:
                wanted.append(frozenset({part}))
    both = sorted(unwanted & {t for w in wanted if len(w) == 1 for t in w})
    if both:
        raise BadQuery(f"These traits are both required and forbidden: {', '.join(both)}.")
    return tuple(wanted), frozenset(unwanted)


def _bad_traits(text: str) -> BadQuery:
    return BadQuery(
        f"Invalid query string parameters: expected 'required' to be traits, got {text[:200]}."
    )


def member_of(
    values: Iterable[str], *, forbidden: bool
) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """Parse ``uuid``, ``in:uuid,uuid`` and, from 1.32 on, ``!uuid`` and ``!in:…``."""
    wanted: list[frozenset[str]] = []
    unwanted: set[str] = set()
    for text in values:
        rest, no = (text[1:], True) if text.startswith("!") and forbidden else (text, False)
        parts = rest[3:].split(",") if rest.startswith("in:") else [rest]
        if not all(is_uuid(p) for p in parts):
            raise BadQuery(
                f"Expected 'member_of' parameter to contain valid UUID(s), got {text[:200]}."
            )
        found = frozenset(canonical_uuid(p) for p in parts)
        if no:
            unwanted |= found
        else:
            wanted.append(found)
    return tuple(wanted), frozenset(unwanted)


def tree(text: str) -> str:
    """Parse ``in_tree``."""
    if not is_uuid(text):
        raise BadQuery(f"Expected 'in_tree' parameter to be a UUID, got {text[:60]}.")
    return canonical_uuid(text)
