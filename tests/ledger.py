"""The ledger: one function that counts everything an operation can leave anywhere (RELIABILITY B0).

"Clean" = equal to the snapshot before, plus exactly what the operation should add. Ids do not matter, counts do; that
the counted things belong together (a server's claim is on its host, its port is its own, no guest without a record …)
is the audit's part, and the audit is in the ledger.
"""

import collections
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from kilonova.agent.core import Agent
from kilonova.db.engine import Database, Tx
from kilonova.db.schema import cell as c
from kilonova.db.schema import world as w
from kilonova.image.embedded import schema as i
from kilonova.network.embedded import schema as n
from kilonova.operations.services import Services
from kilonova.placement import schema as p
from kilonova.reconcile import audit
from kilonova.saga.schema import TABLES
from kilonova.virt.fake.world import World
from kilonova.volume.embedded import schema as v

Ledger = collections.Counter[str]
O = TABLES.operation  # noqa: E741


def ledger(services: Services, world: World, agents: Iterable[Agent] = ()) -> Ledger:
    """Count everything: records, claims, ports, secrets, actions, live operations, guests, cleanups, differences."""
    found: Ledger = collections.Counter()
    services.world.read(lambda tx: _global(tx, found))
    for name, db in services.cells.items():
        db.read(lambda tx, name=name: _cell(tx, name, found))  # type: ignore[misc]
    _journal(services.world, found)
    network = getattr(services.network, "database", None)
    if network is not None:
        network.read(lambda tx: _network(tx, found))
    images = getattr(services.images, "db", None)
    if images is not None:
        images.read(lambda tx: _images(tx, found))
    volumes = getattr(services.volumes, "db", None) if services.has_volumes else None
    if volumes is not None:
        volumes.read(lambda tx: _volumes(tx, found))
    for left in world.ledger():
        found[left.kind] += 1
    found["export"] -= found.pop("wanted export", 0)
    for agent in agents:
        found["order"] += len(agent.orders.busy)
        found["tap"] += len(getattr(agent, "taps", lambda: ())())
    for finding in audit.run(services):
        found[f"audit:{finding['kind']}"] += 1
    return +found


def _count(tx: Tx, found: Ledger, name: str, statement: Any) -> None:
    """Add the rows of ``SELECT key…, count`` under ``name:key…``."""
    for row in tx.select(statement):
        *keys, n_rows = tuple(row)
        found[":".join([name, *(str(k) for k in keys)])] += n_rows or 0


def _all(table: sa.Table) -> Any:
    return sa.select(sa.func.count()).select_from(table)


def _global(tx: Tx, found: Ledger) -> None:
    m = w.server_mapping
    _count(tx, found, "mapping", sa.select(m.c.cell, sa.func.count()).group_by(m.c.cell))
    _count(tx, found, "delete_requested", sa.select(sa.func.sum(m.c.delete_requested)))
    counts = m.c.soft_deleted == 0
    _count(tx, found, "quota:vcpus", sa.select(sa.func.sum(m.c.vcpus)).where(counts))
    _count(tx, found, "quota:memory_mib", sa.select(sa.func.sum(m.c.memory_mib)).where(counts))
    _count(tx, found, "secret:global", _all(w.secret))
    _count(tx, found, "consumer", _all(p.consumer))
    a = p.allocation
    _count(
        tx,
        found,
        "held",
        sa.select(a.c.resource_class, sa.func.sum(a.c.used)).group_by(a.c.resource_class),
    )
    _count(tx, found, "idempotency", _all(w.idempotency))


PARTS = ("compute_prep_resize", "compute_resize_instance", "compute_finish_resize")
"""A move that failed has events as far as it came; they count as one that says so."""


def _cell(tx: Tx, name: str, found: Ledger) -> None:
    s, act, ev = c.server, c.instance_action, c.action_event
    live = sa.select(s.c.vm_state, s.c.task_state, sa.func.count()).where(s.c.deleted == 0)
    _count(tx, found, f"server:{name}", live.group_by(s.c.vm_state, s.c.task_state))
    _count(tx, found, f"deleted:{name}", _all(s).where(s.c.deleted == 1))
    _count(tx, found, f"hidden:{name}", _all(s).where(s.c.hidden == 1))
    _count(tx, found, f"tag:{name}", _all(c.server_tag))
    _count(tx, found, f"secret:{name}", _all(c.secret))
    _count(tx, found, f"fault:{name}", _all(c.fault))
    _count(tx, found, f"cleanup:{name}", _all(c.cleanup))
    m = c.migration
    _count(tx, found, "migration", sa.select(m.c.status, sa.func.count()).group_by(m.c.status))
    ended = sa.case(
        (act.c.finished_at.is_(None), "open"), else_=sa.func.coalesce(act.c.message, "ok")
    )
    _count(
        tx,
        found,
        "action",
        sa.select(act.c.action, ended, sa.func.count()).group_by(act.c.action, ended),
    )
    part = ev.c.event.in_(PARTS)
    bad = sa.select(ev.c.operation).where(part, ev.c.result == "Error").scalar_subquery()
    each = sa.select(ev.c.event, ev.c.result, sa.func.count()).group_by(ev.c.event, ev.c.result)
    _count(tx, found, "event", each.where(sa.not_(sa.and_(part, ev.c.operation.in_(bad)))))
    wrong = sa.func.count(sa.distinct(ev.c.operation))
    failed = sa.select(wrong).where(part, ev.c.result == "Error")
    _count(tx, found, f"event:{PARTS[1]}:Error", failed)
    _operations(tx, found)


def _journal(db: Database, found: Ledger) -> None:
    db.read(lambda tx: _operations(tx, found))


def _operations(tx: Tx, found: Ledger) -> None:
    name = sa.case((O.c.ended_at.is_(None), "live"), else_=O.c.state)
    _count(
        tx, found, "operation", sa.select(O.c.kind, name, sa.func.count()).group_by(O.c.kind, name)
    )


def _network(tx: Tx, found: Ledger) -> None:
    t = n.port
    kind = sa.case((t.c.operation != "", "made"), else_="user")
    bound = sa.case((t.c.host != "", "bound"), else_="unbound")
    ours = sa.select(kind, bound, sa.func.count()).where(t.c.device_owner.not_like("network:%"))
    _count(tx, found, "port", ours.group_by(kind, bound))
    _count(tx, found, "port binding", _all(n.port_binding))
    _count(tx, found, "address", _all(n.address))
    _count(tx, found, "group membership", _all(n.port_group))


def _images(tx: Tx, found: Ledger) -> None:
    t = i.image
    _count(tx, found, "image", sa.select(t.c.status, sa.func.count()).group_by(t.c.status))


def _volumes(tx: Tx, found: Ledger) -> None:
    kind = sa.case((v.volume.c.operation != "", "made"), else_="user")
    rows = sa.select(kind, v.volume.c.status, sa.func.count())
    _count(tx, found, "volume", rows.group_by(kind, v.volume.c.status))
    held = v.attachment
    _count(tx, found, "wanted export", _all(held).where(held.c.export_name != ""))
    _count(
        tx,
        found,
        "attachment",
        sa.select(held.c.status, sa.func.count()).group_by(held.c.status),
    )


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what differs, as name -> more (or less)."""
    keys = sorted(before.keys() | after.keys())
    return {
        k: after.get(k, 0) - before.get(k, 0) for k in keys if after.get(k, 0) != before.get(k, 0)
    }


def process() -> dict[str, int]:
    """Count threads and open files of this process."""
    return {"threads": threading.active_count(), "files": len(os.listdir("/proc/self/fd"))}
