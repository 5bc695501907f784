"""The part of a driver that moves a running guest to another host. Errors, Again and progress: driver.py.

The names are those that Nova's driver interface has (OBJ-2). Every method takes and returns versioned objects, and is
repeatable. At no moment may two hosts run the guest: the source lets go of the disks before the destination takes them.
"""

from typing import Protocol, runtime_checkable

from kilonova.objects.guest import GuestBuild
from kilonova.objects.live_orders import (
    GuestLiveCheckDestination,
    GuestLiveCheckSource,
    GuestLiveMigrate,
    GuestLivePrepare,
    LiveDestination,
    LiveMigrated,
    LivePlan,
    LivePrepared,
)
from kilonova.objects.query import LiveMove
from kilonova.virt.driver import DriverError, Progress
from kilonova.virt.resize import Made

ABORTED = "live_migration_aborted"
NOT_REMOVED = "What the server had on the host before is not removed yet."
NOT_SHARED = (
    "The instances path of the server is not on shared storage: Live migration can not be used without shared storage "
    "except a booted from volume VM which does not have a local disk."
)
NOTHING_LOCAL = (
    "The server is not on local storage: Block migration can not be used with shared storage."
)


class LiveMigrationAborted(DriverError):
    """Somebody asked to end it; the guest is where it was."""

    code = ABORTED


@runtime_checkable
class MigrationDriver(Protocol):
    """Live migrations, as seen by one of the two hosts."""

    def check_can_live_migrate_destination(
        self, asked: GuestLiveCheckDestination
    ) -> LiveDestination:
        """At the destination: say how it is reached. DriverError, by name, what it cannot take."""
        ...

    def check_can_live_migrate_source(self, asked: GuestLiveCheckSource) -> LivePlan:
        """At the source: say what has to be copied. DriverError, by name, why the guest cannot leave; GuestMissing."""
        ...

    def pre_live_migration(self, asked: GuestLivePrepare, progress: Progress) -> LivePrepared:
        """At the destination: make what the guest will find there; its taps are there already.

        DriverError: something of the guest is here already that was not made for this (what it left here before, say).
        """
        ...

    def live_migration(self, asked: GuestLiveMigrate, progress: Progress) -> LiveMigrated:
        """At the source: move the guest; begun once. Raises Again while it is under way.

        DriverError: it failed, the guest is here as before. LiveMigrationAborted: likewise. GuestMissing.
        """
        ...

    def live_migration_abort(self, server_id: str) -> None:
        """At the source: have it end with the guest here; fine when none is under way, or it is too late."""
        ...

    def live_migration_force_complete(self, server_id: str) -> None:
        """At the source: pause the guest, or run it at the destination already, so that it ends. Fine when none is."""
        ...

    def rollback_live_migration(self, server_id: str, progress: Progress) -> None:
        """At the source: none is under way from now on, the guest is here. Raises Again until that is so.

        DriverError: it left.
        """
        ...

    def rollback_live_migration_at_destination(self, server_id: str, progress: Progress) -> bool:
        """At the destination: remove what was prepared; tell whether anything was. DriverError: the guest runs here."""
        ...

    def post_live_migration(self, server_id: str, progress: Progress) -> bool:
        """At the source: remove what the guest left; tell whether anything was there. DriverError: it is here."""
        ...

    def post_live_migration_at_destination(self, build: GuestBuild, progress: Progress) -> Made:
        """At the destination: the guest stays, also over a boot of the host. GuestMissing."""
        ...

    def config_drive_of(self, server_id: str) -> str | None:
        """At the source: return the bytes of the guest's config drive, zlib in base64; None when it has none."""
        ...

    def variables_of(self, server_id: str) -> str | None:
        """At the source: return the guest's UEFI variables, zlib in base64; None when it has none."""
        ...

    def live_move(self, server_id: str) -> LiveMove:
        """Return where the guest is, as this host sees it, and how far it is."""
        ...
