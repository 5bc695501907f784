"""Lists of servers over all cells: filter, sort and page in each cell, merge, and let the mapping decide what is seen.

A list waits at most 1 s for a cell; a silent one is named in ``Page.down`` and its servers become "down cell" records.
Servers that have no cell yet come from their mapping, as one more cell.
"""

import functools
import heapq
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.cells import down
from kilonova.cells.asking import CellDown, Cells
from kilonova.cells.filters import Filters, Order, Rendered
from kilonova.common import pattern
from kilonova.common.errors import BadRequest
from kilonova.db import mappings, servers
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.portable import matches, member
from kilonova.db.schema.cell import server as s
from kilonova.db.schema.cell import server_tag as tag

BIG = 200  # a page of more servers is big: two at a time


@dataclass(frozen=True)
class Page:
    """The servers found, whether there are more, and the cells that did not answer."""

    rows: list[Rendered]
    more: bool
    down: tuple[str, ...] = ()


class _Reversed:
    """Compares the other way round, for descending keys in a merge."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: "_Reversed") -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and other.value == self.value


def _rank(row: Rendered, keys: Sequence[tuple[str, bool]]) -> tuple[Any, ...]:
    out: list[Any] = []
    for name, descending in keys:
        value = row[name]
        part = (value is not None, value if value is not None else 0)
        out.append(_Reversed(part) if descending else part)
    return tuple(out)


def conditions(f: Filters) -> list[Any]:
    """Return the WHERE clauses of a filter for one cell."""
    out: list[Any] = []
    if f.deleted is not None:
        out.append(s.c.deleted == int(f.deleted))
        if not f.deleted and "vm_state" not in f.equals:
            out.append(s.c.vm_state != "soft-delete")  # its owner sees it by id, or asks for it
    if f.project_id is not None:
        out.append(s.c.project_id == f.project_id)
    for name, values in f.equals.items():
        column = s.c[name]
        if None in values:
            out.append(sa.or_(column.is_(None), column.in_([v for v in values if v is not None])))
        else:
            out.append(column == values[0] if len(values) == 1 else column.in_(values))
    for name, part in f.matches.items():
        out.append(s.c[name].icontains(part, autoescape=True))
    for name, text in f.patterns.items():
        out.append(matches(s.c[name], text))
    if f.changes_since is not None:
        out.append(s.c.updated_at >= f.changes_since)
    if f.changes_before is not None:
        out.append(s.c.updated_at <= f.changes_before)
    if f.locked is not None:
        out.append(s.c.locked_by.isnot(None) if f.locked else s.c.locked_by.is_(None))
    if f.uuids is not None:
        out.append(s.c.uuid.in_(f.uuids))
    if f.address is not None:
        out.append(s.c.addresses.icontains(f.address, autoescape=True))
    for key, value in f.metadata.items():
        out.append(member(s.c.metadata, key) == value)
    if f.deleted is not False:  # of live ones the mapping decides which copy is seen
        out.append(s.c.hidden == 0 if f.deleted else sa.or_(s.c.deleted == 0, s.c.hidden == 0))
    return out + _tag_conditions(f)


def _tag_conditions(f: Filters) -> list[Any]:
    def having(names: Iterable[str], every: bool) -> Any:
        wanted = sorted(set(names))
        q = sa.select(tag.c.server).where(tag.c.tag.in_(wanted))
        if every:
            q = q.group_by(tag.c.server).having(sa.func.count() == len(wanted))
        return q

    out: list[Any] = []
    if f.tags:
        out.append(s.c.uuid.in_(having(f.tags, True)))
    if f.tags_any:
        out.append(s.c.uuid.in_(having(f.tags_any, False)))
    if f.not_tags:
        out.append(s.c.uuid.not_in(having(f.not_tags, True)))
    if f.not_tags_any:
        out.append(s.c.uuid.not_in(having(f.not_tags_any, False)))
    return out


def _after(keys: Sequence[tuple[str, bool]], marker: Rendered) -> Any:
    """Return the keyset condition "comes after the marker"."""
    options = []
    for i, (name, descending) in enumerate(keys):
        column, value = s.c[name], marker[name]
        if value is None:
            beyond: Any = sa.false() if descending else column.isnot(None)
        elif descending:
            beyond = sa.or_(column < value, column.is_(None))
        else:
            beyond = column > value
        same = [s.c[n].is_(None) if marker[n] is None else s.c[n] == marker[n] for n, _ in keys[:i]]
        options.append(sa.and_(*same, beyond))
    return sa.or_(*options)


@functools.lru_cache(maxsize=256)
def _selecting(names: tuple[str, ...], keys: tuple[tuple[str, bool], ...]) -> sa.Select[Any]:
    """Select what a page needs of a row: what is looked at here comes first, because names are sought in order."""
    wanted = dict.fromkeys(("uuid", "deleted", *(n for n, _ in keys), *names))
    return sa.select(*(s.c[n] for n in wanted))


class Lists:
    """Fan-out queries over cells. One small pool for all; a cell that hangs holds one of its threads, no list."""

    def __init__(
        self,
        world: Database,
        cells: Mapping[str, Database],
        render_unplaced: Callable[[Row], Rendered],
        absent: Collection[str] = (),
    ) -> None:
        """absent: cells that cannot be opened now; they count as silent. It may change while this lives."""
        self._world = world
        self._cells = cells
        self._render = render_unplaced
        self._asking = Cells(cells)
        self._absent = absent
        self._big = threading.BoundedSemaphore(2)

    def close(self) -> None:
        """End the threads that ask."""
        self._asking.close()

    def page(
        self,
        filters: Filters,
        order: Order,
        limit: int,
        marker: str | None = None,
        columns: Sequence[str] | None = None,
        *,
        partial: bool = False,
    ) -> Page:
        """Return at most ``limit`` servers after ``marker``. BadRequest when the marker is not to be found.

        columns: those of the row that the caller looks at (None: all); rows of servers without a cell have more.
        partial: servers whose cell does not answer are among them (cells/down.py), as far as the filters may be known.
        """
        if limit > BIG:
            with self._big:
                return self._page(filters, order, limit, marker, columns, partial)
        return self._page(filters, order, limit, marker, columns, partial)

    def _page(
        self,
        filters: Filters,
        order: Order,
        limit: int,
        marker: str | None,
        columns: Sequence[str] | None,
        partial: bool,
    ) -> Page:
        keys = order.complete()
        start = None if marker is None else self._marker(filters, marker)
        where = conditions(filters)
        if start is not None:
            where.append(_after(keys, start))
        by = [s.c[n].desc() if desc else s.c[n].asc() for n, desc in keys]
        shown = sa.select(s) if columns is None else _selecting(tuple(columns), keys)
        statement = shown.where(*where).order_by(*by)
        waiting = self._unplaced(filters, keys, start, limit + 1)
        found, silent = self.ask_cells(lambda tx: tx.select(statement.limit(limit + 1)))
        where_is: dict[str, str | None] = {}  # read once for all cells: no server is seen in two
        self._locate(where_is, [r for rows in found.values() for r in rows])
        lists: list[list[Rendered]] = [
            self._filled(statement, cell, rows, limit + 1, where_is) for cell, rows in found.items()
        ]
        # What changed its place between these reads is in none of them so far.
        seen = {r["uuid"] for rows in lists for r in rows}
        strays = [r for r in self._strays(statement, found, where_is) if r["uuid"] not in seen]
        strays.sort(key=lambda r: _rank(r, keys))
        seen.update(r["uuid"] for r in strays)
        if None in where_is.values():  # taken out of its cell since: an unwind
            waiting += self._unplaced(filters, keys, start, limit + 1)
        waiting = [r for r in {r["uuid"]: r for r in waiting}.values() if r["uuid"] not in seen]
        waiting.sort(key=lambda r: _rank(r, keys))
        lists += [strays, waiting]
        if silent and partial and down.may_fit(filters):
            lists.append(self._of_silent(silent, filters, keys, start, limit + 1))
        lists = [rows for rows in lists if rows]
        if len(lists) < 2:
            merged = lists[0] if lists else []
        else:
            merged = list(heapq.merge(*lists, key=lambda r: _rank(r, keys)))
        return Page(merged[:limit], len(merged) > limit, tuple(silent))

    def _marker(self, filters: Filters, marker: str) -> Rendered:
        row = self.find(marker, partial=True)
        if row is None or (
            filters.project_id is not None and row["project_id"] != filters.project_id
        ):
            raise BadRequest(f"marker [{marker}] not found")
        return row

    def find(self, server_id: str, *, partial: bool = False) -> Rendered | None:
        """Return a server wherever it is, rendered from its mapping while it has no cell; None if deleted.

        CellDown when its cell does not answer; partial: then it is rendered from its mapping too (cells/down.py).
        """
        before: Row | None = None
        while True:
            mapping = self._world.ask(lambda tx: mappings.find(tx, server_id))
            if mapping is None:
                return None
            if before is not None and before["cell"] == mapping["cell"]:
                return self._render(mapping)  # it is being made, or unmade, there
            if mapping["cell"] is None:
                return self._render(mapping)
            try:
                row: Rendered | None = self._asking.one(
                    mapping["cell"], lambda tx: servers.find(tx, server_id)
                )
            except CellDown:
                if not partial:
                    raise
                return down.mark(self._render(mapping))
            if row is not None:
                return row
            before = mapping  # it moved between the two reads

    def _unplaced(
        self, f: Filters, keys: Sequence[tuple[str, bool]], start: Rendered | None, limit: int
    ) -> list[Rendered]:
        """Return the servers that have no cell. In order of creation only as many are rendered as the page takes."""
        if f.deleted is True:
            return []
        names = [k for k, _ in keys]
        if names != ["created_at", "uuid"] or keys[0][1] != keys[1][1]:
            found = self._world.read(lambda tx: mappings.unplaced(tx, project_id=f.project_id))
            kept = [r for r in map(self._render, found) if fits(r, f)]
            kept.sort(key=lambda r: _rank(r, keys))
            after = None if start is None else _rank(start, keys)
            return [r for r in kept if after is None or after < _rank(r, keys)][:limit]
        after = None if start is None else (start["created_at"], start["uuid"])
        kept = []
        while len(kept) < limit:
            found = self._world.ask(
                lambda tx, after=after: mappings.unplaced(  # type: ignore[misc]
                    tx,
                    project_id=f.project_id,
                    newest_first=keys[0][1],
                    limit=limit,
                    after=after,
                )
            )
            kept += [r for r in map(self._render, found) if fits(r, f)]
            if len(found) < limit:
                break
            after = (found[-1]["created_at"], found[-1]["server"])
        return kept[:limit]

    def _filled(
        self,
        statement: Any,
        cell: str,
        rows: list[Row],
        wanted: int,
        where_is: dict[str, str | None],
    ) -> list[Rendered]:
        """Return the seen ones of a cell's rows; as many as a page takes, if there are so many behind hidden copies."""
        asked = wanted
        while True:
            self._locate(where_is, rows)
            seen = [r for r in rows if r["deleted"] or where_is.get(r["uuid"]) == cell]
            if len(rows) < asked or len(seen) >= wanted:
                return seen[:wanted]
            asked *= 2
            more = statement.limit(asked)
            rows = self._asking.one(cell, lambda tx, more=more: tx.select(more))  # type: ignore[misc]

    def _strays(
        self, statement: Any, found: Mapping[str, list[Row]], where_is: Mapping[str, str | None]
    ) -> list[Rendered]:
        """Return what came into a cell after that was read: the mappings, read later, say that it is there."""
        have = {cell: {r["uuid"] for r in rows} for cell, rows in found.items()}
        missing: dict[str, set[str]] = {}
        for cell, rows in found.items():
            for row in rows:
                there = where_is.get(row["uuid"])
                if row["deleted"] or there is None or there == cell:
                    continue
                if there in have and row["uuid"] not in have[there]:
                    missing.setdefault(there, set()).add(row["uuid"])
        strays: list[Rendered] = []
        for cell, uuids in missing.items():
            those = statement.where(s.c.uuid.in_(sorted(uuids)))
            strays += self._asking.one(cell, lambda tx, those=those: tx.select(those))  # type: ignore[misc]
        return strays

    def _locate(self, where_is: dict[str, str | None], rows: Sequence[Row]) -> None:
        """Add where the mappings have those servers that are not in it yet (a move or an unwind may be under way)."""
        new = [r["uuid"] for r in rows if not r["deleted"] and r["uuid"] not in where_is]
        if new:
            found = self._world.ask(lambda tx: mappings.cells_of(tx, new))
            where_is.update((uuid, found.get(uuid)) for uuid in new)

    def ask_cells(self, question: Callable[[Tx], Any]) -> tuple[dict[str, Any], list[str]]:
        """Ask every cell at once, each for at most 1 s; return (answers by cell, cells that did not answer)."""
        answers, silent = self._asking.all(question)
        return answers, [*silent, *self._absent]

    def ask(self, cell: str, question: Callable[[Tx], Any]) -> Any:
        """Ask one cell for at most 1 s. Raises CellDown."""
        return self._asking.one(cell, question)

    def _of_silent(
        self,
        silent: Sequence[str],
        f: Filters,
        keys: Sequence[tuple[str, bool]],
        start: Rendered | None,
        limit: int,
    ) -> list[Rendered]:
        """Return the servers of cells that do not answer, at their places as far as those are known."""
        natural = [k for k, _ in keys] == ["created_at", "uuid"] and keys[0][1] == keys[1][1]
        found = down.read(
            self._world,
            self._render,
            silent,
            f,
            newest_first=keys[0][1] if natural else None,
            after=None if start is None else (start["created_at"], start["uuid"]),
            limit=limit,
        )
        if natural:
            return found
        found.sort(key=lambda r: _rank(r, keys))
        after = None if start is None else _rank(start, keys)
        return [r for r in found if after is None or after < _rank(r, keys)][:limit]


def fits(row: Rendered, f: Filters) -> bool:
    """Tell whether a rendered (unplaced) server passes the filters; it has no host, address or power state yet."""
    if f.project_id is not None and row["project_id"] != f.project_id:
        return False
    if any(row[name] not in values for name, values in f.equals.items()):
        return False
    if any(part.lower() not in str(row[name] or "").lower() for name, part in f.matches.items()):
        return False
    if not all(pattern.matches(text, row[name]) for name, text in f.patterns.items()):
        return False
    if f.uuids is not None and row["uuid"] not in f.uuids:
        return False
    if f.address is not None or (f.locked is True):
        return False
    updated = row["updated_at"] or 0.0
    if f.changes_since is not None and updated < f.changes_since:
        return False
    if f.changes_before is not None and updated > f.changes_before:
        return False
    meta = msgspec.json.decode(row["metadata"])
    if any(meta.get(k) != v for k, v in f.metadata.items()):
        return False
    return _tags_fit(set(msgspec.json.decode(row["tags"])), f)


def _tags_fit(tags: set[str], f: Filters) -> bool:
    if f.tags and not set(f.tags) <= tags:
        return False
    if f.tags_any and not set(f.tags_any) & tags:
        return False
    if f.not_tags and set(f.not_tags) <= tags:
        return False
    return not (f.not_tags_any and set(f.not_tags_any) & tags)
