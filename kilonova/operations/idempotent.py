"""``Idempotency-Key``: a request that is sent again is done once, and answered as it was the first time.

The key is reserved, with the body's digest and the ids that the request will use, before anything is accepted; the
answer is kept in the transaction that accepts. Whoever dies in between leaves a reservation that a retry takes over,
with the same ids. A request that is refused gives its key back: nothing was done. Answers are kept sealed, since they
may hold a password; they go with the key after 24 hours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, Unprocessable
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import idempotency as db
from kilonova.db.engine import Tx
from kilonova.operations.services import Services

HEADER = "idempotency-key"
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
class Reservation:
    """The right to do one request. ids: what it must use, whoever finishes it."""

    key: db.Key
    reserved_at: float
    ids: tuple[str, ...]

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
        return Reservation(mine, now, tuple(msgspec.json.decode(row["minted"], type=list[str])))

    return services.world.write(reserve)
