"""A cloud of two or three cells, and a server in the first one: what cross-cell moves are tested in."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kilonova.db import flavors, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import PowerState
from kilonova.objects.server import DiskRequest, RequestedServer
from kilonova.operations import (
    accept,
    confirm_resize_cross_cell,
    live_migrate_cross_cell,
    resizing,
    revert_resize_cross_cell,
    server_evacuate_cross_cell,
    server_resize_cross_cell,
    server_unshelve_cross_cell,
)
from kilonova.operations.accept import Found
from kilonova.saga import journal
from tests.ledger import Ledger
from tests.operations.server_ledger import plus
from tests.operations.server_world import BIGGER, CONTEXT, ONE, ServerWorld, Shape

RESIZE, MIGRATE = "server_resize_cross_cell", "server_migrate_cross_cell"
CONFIRM, REVERT = "confirm_resize_cross_cell", "revert_resize_cross_cell"
KINDS = (RESIZE, MIGRATE, CONFIRM, REVERT)
UNSHELVE, LIVE = "server_unshelve_cross_cell", "live_migrate_cross_cell"
EVACUATE = "server_evacuate_cross_cell"
OWN = {
    RESIZE: (),
    MIGRATE: (),
    CONFIRM: (RESIZE,),
    REVERT: (RESIZE,),
    UNSHELVE: ("server_shelve",),
    LIVE: (),
    EVACUATE: (),
}


class TwoCells(ServerWorld):
    """Two cells; the server is made in cell1. to_host: where a move is asked to go. ephemeral: it has such a disk."""

    cells: tuple[str, ...] = ("cell1", "cell2")
    to_host: str | None = "cell2-host1"
    ephemeral = False

    def __init__(
        self,
        path: Path,
        kind: str = RESIZE,
        shape: Shape = ONE,
        *,
        setup: tuple[str, ...] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            path, kind, shape, setup=OWN.get(kind, setup) if setup is None else setup, **more
        )

    def accept(self, kind: str) -> tuple[str, str]:
        """Accept an operation; those over cells have the global database as their home."""
        if kind not in OWN:
            return super().accept(kind)
        if not self.engines:
            self.engine().open()
        found = accept.find_server(self.services, CONTEXT, self.server)
        if kind == UNSHELVE:
            operation = server_unshelve_cross_cell.start(
                self.services, CONTEXT, found, host=self.to_host
            )
        elif kind in (LIVE, EVACUATE):
            of = live_migrate_cross_cell if kind == LIVE else server_evacuate_cross_cell
            operation = of.start(self.services, CONTEXT, found, host=self.to_host)
        elif kind in (RESIZE, MIGRATE):
            operation = self._move(found, kind)
        else:
            waiting = resizing.waiting_migration(self.services, found)
            end = confirm_resize_cross_cell if kind == CONFIRM else revert_resize_cross_cell
            operation = end.start(self.services, CONTEXT, found, waiting)
        assert operation is not None
        return "global", operation

    def _move(self, found: Found, kind: str) -> str | None:
        def put(tx: Tx) -> None:
            if flavors.find(tx, BIGGER.flavorid) is None:
                flavors.add(tx, BIGGER, 0.0)

        self.services.world.write(put)
        return server_resize_cross_cell.start(
            self.services,
            CONTEXT,
            found,
            flavor=BIGGER if kind == RESIZE else None,
            host=self.to_host,
        )

    def latest(self, kind: str) -> str:
        """Return the newest live operation of a kind, in whatever cell."""
        live = [
            row
            for db in self.databases.values()
            for row in db.read(lambda tx: journal.live_of(tx, self.server))
            if row["kind"] == kind
        ]
        return str(max(live, key=lambda row: row["epoch"])["id"])

    def _requested(self, now: float) -> RequestedServer:
        asked = super()._requested(now)
        more: tuple[DiskRequest, ...] = ()
        if self.ephemeral:
            more = (DiskRequest(source="blank", size_gib=1, name="ephemeral0", device="vdz"),)
        return asked.replace(
            requested_host="cell1-host1",
            disks=(*asked.disks, *more),
            key_name="k",
            config_drive=True,
        ).replace(keys=(("k", "ssh", "ssh-ed25519 AAAA"),))

    def in_cell(self, cell: str) -> Row | None:
        """Return the server's row of one cell."""
        return self.databases[cell].read(lambda tx: servers.find(tx, self.server))

    def ledger(self) -> Ledger:
        """Count everything; what a failed operation tells of its first steps depends on where it failed."""
        found = super().ledger()
        for name in [k for k in found if k.startswith("event:compute_prep_snapshot")]:
            del found[name]
        if all(g.power == PowerState.SHUTDOWN for g in self.guests.everything()):
            found.pop("tap", None)  # of a guest that is off they may be there or not
        return found

    def clean(self, state: str) -> Mapping[str, int]:
        """Return what the ledger must be."""
        return plus(self.before, self.changes(state))

    def changes(self, state: str) -> dict[str, int]:
        """Return what one operation changes, by how it ended."""
        action, teller, cell = TELLS[self.kind]
        if state != "done":
            out = {
                f"action:{action}:Error": 1,
                f"event:{teller}:Error": 1,
                f"fault:{cell}": 1 if state == "failed" else 0,
                f"operation:{self.kind}:{state}": 1,
            }
            if self.kind in (RESIZE, MIGRATE):
                out["migration:error"] = 1
            if self.kind == EVACUATE:
                out["migration:failed"] = 1
            if self.kind == LIVE:
                out["migration:error" if state == "failed" else "migration:cancelled"] = 1
            return out
        ends: Mapping[str, Callable[[], dict[str, int]]] = {
            RESIZE: self._moved,
            MIGRATE: self._moved,
            CONFIRM: self._confirmed,
            UNSHELVE: self._unshelved,
            LIVE: partial(
                self._went, "live-migration", "compute_live_migration", migration="completed"
            ),
            EVACUATE: partial(
                self._went, "evacuate", "compute_evacuate_instance", migration="done"
            ),
        }
        out = ends.get(self.kind, self._reverted)()
        return {**out, f"operation:{self.kind}:done": 1}

    @property
    def _files(self) -> int:
        return (1 if self.shape.boot else 2) + int(self.ephemeral)

    @property
    def _there(self) -> dict[str, int]:
        """What a guest on a second host is: it holds nothing there by itself."""
        n, volumes = self.shape.nics, self.shape.own + self.shape.made
        return {
            "guest": 1,
            "disk": self._files,
            "nic": n,
            "port binding": n,
            "attachment:reserved": volumes,
        }

    @property
    def _history(self) -> dict[str, int]:
        """All that the server's cells tell of it by now."""
        told = ("action:", "event:")
        return {k: v for k, v in self.before.items() if k.startswith(told)}

    def _state(self) -> str:
        """The server's vm_state before any move."""
        known = self.before
        return "stopped" if known["action:stop:ok"] else "active"

    def _more(self, sign: int = 1) -> dict[str, int]:
        resized = self.kind != MIGRATE
        local = 0 if self.shape.boot else 1
        return {
            "held:VCPU": 2 if resized else 1,
            "held:MEMORY_MB": 1024 if resized else 512,
            "held:DISK_GB": (2 if resized else 1) * local,
            "quota:vcpus": 1 if resized else 0,
            "quota:memory_mib": 512 if resized else 0,
            "consumer": 1,
        }

    def _moved(self) -> dict[str, int]:
        action = "resize" if self.kind == RESIZE else "migrate"
        return {
            **self._there,
            **self._more(),
            **self._history,
            f"action:{action}:ok": 2,
            "event:conductor_migrate_server:Success": 2,
            "event:compute_finish_snapshot_based_resize_at_dest:Success": 2,
            "mapping:cell1": -1,
            "mapping:cell2": 1,
            "hidden:cell1": 1,
            f"server:cell1:{self._state()}:None": -1,
            "server:cell1:resized:None": 1,
            "server:cell2:resized:None": 1,
            "migration:finished": 2,
            "secret:cell2": 1 if self.shape.user_data else 0,
            "tag:cell2": self.shape.tags,
        }

    def _unshelved(self) -> dict[str, int]:
        local, n = 0 if self.shape.boot else 1, self.shape.nics
        data, tags = (1 if self.shape.user_data else 0), self.shape.tags
        return {
            "guest": 1,
            "disk": self._files,
            "nic": n,
            "tap": n,
            "port:made:bound": n,
            "port:made:unbound": -n,
            "consumer": 1,
            "held:VCPU": 1,
            "held:MEMORY_MB": 512,
            "held:DISK_GB": local,
            "image:active": -local,
            "mapping:cell1": -1,
            "mapping:cell2": 1,
            "server:cell1:shelved_offloaded:None": -1,
            "server:cell2:active:None": 1,
            "secret:cell1": -data,
            "secret:cell2": data,
            "tag:cell1": -tags,
            "tag:cell2": tags,
            "action:unshelve:ok": 1,
            "event:compute_unshelve_instance:Success": 1,
            "attachment:attached": self.shape.own + self.shape.made,
            "attachment:reserved": -(self.shape.own + self.shape.made),
        }

    def _went(self, action: str, event: str, migration: str) -> dict[str, int]:
        data, tags = (1 if self.shape.user_data else 0), self.shape.tags
        state = self._state()
        return {
            "mapping:cell1": -1,
            "mapping:cell2": 1,
            f"server:cell1:{state}:None": -1,
            f"server:cell2:{state}:None": 1,
            "secret:cell1": -data,
            "secret:cell2": data,
            "tag:cell1": -tags,
            "tag:cell2": tags,
            f"action:{action}:ok": 1,
            f"event:{event}:Success": 1,
            f"migration:{migration}": 1,
        }

    def _confirmed(self) -> dict[str, int]:
        local = 0 if self.shape.boot else 1
        return {
            **{k: -v for k, v in self._there.items()},
            **{k: -v // 2 for k, v in self._history.items()},
            "consumer": -1,
            "held:VCPU": -1,
            "held:MEMORY_MB": -512,
            "held:DISK_GB": -local,
            "action:confirmResize:ok": 1,
            "event:compute_confirm_snapshot_based_resize_at_source:Success": 1,
            "hidden:cell1": -1,
            "server:cell1:resized:None": -1,
            "server:cell2:resized:None": -1,
            f"server:cell2:{self._state()}:None": 1,
            "migration:finished": -2,
            "migration:confirmed": 1,
            "secret:cell1": -1 if self.shape.user_data else 0,
            "tag:cell1": -self.shape.tags,
        }

    def _reverted(self) -> dict[str, int]:
        return {
            **{k: -v for k, v in self._there.items()},
            **{k: -v for k, v in self._more().items()},
            **{k: -v // 2 for k, v in self._history.items()},
            "action:revertResize:ok": 1,
            "event:compute_revert_snapshot_based_resize_at_dest:Success": 1,
            "event:compute_finish_revert_snapshot_based_resize_at_source:Success": 1,
            "event:conductor_revert_snapshot_based_resize:Success": 1,
            "mapping:cell1": 1,
            "mapping:cell2": -1,
            "hidden:cell1": -1,
            "server:cell1:resized:None": -1,
            "server:cell2:resized:None": -1,
            f"server:cell1:{self._state()}:None": 1,
            "migration:finished": -2,
            "migration:reverted": 1,
            "secret:cell2": -1 if self.shape.user_data else 0,
            "tag:cell2": -self.shape.tags,
        }


TELLS = {  # kind -> its action, the event of a failure, the cell where that is told
    RESIZE: ("resize", "conductor_migrate_server", "cell1"),
    MIGRATE: ("migrate", "conductor_migrate_server", "cell1"),
    CONFIRM: ("confirmResize", "conductor_confirm_snapshot_based_resize", "cell2"),
    REVERT: ("revertResize", "conductor_revert_snapshot_based_resize", "cell2"),
    UNSHELVE: ("unshelve", "conductor_migrate_server", "cell1"),
    LIVE: ("live-migration", "compute_live_migration", "cell1"),
    EVACUATE: ("evacuate", "compute_evacuate_instance", "cell1"),
}
