"""/os-volume-transfer and /volume-transfers (3.55): give a volume to another project, by a key shown once.

The key is kept as a salted digest; a wrong one is refused in constant time.
"""

import hashlib
import hmac
import secrets
from typing import Any

import sqlalchemy as sa

from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.http.microversion import V
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.volume.embedded import listing, view
from kilonova.volume.embedded.faults import invalid_volume, missing
from kilonova.volume.embedded.operations import asking
from kilonova.volume.embedded.routes.common import (
    FLAG,
    ID,
    NAME,
    body_of,
    both,
    target,
    truth,
    visible,
)
from kilonova.volume.embedded.schema import snapshot, transfer
from kilonova.volume.embedded.store import quotas, snapshots, volumes
from kilonova.volume.embedded.volumes import EmbeddedVolumes

t = transfer
_FIND = Q(sa.select(t).where(t.c.id == P("id")))
_ADD = insert(t)
_DROP = Q(sa.delete(t).where(t.c.id == P("id")))
NOUN = listing.Noun(
    t,
    "transfers",
    texts={"name": t.c.name, "volume_id": t.c.volume_id, "id": t.c.id},
    sorts={"name": t.c.name},
)
_CREATE = body_of("transfer", {"volume_id": ID, "name": NAME}, ["volume_id"], more=True)
_CREATE_55 = body_of(
    "transfer", {"volume_id": ID, "name": NAME, "no_snapshots": FLAG}, ["volume_id"]
)
_ACCEPT = Schema(
    {
        "type": "object",
        "properties": {
            "accept": {
                "type": "object",
                "properties": {"auth_key": {"type": "string", "minLength": 1, "maxLength": 255}},
                "required": ["auth_key"],
            }
        },
        "required": ["accept"],
    },
    secret=True,
)


class TransferRoutes:
    """Handlers of transfers, on the old path and on the new one."""

    def __init__(self, of: EmbeddedVolumes) -> None:
        self.of = of

    def routes(self) -> list[Route]:
        """Return this file's rows of the route table."""
        return [
            *self._below("/os-volume-transfer", V(3, 0), _CREATE),
            *self._below("/volume-transfers", V(3, 55), _CREATE_55),
        ]

    def _below(self, base: str, since: Any, create: Schema) -> list[Route]:
        one, errors = base + "/{transfer_id}", (400, 403, 404, 413)
        rule = "volume:get_all_transfers"
        return [
            *both("POST", base, self.create, "volume:create_transfer", 202, errors, since=since, body=create),
            *both("GET", base, self.index, rule, errors=(400,), since=since),
            *both("GET", base + "/detail", self.detail, rule, errors=(400,), since=since),
            *both("GET", one, self.show, "volume:get_transfer", errors=(404,), since=since),
            *both("DELETE", one, self.delete, "volume:delete_transfer", 202, (403, 404), since=since),
            *both("POST", one + "/accept", self.accept, "volume:accept_transfer", 202, errors, since=since,
                  body=_ACCEPT),
        ]  # fmt: skip

    def _find(self, tx: Tx, req: Request, rule: str) -> Row:
        given = req.params["transfer_id"]
        row = visible(tx, req, "transfer", _find, given, "volume:get_transfer")
        req.authorize(rule, target(row))
        return row

    def create(self, req: Request) -> dict[str, Any]:
        """Offer a volume; the key is in this answer alone."""
        body = req.body["transfer"]
        key, salt = secrets.token_hex(8), secrets.token_hex(8)

        def write(tx: Tx) -> Row:
            given = body["volume_id"]
            row = visible(tx, req, "volume", volumes.find, given, "volume:get")
            req.authorize("volume:create_transfer", target(row))
            if row["status"] != "available":
                raise invalid_volume("status must be available")
            asking.check_still(row)
            made, now = new_uuid(), self.of.clock.now()
            tx.run(
                _ADD,
                id=made,
                volume_id=row["id"],
                project_id=row["project_id"],
                name=(body.get("name") or "").strip(),
                salt=salt,
                digest=_digest(salt, key),
                no_snapshots=int(truth(body.get("no_snapshots", False))),
                created_at=now,
            )
            volumes.change(tx, row["id"], now, status="awaiting-transfer")
            return tx.one(_FIND, id=made)

        row = self.of.db.write(write)
        return {"transfer": {**view.transfer(req, row), "auth_key": key}}

    def index(self, req: Request) -> dict[str, Any]:
        """List the caller's transfers, briefly."""
        return self._list(req, full=False)

    def detail(self, req: Request) -> dict[str, Any]:
        """List the caller's transfers, in full."""
        return self._list(req, full=True)

    def _list(self, req: Request, *, full: bool) -> dict[str, Any]:
        def read(tx: Tx) -> dict[str, Any]:
            found = listing.page(tx, req, NOUN)
            items = [view.transfer(req, r, full=full) for r in found.rows]
            return listing.answer(NOUN, found, items)

        return self.of.db.read(read)

    def show(self, req: Request) -> dict[str, Any]:
        """Show a transfer."""
        row = self.of.db.read(lambda tx: self._find(tx, req, "volume:get_transfer"))
        return {"transfer": view.transfer(req, row)}

    def delete(self, req: Request) -> None:
        """Take an offer back."""

        def write(tx: Tx) -> None:
            row = self._find(tx, req, "volume:delete_transfer")
            tx.run(_DROP, id=row["id"])
            now = self.of.clock.now()
            volumes.change(
                tx, row["volume_id"], now, only=("awaiting-transfer",), status="available"
            )

        self.of.db.write(write)

    def accept(self, req: Request) -> dict[str, Any]:
        """Take a volume over with the offer's key: whoever has it may, from any project."""
        key = req.body["accept"]["auth_key"]
        project, given = req.project(), req.params["transfer_id"]

        def write(tx: Tx) -> Row:
            row = tx.one(_FIND, id=given)
            if row is None:
                raise missing("transfer", given)
            if not hmac.compare_digest(_digest(row["salt"], key), row["digest"]):
                if not req.may("volume:get_transfer", target(row)):
                    raise missing(
                        "transfer", given
                    )  # who has no key does not hear that it is there
                raise BadRequest(
                    f"Invalid auth key: Attempt to transfer {row['id']} with invalid auth key."
                )
            self._move(tx, row, project, req.ctx.user_id or "")
            return row

        row = self.of.db.write(write)
        return {"transfer": view.transfer(req, row, full=False)}

    def _move(self, tx: Tx, row: Row, project: str, user: str) -> None:
        volume, now = volumes.get(tx, row["volume_id"]), self.of.clock.now()
        if volume["status"] != "awaiting-transfer":
            raise invalid_volume(f"Volume {volume['id']} must be awaiting-transfer.")
        taken = snapshots.of_volume(tx, volume["id"])
        if taken and row["no_snapshots"]:
            raise invalid_volume("The volume has snapshots, and the transfer is without them.")
        if any(s["status"] != "available" for s in taken):
            raise invalid_volume("A snapshot of the volume is not available.")
        kind = volumes.type_name(tx, volume["type_id"])
        size = volume["size_gib"] + sum(s["size_gib"] for s in taken)
        if project != volume["project_id"]:
            more = {
                "volumes": 1,
                "gigabytes": size,
                "snapshots": len(taken),
                f"volumes_{kind}": 1,
                f"gigabytes_{kind}": size,
                f"snapshots_{kind}": len(taken),
            }
            quotas.check(tx, project, more)
        values = {"project_id": project, "user_id": user}
        volumes.change(tx, volume["id"], now, status="available", **values)
        tx.change(sa.update(snapshot).where(snapshot.c.volume_id == volume["id"]).values(**values))
        tx.run(_DROP, id=row["id"])


def _find(tx: Tx, given: str) -> Row | None:
    return tx.one(_FIND, id=given)


def _digest(salt: str, key: str) -> str:
    return hmac.new(salt.encode(), key.encode(), hashlib.sha256).hexdigest()
