"""One table of named things: get, find, list, add, change, remove. Compiled once per table at import."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.common.errors import Conflict, NotFound
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.identity.embedded import schema as s


class Records:
    """The questions that every table with an ``id`` answers. noun: what an error calls it ("project")."""

    def __init__(self, table: sa.Table, noun: str) -> None:
        self.table = table
        self.noun = noun
        self._get = Q(sa.select(table).where(table.c.id == P("id")))
        self._remove = Q(sa.delete(table).where(table.c.id == P("id")))
        self._add = insert(table)

    def find(self, tx: Tx, id_: str) -> Row | None:
        """Return the row, or None."""
        return tx.one(self._get, id=id_)

    def get(self, tx: Tx, id_: str) -> Row:
        """Return the row. Raises NotFound in Keystone's words."""
        row = tx.one(self._get, id=id_)
        if row is None:
            raise NotFound(f"Could not find {self.noun}: {id_[:64]}.")
        return row

    def list(
        self, tx: Tx, where: Mapping[str, Any] | None = None, order: str = "name"
    ) -> list[Row]:
        """Return rows that equal ``where`` (a list means any of it), in the order of a column."""
        t = self.table
        found = sa.select(t)
        for column, value in (where or {}).items():
            c = t.c[column]
            found = found.where(c.in_(value) if isinstance(value, (list, tuple)) else c == value)
        return tx.select(found.order_by(t.c[order], t.c.id))

    def add(self, tx: Tx, row: Mapping[str, Any]) -> None:
        """Insert a row that has every column."""
        tx.run(self._add, **row)

    def change(self, tx: Tx, id_: str, values: Mapping[str, Any]) -> Row:
        """Set columns; return the new row. Raises NotFound."""
        if values:
            t = self.table
            tx.change(sa.update(t).where(t.c.id == id_).values(**values))
        return self.get(tx, id_)

    def remove(self, tx: Tx, id_: str) -> None:
        """Delete a row. Raises NotFound."""
        if not tx.run(self._remove, id=id_):
            raise NotFound(f"Could not find {self.noun}: {id_[:64]}.")

    def require_free_name(
        self, tx: Tx, name: str, domain_id: str | None, mine: str | None = None
    ) -> None:
        """Raise Conflict when another row than ``mine`` has this name (in the domain, when the table has them)."""
        where: dict[str, Any] = {"name": name}
        if domain_id is not None:
            where["domain_id"] = domain_id
        if any(r["id"] != mine for r in self.list(tx, where)):
            place = f" at domain ID {domain_id}" if domain_id else ""
            raise Conflict(
                f"Conflict occurred attempting to store {self.noun} - "
                f"Duplicate entry found with name {name}{place}."
            )


class DomainRecords(Records):
    """Records whose names are unique within a domain."""

    def __init__(self, table: sa.Table, noun: str) -> None:
        super().__init__(table, noun)
        self._by_name = Q(
            sa.select(table).where(table.c.domain_id == P("domain_id"), table.c.name == P("name"))
        )

    def find_named(self, tx: Tx, name: str, domain_id: str) -> Row | None:
        """Return the row of this name in a domain, or None."""
        return tx.one(self._by_name, name=name, domain_id=domain_id)


domains = Records(s.domain, "domain")
projects = DomainRecords(s.project, "project")
users = DomainRecords(s.user, "user")
groups = DomainRecords(s.group, "group")
roles = DomainRecords(s.role, "role")
regions = Records(s.region, "region")
services = Records(s.service, "service")
endpoints = Records(s.endpoint, "endpoint")
credentials = Records(s.credential, "application credential")
