"""A small global database and a view of it, for the tests of placement and scheduler."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilonova.common.ids import new_uuid
from kilonova.db.engine import Database, Tx
from kilonova.db.opening import open_database
from kilonova.db.schema.world import aggregate, aggregate_host
from kilonova.db.sql import insert
from kilonova.db.versions import ensure
from kilonova.operations.stores import WORLD
from kilonova.placement import aggregates, inventories, providers, traits
from kilonova.placement.candidates import Group
from kilonova.placement.inventories import Inventory
from kilonova.scheduler import reading
from kilonova.scheduler.request import Request
from kilonova.scheduler.view import HostFacts, HostKind, View
from tests import databases

NOW = 1_700_000_000.0


def world(path: Path, kind: str = "sqlite") -> Database:
    """Open a new global database."""
    db = open_database(databases.url(kind, path), "world")
    ensure(db, WORLD)
    return db


def stock(
    vcpus: int = 8, memory: int = 8192, disk: int = 100, ratio: float = 1.0
) -> dict[str, Inventory]:
    """Return an ordinary host's inventory."""
    return {
        "VCPU": Inventory(vcpus, 0, 1, vcpus, 1, ratio),
        "MEMORY_MB": Inventory(memory, 0, 1, memory, 1, 1.0),
        "DISK_GB": Inventory(disk, 0, 1, disk, 1, 1.0),
    }


class Cloud:
    """A global database with hosts, and a view that is fresh after ``view()``."""

    def __init__(self, path: Path, kind: str = "sqlite") -> None:
        self.db = world(path, kind)
        self._view = View()
        self.uuids: dict[str, str] = {}
        self.now = NOW

    def host(
        self,
        name: str,
        *,
        inventory: Mapping[str, Inventory] | None = None,
        has: frozenset[str] = frozenset(),
        cell: str = "cell1",
        **facts: Any,
    ) -> str:
        """Add a host; return its provider's uuid."""
        uuid = self.uuids[name] = new_uuid()

        def write(tx: Tx) -> None:
            providers.ensure_host(
                tx, uuid=uuid, name=name, inventory=inventory or stock(), traits_=has, now=self.now
            )

        self.db.write(write)
        facts.setdefault("kind", HostKind())
        self._view.put_host(HostFacts(uuid=uuid, host=name, node=name, cell=cell, **facts))
        return uuid

    def child(
        self,
        parent: str,
        name: str,
        inventory: Mapping[str, Inventory],
        has: frozenset[str] = frozenset(),
    ) -> str:
        """Add a provider below a host or another provider; return its uuid."""
        uuid = self.uuids[name] = new_uuid()

        def write(tx: Tx) -> None:
            p = providers.create(tx, uuid=uuid, name=name, parent=self.uuids[parent], now=self.now)
            inventories.replace(tx, p.id, inventory)
            traits.report(tx, p.id, has, self.now)
            providers.touch(tx, p.id, self.now)

        self.db.write(write)
        return uuid

    def sharing(self, name: str, inventory: Mapping[str, Inventory], group: str) -> str:
        """Add a provider that shares with the members of a placement aggregate; return its uuid."""
        uuid = self.uuids[name] = new_uuid()

        def write(tx: Tx) -> None:
            p = providers.create(tx, uuid=uuid, name=name, now=self.now)
            inventories.replace(tx, p.id, inventory)
            traits.mark(tx, p.id, "MISC_SHARES_VIA_AGGREGATE", True)
            aggregates.replace(tx, p.id, frozenset({group}))

        self.db.write(write)
        return uuid

    def join(self, name: str, group: str) -> None:
        """Put a provider into a placement aggregate."""
        self.db.write(lambda tx: aggregates.mirror_host(tx, name, group, True, self.now))

    def aggregate(self, number: int, metadata: str, *hosts: str) -> None:
        """Add a host aggregate of the compute API."""

        def write(tx: Tx) -> None:
            tx.run(
                insert(aggregate),
                id=number,
                uuid=new_uuid(),
                name=f"a{number}",
                metadata=metadata,
                created_at=self.now,
                updated_at=self.now,
            )
            for h in hosts:
                tx.run(insert(aggregate_host), aggregate=number, host=h)

        self.db.write(write)

    def view(self) -> View:
        """Return the view, fresh."""
        reading.refresh(self._view, self.db, self.now, full=True)
        return self._view


def asks(
    vcpus: int = 1, memory: int = 512, disk: int = 1, *, groups: tuple[Group, ...] = (), **more: Any
) -> Request:
    """Return a request for an ordinary server."""
    base = {"VCPU": vcpus, "MEMORY_MB": memory, "DISK_GB": disk}
    group = Group(resources={k: v for k, v in base.items() if v}, required=more.pop("required", ()))
    return Request(groups=(group, *groups), **more)
