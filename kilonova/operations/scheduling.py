"""Deciding where a server goes, and claiming it: the scheduler's view of this process and its freshness.

Decisions are made outside every transaction; the claim is conditional. "No valid host" is said only after one decision
on a freshly read view.
"""

import dataclasses
import random
import threading
from collections.abc import Mapping, Set
from typing import Any

import msgspec
import sqlalchemy as sa

from kilonova.common.errors import GenerationMismatch, KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import cells, mappings
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.server import FlavorRecord, ImageRecord, RequestedServer
from kilonova.operations import cleanup
from kilonova.operations.services import Services
from kilonova.placement import claims, groups
from kilonova.placement.claims import Change
from kilonova.scheduler import reading
from kilonova.scheduler import request as requests
from kilonova.scheduler.filters.base import Settings
from kilonova.scheduler.select import Decision, select_fresh
from kilonova.scheduler.view import HostFacts, HostKind, View
from kilonova.scheduler.weighers import CROSS_CELL, CROSS_CELL_DEFAULT

log = get_logger(__name__)
DEFAULT_ZONE = "nova"
_ONE = sa.select(sa.literal(1))
REFRESH_S = 5.0


def _nothing(tx: Tx) -> None:
    """Ask a database whether it answers."""
    tx.select(_ONE)


class Scheduling:
    """The scheduler of this process. Safe from any thread."""

    def __init__(self, services: Services, rng: random.Random | None = None) -> None:
        self._services = services
        self._view = View()
        self._rng = rng or random.Random()  # noqa: S311 - spreads ties
        self._aliases = services.setting("pci_alias", ())
        self._stop = threading.Event()
        self._stale = False
        self._closed: frozenset[str] = frozenset()  # cells in which nothing is placed
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read everything, then keep reading what others change."""
        self._closed = self._read_closed()
        for state in self._services.hosts.all():
            self.host_changed(state.host)
        self.refresh(full=True)
        self._thread = threading.Thread(target=self._loop, name="scheduler-view", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)

    @property
    def view(self) -> View:
        return self._view

    def _loop(self) -> None:
        while not self._stop.wait(REFRESH_S):
            self._view.set_up(frozenset(self._services.hosts.alive()))
            try:
                self.refresh()
                self.cells_changed()
            except KilonovaError as exc:
                log.warning("the view of hosts is not refreshed", extra={"why": exc.message})

    def _read_closed(self) -> frozenset[str]:
        """Return the cells in which nothing is placed: disabled ones, and those that do not answer (R11)."""
        services = self._services
        rows = services.world.read(cells.all_cells)
        silent = services.lists.ask_cells(_nothing)[1] if services.has_lists else []
        return frozenset((*silent, *(r["name"] for r in rows if r["disabled"])))

    def cells_changed(self) -> None:
        """A cell was disabled, enabled, fell silent, or answers again: its hosts follow."""
        closed = self._read_closed()
        changed, self._closed = closed ^ self._closed, closed
        for state in self._services.hosts.all() if changed else ():
            if state.cell in changed:
                self.host_changed(state.host)

    def refresh(self, full: bool = False) -> None:
        """Read what changed in placement since the last time."""
        reading.refresh(self._view, self._services.world, self._services.now(), full)

    def aggregates_changed(self) -> None:
        """An aggregate, its hosts or its metadata changed: read all of it again."""
        self.refresh(full=True)

    def host_changed(self, host: str) -> None:
        """Take over what is known of a host now."""
        state = self._services.hosts.find(host)
        if state is None:
            return
        self._view.put_host(
            HostFacts(
                uuid=state.uuid,
                host=state.host,
                cell=state.cell,
                node=state.host,
                enabled=not state.disabled and state.cell not in self._closed,
                up=self._services.hosts.is_up(host),
                forced_down=state.forced_down,
                **kind_of(state.inventory),
            )
        )

    def host_gone(self, uuid: str) -> None:
        """Forget a host that was taken out of the cloud."""
        self._view.remove_host(uuid)

    def zones(self) -> Set[str]:
        """Return the availability zones that hosts are in."""
        return {self.zone_of(state.host) for state in self._services.hosts.all()} | {DEFAULT_ZONE}

    def zone_of(self, host: str) -> str:
        """Return the availability zone of a host."""
        return (
            self._view.zone_of(self._view.aggregates_of_host.get(host, frozenset())) or DEFAULT_ZONE
        )

    # -- decisions

    def decide(
        self, requested: RequestedServer, avoid: Set[str] = frozenset(), num: int = 1
    ) -> Decision:
        """Decide, claiming nothing; the explanation is kept in the decision. Before it says no, it reads all anew."""
        world = self._services.world
        request = world.read(
            lambda tx: requests.build(
                tx, requested, ignore_hosts=frozenset(avoid), aliases=self._aliases
            )
        )
        return select_fresh(
            self._view, world, request, num, now=self._services.now(), rng=self._rng
        )

    def check_flavor(self, flavor: FlavorRecord, image: ImageRecord | None) -> None:
        """Refuse a flavor, with an image, that asks for what no server can have. Raises BadRequest."""
        properties = {} if image is None else image.properties
        requests.groups_of(flavor, aliases=self._aliases, image=properties)

    def check_rebuild(self, row: Row, image: ImageRecord) -> None:
        """Ask every filter whether a server may become one of another image where it is. Raises NoValidHost.

        What it holds stays claimed, so no room is asked for.
        """
        world = self._services.world
        mapping = world.read(lambda tx: mappings.find(tx, row["uuid"]))
        hints = {} if mapping is None else decode(mapping["requested"], RequestedServer).hints
        request = world.read(
            lambda tx: requests.assemble(
                tx,
                flavor=msgspec.json.decode(row["flavor"], type=FlavorRecord),
                image=image,
                project=row["project_id"],
                server=row["uuid"],
                server_group_id=row["server_group"],
                hints=hints,
                availability_zone=row["requested_zone"],
                only_host=row["host"],
                aliases=self._aliases,
            )
        )
        groups = tuple(dataclasses.replace(g, resources={}) for g in request.groups if not g.suffix)
        select_fresh(
            self._view,
            world,
            dataclasses.replace(request, groups=groups),
            1,
            now=self._services.now(),
            rng=self._rng,
        ).require()

    def place(self, requested: RequestedServer, avoid: Set[str]) -> dict[str, Any]:
        """Return where the server goes, as a step's output. Raises NoValidHost."""
        if self._stale:
            self._stale = False
            self.refresh()
        return _placed(requested, self.decide(requested, avoid))

    def place_again(self, requested: RequestedServer, cell: str, avoid: Set[str]) -> dict[str, Any]:
        """``place``, of a server that has its row in a cell: on a host of that cell.

        Never on one that still has to clean up after this server: its old files are there (R14).
        """
        world, home = self._services.world, self._services.cell(cell)
        unclean = home.read(lambda tx: cleanup.hosts_of_server(tx, requested.server_id))
        request = world.read(
            lambda tx: requests.build(
                tx, requested, ignore_hosts=frozenset({*avoid, *unclean}), aliases=self._aliases
            )
        )
        request = dataclasses.replace(request, cell=cell)
        now = self._services.now()
        found = select_fresh(self._view, world, request, 1, now=now, rng=self._rng)
        return _placed(requested, found)

    def prefer(self, requested: RequestedServer, cell: str, avoid: Set[str]) -> dict[str, Any]:
        """``place``, in ``cell`` if there is room: the CrossCellWeigher decides (its multiplier is a setting)."""
        world = self._services.world
        request = world.read(
            lambda tx: requests.build(
                tx, requested, ignore_hosts=frozenset(avoid), aliases=self._aliases
            )
        )
        if requested.requested_host is None:
            request = dataclasses.replace(request, prefer_cell=cell)
        wish = self._services.setting("cross_cell_move_weight_multiplier", CROSS_CELL_DEFAULT)
        settings = Settings(multipliers={CROSS_CELL: wish})
        now = self._services.now()
        found = select_fresh(
            self._view, world, request, 1, now=now, settings=settings, rng=self._rng
        )
        return _placed(requested, found)

    def claim(self, tx: Tx, consumer: str, place: Mapping[str, Any]) -> None:
        """Claim what ``place`` chose, in the caller's global transaction.

        Raises GenerationMismatch when it is taken meanwhile or breaks a group's policy now: decide again.
        """
        try:
            if place.get("group"):
                groups.recheck(tx, group=place["group"], server=consumer, host=place["host"])
            change = claims.claim(
                tx,
                consumer=consumer,
                project=place["project"],
                user=place["user"],
                amounts=place["amounts"],
                now=self._services.now(),
            )
        except (claims.OverCapacity, claims.UnknownProvider, groups.GroupPolicyViolated) as exc:
            self._stale = True
            raise GenerationMismatch("The host was taken meanwhile.", host=place["host"]) from exc
        tx.after_commit(lambda: self._view.applied(change))

    def hand_over(self, tx: Tx, source: str, target: str, kind: str) -> None:
        """Give what ``source`` holds to ``target`` (a migration, say); nothing is free in between. Safe to repeat.

        kind: the target's consumer type. Conflict when the target holds something else.
        """
        change = claims.move(tx, source, target, target_type=kind, now=self._services.now())
        tx.after_commit(lambda: self._view.applied(change))

    def release(self, tx: Tx, consumer: str) -> None:
        """Give a consumer's claim back in the caller's global transaction; fine when there is none."""
        change: Change = claims.release(tx, consumer, now=self._services.now())
        tx.after_commit(lambda: self._view.applied(change))


def _placed(requested: RequestedServer, decision: Decision) -> dict[str, Any]:
    """Return a decision as a step's output. Raises NoValidHost."""
    best = decision.require().selections[0].chosen
    return {
        "host": best.host,
        "node": best.node,
        "cell": best.cell,
        "zone": best.zone,
        "amounts": best.amounts,
        "project": requested.project_id,
        "user": requested.user_id,
        "group": requested.server_group,
    }


def kind_of(inventory: Any) -> dict[str, Any]:
    """Return what the view keeps of a host's inventory besides amounts."""
    return {
        "kind": HostKind(
            hypervisor_type=inventory.hypervisor_type,
            hypervisor_version=inventory.hypervisor_version,
            supported=inventory.supported,
            cpu_info=tuple(sorted(inventory.cpu_info.items())),
        )
    }
