"""Fill and freshen a view from the databases. Reads take no lock of the view; what was read is put in under it."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.db.engine import Database, Tx
from kilonova.db.schema import cell as cell_schema
from kilonova.db.schema.world import aggregate, aggregate_host
from kilonova.db.sql import P, Q
from kilonova.objects.host import Inventory as ReportedInventory
from kilonova.placement import loading
from kilonova.placement.loading import ProviderRow
from kilonova.placement.schema import provider_gone
from kilonova.placement.schema import resource_provider as rp
from kilonova.scheduler.view import Aggregate, HostFacts, HostKind, View

OVERLAP_S = 5.0
FULL_EVERY_S = 60.0
DOWN_AFTER_S = 60.0

_HEAD = (rp.c.id, rp.c.uuid, rp.c.generation, rp.c.changed_at, rp.c.created_at)
_ALL = Q(sa.select(*_HEAD))
_CHANGED = Q(sa.select(*_HEAD).where(rp.c.changed_at >= P("since")))
_GONE = Q(sa.select(provider_gone.c.uuid).where(provider_gone.c.changed_at >= P("since")))
_SIGNATURE = Q(
    sa.select(
        sa.func.count(),
        sa.func.max(aggregate.c.updated_at),
        sa.func.max(aggregate.c.id),
        sa.select(sa.func.count()).select_from(aggregate_host).scalar_subquery(),
    ).select_from(aggregate)
)
_AGGREGATES = Q(sa.select(aggregate))
_AGGREGATE_HOSTS = Q(sa.select(aggregate_host.c.aggregate, aggregate_host.c.host))
_HOSTS = Q(sa.select(cell_schema.host))
_BUSY = Q(
    sa.select(cell_schema.server.c.host, sa.func.count())
    .where(
        cell_schema.server.c.host.is_not(None),
        cell_schema.server.c.deleted == 0,
        cell_schema.server.c.task_state.is_not(None),
        cell_schema.server.c.task_state.in_(
            [
                "spawning",
                "networking",
                "block_device_mapping",
                "resize_prep",
                "resize_migrating",
                "rebuilding",
                "rebuild_spawning",
                "image_snapshot",
                "image_backup",
                "rescuing",
                "unshelving",
                "shelving",
            ]
        ),
    )
    .group_by(cell_schema.server.c.host)
)


def refresh(view: View, db: Database, now: float, full: bool = False) -> int:
    """Read what changed since the last time, everything every 60 s or when ``full``; return how many providers."""
    with view.refreshing:
        full = full or abs(now - view.synced_at) >= FULL_EVERY_S  # the clock may jump back
        rows, gone, aggregates = db.read(lambda tx: _read(view, tx, full))
        with view.lock:
            if aggregates is not None:
                view.put_aggregates(*aggregates)
            for row in sorted(rows, key=lambda r: r.root != r.uuid):
                view.put_provider(row)
            for uuid in gone:
                view.drop_provider(uuid)
            if full:
                view.synced_at = now
        return len(rows)


def _read(view: View, tx: Tx, full: bool) -> tuple[list[ProviderRow], list[str], Any]:
    since = view.changed_at - OVERLAP_S
    heads = tx.all(_ALL) if full else tx.all(_CHANGED, since=since)
    wanted: list[int] = []
    with view.lock:
        for h in heads:
            known = view.generation_known(h[1], h[4])
            if known is None or known < h[2]:
                wanted.append(h[0])
        if heads:
            view.changed_at = max(view.changed_at, max(h[3] for h in heads))
        if full:
            present = {h[1] for h in heads}
            gone = [u for u in view.row_of if u not in present]
        else:
            gone = [r[0] for r in tx.all(_GONE, since=since)]
    signature = tuple(tx.one(_SIGNATURE) or ())
    aggregates = None
    if full or signature != view.aggregates_signature:
        aggregates = _aggregates(tx)
        view.aggregates_signature = signature
    return (
        loading.providers(tx, wanted if len(wanted) < len(heads) or not full else None),
        gone,
        aggregates,
    )


def _aggregates(tx: Tx) -> tuple[dict[int, Aggregate], dict[str, frozenset[int]]]:
    found = {
        r["id"]: Aggregate(r["id"], r["uuid"], r["name"], json.loads(r["metadata"]))
        for r in tx.all(_AGGREGATES)
    }
    members: dict[str, set[int]] = {}
    for r in tx.all(_AGGREGATE_HOSTS):
        members.setdefault(r[1], set()).add(r[0])
    return found, {host: frozenset(ids) for host, ids in members.items()}


def kind_of(report: ReportedInventory) -> HostKind:
    """Return what a report says of the host's kind."""
    return HostKind(
        report.hypervisor_type,
        report.hypervisor_version,
        tuple(report.supported),
        tuple(sorted(report.cpu_info.items())),
    )


def hosts(view: View, cell: str, db: Database, now: float, up: Iterable[str] | None = None) -> int:
    """Take over the hosts of one cell from its ``host`` table; return how many.

    up: the hosts that are up (None: those that were heard of less than 60 s ago). A cell that cannot be read keeps what
    the view has of it.
    """
    rows, busy = db.read(lambda tx: (tx.all(_HOSTS), {r[0]: r[1] for r in tx.all(_BUSY)}))
    alive = None if up is None else frozenset(up)
    decoder = msgspec.json.Decoder(ReportedInventory)
    seen = set()
    with view.lock:
        for r in rows:
            report = decoder.decode(r["inventory"])
            view.put_host(
                HostFacts(
                    uuid=r["uuid"],
                    host=r["host"],
                    node=r["host"],
                    cell=cell,
                    enabled=not r["disabled"],
                    forced_down=bool(r["forced_down"]),
                    up=now - r["seen_at"] < DOWN_AFTER_S if alive is None else r["host"] in alive,
                    kind=kind_of(report),
                    host_ip=report.host_ip,
                )
            )
            view.set_io_ops(r["host"], busy.get(r["host"], 0))
            seen.add(r["uuid"])
        for uuid in [u for u, f in view.facts.items() if f.cell == cell and u not in seen]:
            view.remove_host(uuid)
    return len(rows)
