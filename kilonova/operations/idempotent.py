"""``Idempotency-Key``: a request that is sent again is done once, and answered as it was the first time.

The key is reserved, with the body's digest and the ids that the request will use, before anything is accepted. A
request that is refused gives its key back: nothing was done. Answers are kept sealed, since they may hold a password;
they go with the key after 24 hours. Whoever dies in between leaves a reservation that a retry takes over, with the
same ids:

    record      everything the request changes is in the global database: its writes and the answer are one transaction
    operation   the operation that is accepted has the reserved id (``ctx.operation``): a retry finds it in a journal
    own         the handler keeps the answer in the transaction that accepts (POST /servers)
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, KilonovaError, Unprocessable
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import idempotency as db
from kilonova.db.engine import Collision, Row, Tx
from kilonova.objects.base import decode
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import find

HEADER = "idempotency-key"
RECORD_TRIES = 10
BUSY_S = 10.0  # a reservation that is older has lost its owner
_ANSWER = "idempotent_answer"


class KeyInUse(Conflict):
    """The same request is being worked on right now; ask again in a second."""

    headers = {"Retry-After": "1"}


@dataclass(frozen=True)
class Replay:
    """An answer that was given before."""

    status: int
    body: bytes
    location: str | None


@dataclass(frozen=True)
class Given:
    """An answer to keep. told_once: why a retry does not get it again (a private key, say): it gets 409 and this."""

    status: int
    body: bytes = b""
    location: str | None = None
    told_once: str | None = None


@dataclass(frozen=True)
class Asked:
    """A request as far as its repeat is recognised."""

    method: str
    path: str
    key: str
    body: Mapping[str, Any]
    version: str


@dataclass(frozen=True)
class Way:
    """How a request is done once. act: does it. again: answers one that was accepted, from its operation's params.

    refusal: renders the 409 of an answer that is told once.
    """

    kind: str  # "record" or "operation"
    act: Callable[[Context], Given]
    again: Callable[[Any], Given]
    refusal: Callable[[KilonovaError], bytes]


@dataclass(frozen=True)
class Reservation:
    """The right to do one request. ids: what it must use, whoever finishes it."""

    key: db.Key
    reserved_at: float
    ids: tuple[str, ...]
    taken: bool = False  # over from somebody who is silent

    def finish(
        self, services: Services, tx: Tx, *, status: int, body: bytes, location: str | None
    ) -> None:
        """Keep the answer in the accepting transaction. KeyInUse, which undoes it, when the key was taken over."""
        sealed = services.vault.seal(_ANSWER, Secret(body.decode()))
        if not db.finish(
            tx,
            self.key,
            reserved_at=self.reserved_at,
            status=status,
            answer=sealed,
            location=location,
        ):
            raise KeyInUse("The request with this Idempotency-Key is being worked on elsewhere.")

    def release(self, services: Services) -> None:
        """Give the key back: the request was refused."""
        services.world.write(lambda tx: db.release(tx, self.key, reserved_at=self.reserved_at))


def begin(
    services: Services,
    ctx: Context,
    *,
    method: str,
    path: str,
    key: str,
    body: Mapping[str, Any],
    version: str,
    ids: int,
) -> Reservation | Replay:
    """Reserve a key, or return the answer that it was given. ids: how many to mint.

    Raises BadRequest for a key that is no key, Unprocessable when it was used with another body or microversion,
    KeyInUse while the first request is under way.
    """
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise BadRequest("Idempotency-Key must be 1 to 255 printable ASCII characters.")
    mine = db.Key(str(ctx.project_id), str(ctx.user_id), method, path, key)
    digest = services.vault.digest(
        version.encode() + b"\n" + msgspec.json.encode(body, order="deterministic")
    )
    now = services.now()
    minted = [new_uuid() for _ in range(ids)]

    def reserve(tx: Tx) -> Reservation | Replay:
        db.forget_old(tx, mine, now - db.KEEP_S)
        row = db.find(tx, mine)
        if row is None:
            text = msgspec.json.encode(minted).decode()
            db.reserve(tx, mine, body_hash=digest, minted=text, now=now)
            return Reservation(mine, now, tuple(minted))
        if row["body_hash"] != digest:
            raise Unprocessable("This Idempotency-Key was used with another request body.")
        if row["status"] is not None:
            shown = services.vault.unseal(_ANSWER, row["answer"]).reveal().encode()
            return Replay(row["status"], shown, row["location"])
        if row["created_at"] > now - BUSY_S or not db.take(
            tx, mine, seen=row["created_at"], now=now
        ):
            raise KeyInUse("A request with this Idempotency-Key is being worked on; ask again.")
        ids = tuple(msgspec.json.decode(row["minted"], type=list[str]))
        return Reservation(mine, now, ids, taken=True)

    return services.world.write(reserve)


def once(services: Services, ctx: Context, asked: Asked, way: Way) -> Given | Replay:
    """Do a request, or return what it was answered. Raises as ``begin`` and as the request itself."""
    reserved = begin(
        services,
        ctx,
        method=asked.method,
        path=asked.path,
        key=asked.key,
        body=asked.body,
        version=asked.version,
        ids=1,
    )
    if isinstance(reserved, Replay):
        return reserved
    return (
        _record(services, ctx, reserved, way)
        if way.kind == "record"
        else _operation(services, ctx, reserved, way)
    )


def _record(services: Services, ctx: Context, reserved: Reservation, way: Way) -> Given:
    """The request's writes and its answer commit together, or not at all; what collides is done again."""
    try:
        for _ in range(RECORD_TRIES - 1):
            with contextlib.suppress(Collision):
                return _record_once(services, ctx, reserved, way)
        return _record_once(services, ctx, reserved, way)
    except KilonovaError:
        reserved.release(services)
        raise


def _record_once(services: Services, ctx: Context, reserved: Reservation, way: Way) -> Given:
    with services.world.together():
        given = way.act(ctx)
        services.world.write(lambda tx: _keep(services, tx, reserved, given, way))
    return given


def _operation(services: Services, ctx: Context, reserved: Reservation, way: Way) -> Given:
    """The operation that is accepted has the reserved id; one that was accepted before is not accepted again."""
    (operation,) = reserved.ids
    accepted = _accepted(services, operation) if reserved.taken else None
    try:
        if accepted is not None:
            given = way.again(_params(accepted))
        else:
            given = way.act(ctx.replace(operation=operation))
    except KilonovaError:
        if accepted is None and _accepted(services, operation) is None:
            reserved.release(services)
        raise
    services.world.write(lambda tx: _keep(services, tx, reserved, given, way))
    return given


def _keep(services: Services, tx: Tx, reserved: Reservation, given: Given, way: Way) -> None:
    status, body = given.status, given.body
    if given.told_once is not None:
        status, body = 409, way.refusal(Conflict(given.told_once))
    reserved.finish(services, tx, status=status, body=body, location=given.location)


def _accepted(services: Services, operation: str) -> Row | None:
    """Return the journal's row of an operation, wherever its home is."""
    for database in services.engine.databases.values():
        row = database.ask(lambda tx: journal.find_row(tx, operation))
        if row is not None:
            return row
    return None


def _params(row: Row) -> Any:
    saga = find(row["kind"], row["version"])
    return None if saga is None or not row["params"] else decode(row["params"], saga.params)
