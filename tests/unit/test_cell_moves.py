"""A server's records between cells: the table is complete, the copy is whole, the mapping alone says what is seen."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.cells import move
from kilonova.cells.filters import Filters, Order
from kilonova.cells.listing import Lists
from kilonova.cells.move import Fate
from kilonova.common.context import Context
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import actions, mappings, migrations, servers
from kilonova.db.engine import Database, Tx
from kilonova.db.schema import cell as c
from kilonova.db.secrets import Vault
from kilonova.db.versions import ensure
from kilonova.operations import stores
from tests import databases

CTX = Context(request_id="req-1", user_id="u", project_id="p")
VAULT = Vault(b"k" * 32)


def of(values: Any) -> Any:
    """Return values as keyword arguments whose types nobody looks at."""
    return values


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[dict[str, Database]]:
    found = {n: databases.at(tmp_path / f"{n}.db", n) for n in ("global", "cell1", "cell2")}
    for name, db in found.items():
        ensure(db, stores.WORLD if name == "global" else stores.CELL)
    yield found
    for db in found.values():
        db.close()


def server(tx: Tx, uuid: str, **more: Any) -> None:
    """Put a server into a cell, with one of everything that belongs to one."""
    servers.add(
        tx,
        **{
            **of(
                {"uuid": uuid, "project_id": "p", "user_id": "u", "name": "web", "hostname": "web"}
            ),
            **of({"vm_state": "active", "image_id": "i", "flavor": "{}", "reservation_id": "r"}),
            **of(
                {"created_at": 1.0, "host": "h1", "keys": '[["k","ssh","AAAA"]]', "key_name": "k"}
            ),
            **more,
        },
    )


def furnish(tx: Tx, uuid: str, n: int = 1) -> None:
    """Give a server a history: tags, a secret, faults, actions with events, migrations."""
    servers.set_tags(tx, uuid, [f"t{k}" for k in range(n)], '["t0"]', 2.0)
    for k in range(n):
        ref = VAULT.put(tx, owner=uuid, kind="user_data", value=Secret(f"s{k}"), now=1.0)
        servers.set_columns(tx, uuid, user_data=ref)
        operation = new_uuid()
        actions.begin(tx, operation=operation, server=uuid, action=f"a{k}", ctx=CTX, now=k)
        actions.event(
            tx, operation=operation, step="s", name="e", started=1.0, finished=2.0, ok=True
        )
        about: Any = {"server": uuid, "code": 500, "message": "m", "details": "", "host": None}
        actions.add_fault(tx, id_=new_uuid(), now=float(k), **about)
        migrations.add(
            tx,
            **{
                "uuid": new_uuid(),
                "server": uuid,
                "project_id": "p",
                "user_id": "u",
                "operation": operation,
            },
            **of(
                {"kind": "resize", "status": "confirmed", "source_host": "h1", "source_node": "h1"}
            ),
            **of(
                {
                    "old_flavor": "{}",
                    "new_flavor": "{}",
                    "old_disks": "[]",
                    "old_vm_state": "active",
                }
            ),
            **of({"created_at": 1.0, "updated_at": 1.0}),
        )


def whole(tx: Tx, uuid: str, n: int) -> None:
    """Put a server with a history into a cell."""
    server(tx, uuid)
    furnish(tx, uuid, n)


def counts(db: Database) -> dict[str, int]:
    return {
        k.name: n
        for k in move.OURS
        if (n := len(db.read(lambda tx, k=k: tx.select(sa.select(k.table)))))  # type: ignore[misc]
    }


def test_every_table_of_a_cell_is_listed() -> None:
    """CC-0.2: a new table of the cell schema fails here until somebody says what becomes of it in a move."""
    listed = {k.name for k in move.TABLE}
    assert listed == set(stores.CELL.tables), "add it to kilonova/cells/move.py"
    assert len(listed) == len(move.TABLE)


def test_every_table_with_a_server_in_it_moves_or_says_why_not() -> None:
    """CC-0.2: a column that names a server, or an action of one, makes a table a record kind of servers."""
    of_servers = {
        t.name
        for t in stores.CELL.tables.values()
        if "server" in t.c or any(f.column.table is c.server for f in t.foreign_keys)
    }
    stays = {k.name for k in move.TABLE if k.fate is Fate.STAYS}
    assert of_servers & stays == {"cleanup"}
    assert all(k.why for k in move.TABLE)


def test_every_column_of_a_server_says_whose_it_is_after_a_revert() -> None:
    """CC-0.2, CC-11.2"""
    assert set(move.ON_REVERT) == set(c.server.c.keys()), "add it to ON_REVERT in cells/move.py"


def test_all_of_a_server_goes_along(cells: dict[str, Database]) -> None:
    """CC-0.1, 2.1–2.4, 4.1, 4.4, 4.7: keys, tags, user data, faults, actions with events, migrations; hidden."""
    one, two, uuid = cells["cell1"], cells["cell2"], new_uuid()
    one.write(lambda tx: whole(tx, uuid, 3))
    other = new_uuid()
    two.write(lambda tx: whole(tx, other, 2))
    before = counts(two)
    records = one.read(lambda tx: move.read(tx, uuid))
    two.write(lambda tx: move.write(tx, uuid, records, host="h2"))
    row, old = (
        two.read(lambda tx: servers.find(tx, uuid)),
        one.read(lambda tx: servers.find(tx, uuid)),
    )
    assert row is not None and old is not None
    differ = {k for k in row.keys() if row[k] != old[k]}  # noqa: SIM118 - a Row
    assert differ == {"hidden", "host"} and row["hidden"] == 1 and old["hidden"] == 0
    assert two.read(lambda tx: VAULT.get(tx, row["user_data"])).reveal() == "s2"
    mine, theirs = (db.read(lambda tx: migrations.of_server(tx, uuid)) for db in (one, two))
    assert [m["uuid"] for m in mine] == [m["uuid"] for m in theirs]
    assert [m["id"] for m in mine] != [m["id"] for m in theirs]
    assert {k: v - before.get(k, 0) for k, v in counts(two).items()} == counts(one)


def test_a_copy_is_repeatable_and_removed_whole(cells: dict[str, Database]) -> None:
    """CC-4.5, 10.3: done twice it is one copy; removed, nothing is left, and it can come again."""
    one, two, uuid = cells["cell1"], cells["cell2"], new_uuid()
    one.write(lambda tx: whole(tx, uuid, 2))
    records = one.read(lambda tx: move.read(tx, uuid))
    for _ in range(2):
        two.write(lambda tx: move.write(tx, uuid, records))
        assert counts(two) == counts(one)
    for _ in range(2):
        two.write(lambda tx: move.remove(tx, uuid))
        assert counts(two) == {}
    two.write(lambda tx: move.write(tx, uuid, records))
    assert counts(two) == counts(one)


@pytest.mark.parametrize("kind", [k.name for k in move.COPIED])
def test_a_copy_is_whole_or_nothing(
    kind: str, cells: dict[str, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CC-4.3, 4.5, 4.6: an insert that fails, of whatever kind, leaves nothing; the retry works."""
    one, two, uuid = cells["cell1"], cells["cell2"], new_uuid()
    one.write(lambda tx: whole(tx, uuid, 2))
    records = one.read(lambda tx: move.read(tx, uuid))
    broken = {**records, kind: [{**r, next(iter(r)): None} for r in records[kind]] * 2}
    assert records[kind], "nothing of this kind was there"
    with pytest.raises(Exception, match=r"NOT NULL|UNIQUE"):
        two.write(lambda tx: move.write(tx, uuid, broken))
    assert counts(two) == {}
    two.write(lambda tx: move.write(tx, uuid, records))
    assert counts(two) == counts(one)


def test_a_copy_costs_one_statement_per_kind(cells: dict[str, Database]) -> None:
    """CC-4.8: a long history costs no more round trips than a short one."""
    one, two = cells["cell1"], cells["cell2"]
    spent = []
    for n in (2, 50):
        uuid = new_uuid()
        one.write(lambda tx, u=uuid, n=n: whole(tx, u, n))  # type: ignore[misc]
        before = one.statements, two.statements
        records = one.read(lambda tx, u=uuid: move.read(tx, u))  # type: ignore[misc]
        two.write(lambda tx, u=uuid, r=records: move.write(tx, u, r))  # type: ignore[misc]
        spent.append((one.statements - before[0], two.statements - before[1]))
    assert spent[0] == spent[1] == (len(move.COPIED), len(move.COPIED) + len(move.OURS))


def test_what_came_since_goes_back(cells: dict[str, Database]) -> None:
    """CC-11.2, 11.4–11.6, 11.11: actions, events, tags, faults, the migration's status; not the place."""
    one, two, uuid = cells["cell1"], cells["cell2"], new_uuid()
    one.write(lambda tx: whole(tx, uuid, 2))
    records = one.read(lambda tx: move.read(tx, uuid))
    two.write(lambda tx: move.write(tx, uuid, records, host="h2", vm_state="resized"))

    def since(tx: Tx) -> None:
        servers.set_columns(tx, uuid, name="anew", metadata='{"k":"v"}', flavor='{"big":1}')
        servers.set_tags(tx, uuid, ["later"], '["later"]', 9.0)
        for name in ("attach_volume", "revertResize"):
            actions.begin(tx, operation=new_uuid(), server=uuid, action=name, ctx=CTX, now=9.0)
        for m in migrations.of_server(tx, uuid):
            migrations.set_status(tx, m["uuid"], "reverting", 9.0)

    two.write(since)
    newer = two.read(lambda tx: move.read(tx, uuid))
    one.write(lambda tx: move.take_back(tx, uuid, newer, disks="[1]"))
    row = one.read(lambda tx: servers.find(tx, uuid))
    assert row is not None
    assert (row["name"], row["metadata"], row["tags"]) == ("anew", '{"k":"v"}', '["later"]')
    assert (row["host"], row["flavor"], row["vm_state"], row["disks"]) == (
        "h1",
        "{}",
        "active",
        "[1]",
    )
    assert counts(one) == counts(two)
    names = {a["action"] for a in one.read(lambda tx: actions.of_server(tx, uuid))}
    assert names == {"a0", "a1", "attach_volume", "revertResize"}
    states = {m["status"] for m in one.read(lambda tx: migrations.of_server(tx, uuid))}
    assert states == {"reverting"}


# -- what is seen


def lists(cells: dict[str, Database]) -> Lists:
    return Lists(cells["global"], {n: cells[n] for n in ("cell1", "cell2")}, render_unplaced)


def mapped(cells: dict[str, Database], uuid: str, cell: str | None) -> None:
    def put(tx: Tx) -> None:
        mappings.add(
            tx,
            **of(
                {
                    "server": uuid,
                    "project_id": "p",
                    "user_id": "u",
                    "server_group": None,
                    "vcpus": 1,
                }
            ),
            **of({"memory_mib": 1, "requested": b"", "operation": new_uuid(), "now": 1.0}),
        )
        mappings.place(tx, uuid, cell=cell, host="h", now=1.0)

    cells["global"].write(put)


@pytest.mark.parametrize("hidden", [(0, 1), (1, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("cell", ["cell1", "cell2"])
def test_the_mapping_decides_which_copy_is_seen(
    cell: str, hidden: tuple[int, int], cells: dict[str, Database]
) -> None:
    """CC-4.2, 7.6, 7.10: whatever the flags say, and there is always exactly one."""
    uuid = new_uuid()
    for name, flag in zip(("cell1", "cell2"), hidden, strict=True):
        cells[name].write(
            lambda tx, n=name, f=flag: server(tx, uuid, name=n, hidden=f)  # type: ignore[misc]
        )
    mapped(cells, uuid, cell)
    found = lists(cells)
    page = found.page(Filters(project_id="p"), Order(), 10)
    assert [r["name"] for r in page.rows] == [cell]
    assert found.find(uuid)["name"] == cell  # type: ignore[index]
    found.close()


@pytest.mark.parametrize("seed", range(5))
def test_pages_are_full_however_many_copies_are_hidden(
    seed: int, cells: dict[str, Database]
) -> None:
    """R11: copies that are not seen take no place on a page; every server is on exactly one."""
    rng, wanted = random.Random(seed), []
    for n in range(30):
        uuid, where = new_uuid(), rng.choice(["cell1", "cell2"])
        for name in {where, rng.choice(["cell1", "cell2"])}:
            cells[name].write(
                lambda tx, u=uuid, n=n: server(tx, u, created_at=float(n // 3))  # type: ignore[misc]
            )
        mapped(cells, uuid, where)
        wanted.append(uuid)
    found, seen, marker = lists(cells), [], None
    for _ in range(40):
        page = found.page(Filters(project_id="p"), Order(), 2, marker)
        seen += [r["uuid"] for r in page.rows]
        if not page.more:
            break
        marker = seen[-1]
    found.close()
    assert sorted(seen) == sorted(wanted)


def test_a_server_that_moves_between_two_reads_is_found(cells: dict[str, Database]) -> None:
    """R11: the mapping named a cell whose row is gone by now."""
    uuid = new_uuid()
    cells["cell2"].write(lambda tx: server(tx, uuid, name="cell2"))
    mapped(cells, uuid, "cell1")
    found = lists(cells)
    ask, asked = cells["cell1"].ask, []

    def moved(question: Any) -> Any:
        asked.append(1)
        cells["global"].write(lambda tx: mappings.place(tx, uuid, cell="cell2", host="h", now=2.0))
        return ask(question)

    cells["cell1"].ask = moved  # type: ignore[method-assign, assignment]
    row = found.find(uuid)
    found.close()
    assert asked and row is not None and row["name"] == "cell2"


@pytest.mark.parametrize("way", ["placed", "unplaced", "moved"])
def test_a_list_has_what_changes_its_place_beside_it(way: str, cells: dict[str, Database]) -> None:
    """R11: a server that is placed, taken back, or goes to another cell between the reads of a list is in it."""
    before, after = {"placed": (None, "cell1"), "unplaced": ("cell1", None)}.get(
        way, ("cell1", "cell2")
    )
    uuids = [new_uuid() for _ in range(3)]
    for n, uuid in enumerate(uuids):
        if before is not None:
            cells[before].write(
                lambda tx, u=uuid, n=n: server(tx, u, created_at=float(n))  # type: ignore[misc]
            )
        mapped(cells, uuid, before)
    mover = uuids[1]

    class Meddled(Lists):
        """Lists beside which it happens, right after the cells were read."""

        def ask_cells(self, question: Any) -> tuple[dict[str, Any], list[str]]:
            answers = super().ask_cells(question)
            if after is not None:
                cells[after].write(lambda tx: server(tx, mover, created_at=1.0))
            cells["global"].write(
                lambda tx: mappings.place(tx, mover, cell=after, host="h", now=2.0)
            )
            return answers

    def rendered(mapping: Any) -> dict[str, Any]:
        told = {"uuid": mapping["server"], "project_id": "p", "created_at": mapping["created_at"]}
        return {**told, "updated_at": None, "metadata": "{}", "tags": "[]"}

    found = Meddled(cells["global"], {n: cells[n] for n in ("cell1", "cell2")}, rendered)
    page = found.page(Filters(project_id="p"), Order(), 10)
    found.close()
    assert sorted(r["uuid"] for r in page.rows) == sorted(uuids)
