"""What hosts are told of a live migration, and what they tell back: payloads of Order and Answer, in order of use.

verb of the Order             payload                     answer payload
guest_live_check_destination  GuestLiveCheckDestination   LiveDestination   can this host take the guest, and how
guest_live_check_source       GuestLiveCheckSource        LivePlan          can the guest leave, what has to be copied
guest_live_prepare            GuestLivePrepare            LivePrepared      disks, taps, metadata at the destination
                              undo: GuestLiveRollback     GuestGone         rollback_live_migration_at_destination
guest_live_migrate            GuestLiveMigrate            LiveMigrated      at the source; undo: GuestLiveAbort
guest_live_leave              GuestLiveLeave              GuestGone         post_live_migration, at the source
guest_live_arrive             GuestLiveArrive             GuestBuilt        post_live_migration_at_destination
Where a guest is while it moves is a question: kilonova/objects/query.py, LiveMoveQuery.
"""

from typing import ClassVar, Union

from kilonova.objects.base import OpenEnum, Version, Versioned, since
from kilonova.objects.guest import GuestBuild


class LiveWish(OpenEnum):
    """What somebody wants of a live migration under way."""

    NONE = ""
    ABORT = "abort"
    FORCE_COMPLETE = "force_complete"
    UNKNOWN = "unknown"


class GuestLiveCheckDestination(Versioned, frozen=True, kw_only=True):
    """Can this host take the guest? build: the guest as it runs at the source, its hardware frozen."""

    server_id: str
    build: GuestBuild


class LibvirtDestination(Versioned, frozen=True, kw_only=True, tag="libvirt", tag_field="type"):
    """How the source's libvirtd reaches this one. uri: of libvirtd. migrate_uri, disks_uri: of QEMU, "" for its choice.

    directory: where the guest's files will be. listen: address of consoles here, "" when they are sockets.
    """

    uri: str
    migrate_uri: str = ""
    disks_uri: str = ""
    directory: str
    listen: str = ""


class FakeDestination(Versioned, frozen=True, kw_only=True, tag="fake", tag_field="type"):
    """A simulated host."""


Reached = Union[LibvirtDestination, FakeDestination]  # noqa: UP007 - msgspec reads the union as tagged


class LiveDestination(Versioned, frozen=True, kw_only=True):
    """The destination takes the guest. hypervisor_version: Nova's number of it."""

    host: str
    hypervisor_version: int
    cpu_model: str | None = None
    reached: Reached


class GuestLiveCheckSource(Versioned, frozen=True, kw_only=True):
    """Can the guest leave? block: copy local disks (None: when there are any). source: compute API 2.25."""

    server_id: str
    build: GuestBuild
    destination: LiveDestination
    block: bool | None = None


class LiveDisk(Versioned, frozen=True, kw_only=True):
    """A local disk that is copied. size: bytes that the guest sees. target: its name in the guest's definition.

    based: it stands on the image that it was made of.
    """

    VERSION: ClassVar[Version] = (1, 1)

    name: str
    size: int
    format: str
    target: str = ""
    based: bool = since(1, 1, default=False)


class LivePlan(Versioned, frozen=True, kw_only=True):
    """What has to be copied."""

    block: bool
    disks: tuple[LiveDisk, ...] = ()


class GuestLivePrepare(Versioned, frozen=True, kw_only=True):
    """Make ready what the guest will find. build: as it will be here. plug: its ports have a binding here already.

    config_drive: the drive's bytes, zlib in base64; None when there is none. It is as secret as user data.
    migration: its uuid; what another one prepared is made anew.
    """

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    build: GuestBuild
    plan: LivePlan
    plug: bool = True
    config_drive: str | None = None
    migration: str = since(1, 1, default="")


class LivePrepared(Versioned, frozen=True, kw_only=True):
    """full: the disks are empty, so everything is copied; else they have the image that the source's have."""

    full: bool = False


class GuestLiveRollback(Versioned, frozen=True, kw_only=True):
    """Remove what was prepared, unless the guest runs here. ports: whose taps go too."""

    server_id: str
    ports: tuple[str, ...] = ()


class LiveSettings(Versioned, frozen=True, kw_only=True):
    """bandwidth_mib_s: 0 for no limit. downtime_ms: the longest pause that is tried for.

    timeout_s: after so long the guest is paused to let it end, or the migration given up (abort_at_timeout).
    """

    auto_converge: bool = True
    post_copy: bool = False
    bandwidth_mib_s: int = 0
    downtime_ms: int = 500
    timeout_s: float = 3600.0
    abort_at_timeout: bool = False


class GuestLiveMigrate(Versioned, frozen=True, kw_only=True):
    """Move the guest. build: as it will be at the destination. Done again, it joins what is under way."""

    server_id: str
    build: GuestBuild
    destination: LiveDestination
    plan: LivePlan
    prepared: LivePrepared
    settings: LiveSettings = LiveSettings()


class LiveMigrated(Versioned, frozen=True, kw_only=True):
    """The guest runs at the destination, in its power state. Times in ms as far as they are known, else 0."""

    power_state: int
    total_ms: int = 0
    downtime_ms: int = 0


class GuestLiveAbort(Versioned, frozen=True, kw_only=True):
    """The migration is not to be: end it, and say so once the guest is here as before."""

    server_id: str


class GuestLiveLeave(Versioned, frozen=True, kw_only=True):
    """The guest is gone from here: remove what it left. ports: whose taps go too."""

    server_id: str
    ports: tuple[str, ...] = ()


class GuestLiveArrive(Versioned, frozen=True, kw_only=True):
    """The guest is here to stay. plug: its taps were not made before it came."""

    server_id: str
    build: GuestBuild
    plug: bool = False


class LiveSteering(Versioned, frozen=True, kw_only=True):
    """A wish, on ``agent.<host>.state`` of the source. One that is lost can be said again."""

    host: str
    server_id: str
    wish: LiveWish


class LiveWhere(OpenEnum):
    """Where a guest that may be moving is, as one host sees it."""

    ABSENT = "absent"  # nothing of it is here
    PREPARED = "prepared"  # what it will find is here, nothing runs
    COMING = "coming"  # its memory is being received
    HERE = "here"  # the guest is this host's
    LEAVING = "leaving"  # it is this host's, and its memory is being sent
    LEFT = "left"  # it runs elsewhere, its files are here still
    UNKNOWN = "unknown"


class LiveProgress(Versioned, frozen=True, kw_only=True):
    """Bytes, as GET /servers/{id}/migrations shows them."""

    memory_total: int = 0
    memory_processed: int = 0
    memory_remaining: int = 0
    disk_total: int = 0
    disk_processed: int = 0
    disk_remaining: int = 0
