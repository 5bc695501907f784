"""``…/metadata`` below a volume or a snapshot: all pairs, or one."""

from collections.abc import Callable
from typing import Any

import msgspec

from kilonova.common.errors import BadRequest, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.http.request import Request
from kilonova.http.routing import Route
from kilonova.http.schema import Schema
from kilonova.volume.embedded.routes.common import METADATA, both, pairs_of
from kilonova.volume.embedded.volumes import EmbeddedVolumes

Find = Callable[[Tx, Request, str], Row]
MOST = 128
_ALL = Schema({"type": "object", "properties": {"metadata": METADATA}, "required": ["metadata"]})
_ONE = Schema(
    {
        "type": "object",
        "properties": {"meta": {**METADATA, "minProperties": 1, "maxProperties": 1}},
        "required": ["meta"],
    }
)


class Pairs:
    """Handlers of one noun's metadata. find(tx, req, rule): the row; change: as of its store."""

    def __init__(
        self, of: EmbeddedVolumes, find: Find, change: Callable[..., Any], column: str
    ) -> None:
        self.of, self.find, self.change, self.column = of, find, change, column
        self.one, self.rules = "", ("", "", "")

    def at(self, one: str, read: str, write: str, drop: str) -> "Pairs":
        """Say which noun's path they are below, and the names of the rules."""
        self.one, self.rules = one, (read, write, drop)
        return self

    def routes(self) -> list[Route]:
        """Return the rows below a noun's own path."""
        one, (read, write, drop) = self.one, self.rules
        every, single = one + "/metadata", one + "/metadata/{key}"
        errors = (400, 403, 404)
        return [
            *both("GET", every, self.list, read, errors=(404,)),
            *both("POST", every, self.merge, write, 200, errors, body=_ALL),
            *both("PUT", every, self.replace, write, 200, errors, body=_ALL),
            *both("GET", single, self.show, read, errors=(404,)),
            *both("PUT", single, self.put, write, 200, errors, body=_ONE),
            *both("DELETE", single, self.delete, drop, 200, (403, 404)),
        ]

    def _have(self, row: Row) -> dict[str, str]:
        have: dict[str, str] = msgspec.json.decode(row[self.column])
        return have

    def _write(self, tx: Tx, row: Row, pairs: dict[str, str]) -> None:
        if len(pairs) > MOST:
            raise BadRequest(f"Invalid metadata: more than {MOST} items.")
        text = msgspec.json.encode(pairs).decode()
        self.change(tx, row["id"], self.of.clock.now(), **{self.column: text})

    def list(self, req: Request) -> dict[str, Any]:
        """Show all pairs."""
        return {
            "metadata": self._have(self.of.db.read(lambda tx: self.find(tx, req, self.rules[0])))
        }

    def merge(self, req: Request) -> dict[str, Any]:
        """Add pairs; what is there keeps its others."""
        given = pairs_of(req.body["metadata"])

        def write(tx: Tx) -> dict[str, str]:
            row = self.find(tx, req, self.rules[1])
            have = {**self._have(row), **given}
            self._write(tx, row, have)
            return have

        return {"metadata": self.of.db.write(write)}

    def replace(self, req: Request) -> dict[str, Any]:
        """Put other pairs in the place of all."""
        given = pairs_of(req.body["metadata"])

        def write(tx: Tx) -> None:
            self._write(tx, self.find(tx, req, self.rules[1]), given)

        self.of.db.write(write)
        return {"metadata": given}

    def show(self, req: Request) -> dict[str, Any]:
        """Show one pair."""
        have = self._have(self.of.db.read(lambda tx: self.find(tx, req, self.rules[0])))
        key = req.params["key"]
        if key not in have:
            raise _no_key(key)
        return {"meta": {key: have[key]}}

    def put(self, req: Request) -> dict[str, Any]:
        """Set one pair."""
        key, given = req.params["key"], pairs_of(req.body["meta"])
        if key not in given:
            raise BadRequest("Request body and URI mismatch")

        def write(tx: Tx) -> None:
            row = self.find(tx, req, self.rules[1])
            self._write(tx, row, {**self._have(row), **given})

        self.of.db.write(write)
        return {"meta": given}

    def delete(self, req: Request) -> None:
        """Remove one pair."""
        key = req.params["key"]

        def write(tx: Tx) -> None:
            row = self.find(tx, req, self.rules[2])
            have = self._have(row)
            if key not in have:
                raise _no_key(key)
            del have[key]
            self._write(tx, row, have)

        self.of.db.write(write)


def _no_key(key: str) -> NotFound:
    return NotFound(f"Metadata item was not found: {key[:255]}")
