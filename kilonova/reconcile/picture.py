"""What is, as reconcilers see it: read once per pass, each database in one snapshot, and nothing is changed.

Parts are read when they are first asked for. There is no snapshot over several databases: what differs between two of
them may only be under way. So nothing is believed of a resource on which an operation lived before the reading or
after it.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import migrations
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.schema import cell as c
from kilonova.db.schema import world as w
from kilonova.db.sql import Q
from kilonova.objects.base import decode, encode
from kilonova.objects.port import PortBinding
from kilonova.objects.query import (
    GuestParts,
    GuestPartsQuery,
    Guests,
    GuestsQuery,
    Query,
    QueryReply,
)
from kilonova.objects.volume import VolumeAttachment
from kilonova.operations.services import CELL0, Services
from kilonova.placement import schema as p
from kilonova.saga.schema import TABLES

log = get_logger(__name__)
O = TABLES.operation  # noqa: E741
ASK_S = 5.0

_MAPPINGS = Q(
    sa.select(*(x for x in w.server_mapping.c if x.name != "requested")).order_by(
        w.server_mapping.c.server
    )
)
_SERVERS = Q(
    sa.select(
        *(
            c.server.c[n]
            for n in (
                *(
                    "uuid",
                    "vm_state",
                    "task_state",
                    "power_state",
                    "host",
                    "flavor",
                    "nics",
                    "disks",
                ),
                *("hidden", "user_data", "created_at", "updated_at", "epoch"),
            )
        )
    ).where(c.server.c.deleted == 0)
)
_LIVE = Q(
    sa.select(
        *(
            O.c[n]
            for n in (
                *("id", "kind", "version", "resource", "state", "direction", "step", "waits_for"),
                *("accepted_at", "updated_at", "started_at", "deadline", "ends_by", "wake_at"),
            )
        )
    ).where(O.c.ended_at.is_(None))
)
_LIVE_IDS = Q(sa.select(O.c.id, O.c.resource).where(O.c.ended_at.is_(None)))
_SECRETS = Q(sa.select(w.secret.c.id, w.secret.c.owner, w.secret.c.created_at))
_ROOT = p.resource_provider.alias()
_ALLOCATIONS = Q(
    sa.select(
        p.consumer.c.uuid,
        p.consumer.c.type,
        p.consumer.c.project_id,
        p.consumer.c.updated_at,
        _ROOT.c.name,
        p.allocation.c.resource_class,
        sa.func.sum(p.allocation.c.used),
    )
    .join(p.allocation, p.allocation.c.consumer == p.consumer.c.uuid)
    .join(p.resource_provider, p.resource_provider.c.id == p.allocation.c.provider)
    .join(_ROOT, _ROOT.c.id == p.resource_provider.c.root)
    .group_by(p.consumer.c.uuid, _ROOT.c.name, p.allocation.c.resource_class)
)
_USE = Q(
    sa.select(
        p.resource_provider.c.name,
        p.inventory.c.resource_class,
        p.inventory.c.total,
        p.inventory.c.reserved,
        p.inventory.c.allocation_ratio,
        sa.select(sa.func.coalesce(sa.func.sum(p.allocation.c.used), 0))
        .where(
            p.allocation.c.provider == p.resource_provider.c.id,
            p.allocation.c.resource_class == p.inventory.c.resource_class,
        )
        .scalar_subquery()
        .label("used"),
    ).join(p.inventory, p.inventory.c.provider == p.resource_provider.c.id)
)
_PROVIDERS = Q(sa.select(p.resource_provider.c.uuid, p.resource_provider.c.name))
_HOST_MAPPINGS = Q(sa.select(w.host_mapping))
_HOSTS = Q(sa.select(c.host.c.host, c.host.c.uuid, c.host.c.host_id))
_CLEANUPS = Q(sa.select(c.cleanup))
_OPEN_ACTIONS = Q(sa.select(c.instance_action).where(c.instance_action.c.finished_at.is_(None)))


@dataclass(frozen=True)
class Held:
    """What a consumer holds. amounts: name of the root provider -> class -> units."""

    consumer: str
    type: str
    project: str
    since: float
    amounts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Parts:
    """What a guest has: ids of its volumes, and of its ports."""

    volumes: frozenset[str]
    ports: frozenset[str]


@dataclass(frozen=True)
class Files:
    """What a host keeps. disks: of each server of which it has files, the names. volumes: (kind, id) of data."""

    disks: Mapping[str, frozenset[str]]
    volumes: frozenset[tuple[str, str]]


class Picture:
    """One look at everything; made anew for every pass. ``at``: seconds since the epoch."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.at = services.now()
        self.unread: list[str] = []  # cells and hosts that did not answer: unknown, not gone
        self._busy_before = self._busy_now()

    # -- databases

    def homes(self) -> Mapping[str, Database]:
        """Return every database that journals operations."""
        return self.services.homes()

    def _busy_now(self) -> set[str]:
        found: set[str] = set()
        for db in self.homes().values():
            for row in db.read(lambda tx: tx.all(_LIVE_IDS)):
                found.update((row[0], row[1]))
        return found

    @functools.cached_property
    def world(self) -> dict[str, Any]:
        """Everything of the global database, in one snapshot."""

        def read(tx: Tx) -> dict[str, Any]:
            return {
                "mappings": {r["server"]: r for r in tx.all(_MAPPINGS)},
                "allocations": _held(tx.all(_ALLOCATIONS)),
                "use": tx.all(_USE),
                "providers": {r["name"]: r["uuid"] for r in tx.all(_PROVIDERS)},
                "hosts": {r["host"]: r for r in tx.all(_HOST_MAPPINGS)},
                "live": tx.all(_LIVE),
                "secrets": tx.all(_SECRETS),
            }

        return self.services.world.read(read)

    @functools.cached_property
    def cells(self) -> dict[str, dict[str, Any]]:
        """Everything of each cell that answers, each in one snapshot."""

        def read(tx: Tx) -> dict[str, Any]:
            return {
                "servers": {r["uuid"]: r for r in tx.all(_SERVERS)},
                "hosts": {r["host"]: r for r in tx.all(_HOSTS)},
                "cleanups": tx.all(_CLEANUPS),
                "live": tx.all(_LIVE),
                "secrets": tx.all(_SECRETS),
                "open_actions": tx.all(_OPEN_ACTIONS),
                "moves": {r["uuid"]: r for r in migrations.holding(tx)},
            }

        found = {}
        for name, db in self.services.cells.items():
            try:
                found[name] = db.read(read)
            except KilonovaError as exc:
                log.warning("a cell does not answer", extra={"cell": name, "why": exc.message})
                self.unread.append(name)
        return found

    @functools.cached_property
    def mappings(self) -> dict[str, Row]:
        """Server -> its mapping. The cells are read before: a row that is in a cell was mapped by then."""
        self.cells  # noqa: B018 - read first
        mappings: dict[str, Row] = self.world["mappings"]
        return mappings

    @functools.cached_property
    def busy(self) -> set[str]:
        """Resources and operations of which something lived before or after everything else was read.

        Ask for it last.
        """
        return self._busy_before | self._busy_now()

    @functools.cached_property
    def live(self) -> list[tuple[str, Row]]:
        """(database, operation) of everything that has not ended."""
        out = [(self.services.world.name, r) for r in self.world["live"]]
        for name, cell in self.cells.items():
            out += [(name, r) for r in cell["live"]]
        return out

    @functools.cached_property
    def held_back(self) -> dict[str, Row]:
        """Server, or what a create had claimed -> the cleanup record because of which something of it still stands."""
        records = [r for cell in self.cells.values() for r in cell["cleanups"]]
        return {who: r for r in records for who in (r["server"], *msgspec.json.decode(r["holds"]))}

    def row_of(self, server: str) -> tuple[str, Row] | None:
        """Return (cell, row) of a server where its mapping says that it is, or None."""
        mapping = self.mappings.get(server)
        cell = None if mapping is None else mapping["cell"]
        row = None if cell is None else self.cells.get(cell, {}).get("servers", {}).get(server)
        return None if row is None or cell is None else (cell, row)

    # -- neighbours

    @functools.cached_property
    def claims(self) -> list[Any]:
        """Every port that was made or adopted for a key. Read before the mappings."""
        return self.services.network.claims(-1.0)

    @functools.cached_property
    def bindings(self) -> list[PortBinding]:
        """Every inactive binding of servers' ports. Read before the cells."""
        return self.services.network.inactive_bindings(-1.0)

    @functools.cached_property
    def attachments(self) -> dict[str, VolumeAttachment]:
        """Every volume's attachment to a server, by id. Read before the mappings."""
        services = self.services
        found = services.volumes.all_attachments() if services.has_volumes else []
        return {a.id: a for a in found}

    @functools.cached_property
    def claimed(self) -> dict[str, float]:
        """Attachment -> when it was made, of those that operations made."""
        return {c.id: c.made_at for c in self.services.volumes.claims(0.0)}

    @functools.cached_property
    def guests(self) -> dict[str, dict[str, tuple[int, bool]]]:
        """Host -> domain -> (power state, ours) of every host that is up and answers."""
        found = {}
        for state in self.services.hosts.all():
            host = state.host
            if not self.services.hosts.is_up(host):
                self.unread.append(host)
                continue
            try:
                found[host] = ask_guests(self.services, host)
            except KilonovaError as exc:
                log.warning("a host does not answer", extra={"host": host, "why": exc.message})
                self.unread.append(host)
        return found

    @functools.cached_property
    def _kept(self) -> dict[str, GuestParts]:
        """Host -> what it says of its guests and files, of every host that answers. Read before the records."""
        found = {}
        for host in self.guests:
            try:
                answer = ask_parts(self.services, host)
            except KilonovaError as exc:
                log.warning("a host does not answer", extra={"host": host, "why": exc.message})
                self.unread.append(host)
                continue
            if answer is not None:
                found[host] = answer
        return found

    @functools.cached_property
    def parts(self) -> dict[str, dict[str, Parts]]:
        """Host -> server -> what its guest is made of."""
        return {
            host: {s: Parts(frozenset(v), frozenset(p)) for s, v, p in kept.guests}
            for host, kept in self._kept.items()
        }

    @functools.cached_property
    def files(self) -> dict[str, Files]:
        """Host -> what it keeps, of those that can say."""
        return {
            host: Files({s: frozenset(n) for s, n in kept.disks}, frozenset(kept.volumes))
            for host, kept in self._kept.items()
            if kept.disks is not None and kept.volumes is not None
        }


def ask_parts(services: Services, host: str) -> GuestParts | None:
    """Ask a host what its guests are made of and what it keeps; None: too old to know. Raises Unavailable."""
    body = encode(Query(host=host, body=GuestPartsQuery()))
    reply = decode(services.bus.request(f"agent.{host}.query", body, ASK_S), QueryReply)
    return reply.body if isinstance(reply.body, GuestParts) else None


def ask_guests(services: Services, host: str) -> dict[str, tuple[int, bool]]:
    """Ask a host for every domain. Raises Unavailable."""
    body = encode(Query(host=host, body=GuestsQuery()))
    reply = decode(services.bus.request(f"agent.{host}.query", body, ASK_S), QueryReply)
    if not isinstance(reply.body, Guests):
        raise KilonovaError("The host could not list its guests.", host=host)
    return {name: (power, known) for name, power, known in reply.body.guests}


def _held(rows: list[Row]) -> dict[str, Held]:
    found: dict[str, Held] = {}
    for r in rows:
        held = found.get(r[0])
        if held is None:
            held = found[r[0]] = Held(r[0], r[1], r[2], r[3], {})
        held.amounts.setdefault(r[4], {})[r[5]] = r[6]
    return found


def flavor_amounts(flavor: str) -> tuple[int, int]:
    """Return (vcpus, MiB) of an encoded FlavorRecord."""
    raw = msgspec.json.decode(flavor)
    return raw["vcpus"], raw["memory_mib"]


__all__ = ["CELL0", "Held", "Picture", "ask_guests", "flavor_amounts"]
