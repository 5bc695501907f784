"""What compute asks of a block storage service, embedded or a real Cinder (attachments API 3.27 and later).

Interfaces take a key = (operation, item), because a real service mints its own ids: ``ensure_*`` finds by key, else
makes; ``remove_*`` removes all that is found. No call here shares a transaction with the core, none waits: what takes
long is asked for and looked at again (``Volume.status``, NotReady).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, NamedTuple, Protocol

from kilonova.common.context import Context
from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.objects.volume import (
    Connection,
    Connector,
    Volume,
    VolumeAttachment,
    VolumeClaim,
    VolumeEvent,
    VolumeSnapshot,
    VolumeWanted,
)

Key = tuple[str, str]  # (operation id, item)


class NotReady(KilonovaError):
    """Asked for and under way (an export, say): call again in ``after_s`` seconds."""

    status: ClassVar[HTTPStatus] = HTTPStatus.SERVICE_UNAVAILABLE
    code, retryable = "volume_not_ready", True
    after_s = 0.2


class KeeperAway(Unavailable):
    """The host that keeps a volume does not answer. Who is to reach the volume is written down all the same."""


class ReimageFailed(KilonovaError):
    """A volume was not written anew. lost: its data before are gone too."""

    status: ClassVar[HTTPStatus] = HTTPStatus.CONFLICT
    code = "reimage_failed"

    def __init__(self, message: str, *, lost: bool, **facts: object) -> None:
        super().__init__(message, **facts)
        self.lost = lost


class KeptData(NamedTuple):
    """The data of a volume or snapshot, as records have it. kind: "volume" or "snapshot". hosts: where they may be.

    sure: they are whole and at the first of these hosts, for nothing is under way with them.
    """

    kind: str
    id: str
    hosts: tuple[str, ...]
    sure: bool


class VolumeService(Protocol):
    """The block storage service; safe to use from any thread.

    Errors carry the HTTP status that the compute API answers with and Nova's wording; none names a host.
    """

    # -- looking, as the caller

    def get(self, ctx: Context, volume_id: str) -> Volume:
        """Return a volume that the caller may see; NotFound alike for a missing and a foreign one."""
        ...

    def get_snapshot(self, ctx: Context, snapshot_id: str) -> VolumeSnapshot:
        """Return a snapshot that the caller may see; NotFound as ``get``."""
        ...

    def check_new(self, ctx: Context, wanted: Sequence[VolumeWanted]) -> None:
        """Check volumes that are to be made (type, zone, sizes, quota), touching nothing.

        BadRequest: unknown or foreign type or zone, too small for its source. QuotaExceeded: count, gigabytes.
        """
        ...

    def check_attach(self, volume: Volume) -> None:
        """Raise BadRequest, in Nova's words, unless another server may attach the volume now."""
        ...

    # -- as the service; ``find_*`` returns None when there is no such thing

    def find(self, volume_id: str) -> Volume | None:
        """Return any project's volume."""
        ...

    def find_snapshot(self, snapshot_id: str) -> VolumeSnapshot | None:
        """Return any project's snapshot."""
        ...

    def ensure_volume(self, key: Key, wanted: VolumeWanted) -> Volume:
        """Return the volume of ``key``, asking for it first if there is none; it is "creating" for a while.

        BadRequest, QuotaExceeded as ``check_new``. Safe to repeat.
        """
        ...

    def remove_volume(self, *, key: Key | None = None, volume_id: str | None = None) -> int:
        """Have every volume of ``key`` (or one by id) deleted, attachments first; return how many. Repeatable."""
        ...

    def ensure_attachment(
        self, key: Key, *, volume_id: str, server_id: str, mode: str = "rw"
    ) -> VolumeAttachment:
        """Reserve a volume for a server without a connector; return the same attachment when done again.

        BadRequest: the volume's status does not allow it, or another server has it and it is not multiattach.
        NotFound: no such volume.
        """
        ...

    def connect(self, attachment_id: str, connector: Connector) -> Connection:
        """Let a host reach the volume; say how. Repeatable; another connector takes the place of the one before.

        NotReady while it is prepared; NotFound: the attachment is gone.
        """
        ...

    def complete(self, attachment_id: str) -> None:
        """The guest has the disk: the attachment is attached, the volume in use. Repeatable. NotFound."""
        ...

    def begin_detaching(self, volume_id: str, server_id: str) -> None:
        """Show the volume as detaching. Conflict unless it is in use by this server; fine when it is detaching."""
        ...

    def roll_detaching(self, volume_id: str, server_id: str) -> None:
        """The detach did not happen: the volume is in use again. Repeatable."""
        ...

    def remove_attachment(self, *, key: Key | None = None, attachment_id: str | None = None) -> int:
        """End every attachment of ``key`` (or one by id): no host reaches the volume by it any more. Repeatable."""
        ...

    def connections(self, server_id: str) -> Mapping[str, Connection]:
        """Return, by attachment id, how the server's host reaches each volume that it was connected to."""
        ...

    def attachments_of(self, server_ids: Sequence[str]) -> Mapping[str, list[VolumeAttachment]]:
        """Return the attachments of many servers, oldest first; servers without any are absent."""
        ...

    def reimage(self, key: Key, *, volume_id: str, image_id: str) -> None:
        """Have a volume that is reserved, and that no host reaches, written anew from an image.

        Returns once that is done; NotReady while it is under way: call again. Repeatable by its key.
        ReimageFailed; BadRequest: its status, its size, or the image does not allow it; NotFound.
        """
        ...

    def end_reimage(self, key: Key, *, volume_id: str) -> bool:
        """Give a reimage up, if it is under way; tell whether the volume is not what it was. Repeatable.

        NotReady until nothing writes the volume any more.
        """
        ...

    def complete_migration(self, old_id: str, new_id: str, *, error: bool = False) -> str:
        """A server's disk went over from one volume's data to another's: return which volume it is now. Repeatable.

        error: it did not, and has the old data. Conflict: the migration was given up; NotFound.
        """
        ...

    def ensure_snapshot(
        self, key: Key, *, volume_id: str, name: str, metadata: Mapping[str, str] = {}
    ) -> VolumeSnapshot:
        """Return the snapshot of ``key``, asking for it first; the volume may be in use. NotFound, QuotaExceeded."""
        ...

    def remove_snapshot(self, *, key: Key | None = None, snapshot_id: str | None = None) -> int:
        """Have every snapshot of ``key`` (or one by id) deleted; return how many. Repeatable."""
        ...

    def on_event(self, handler: Callable[[VolumeEvent], None]) -> None:
        """Call ``handler`` for every external event, after commit, from any thread; it must be quick."""
        ...

    # -- for reconcilers

    def all_attachments(self) -> list[VolumeAttachment]:
        """Return every attachment to a server."""
        ...

    def loose(self) -> list[Volume]:
        """Return volumes whose status says that somebody has them, while there is no attachment."""
        ...

    def waiting(self) -> list[tuple[str, str, float]]:
        """Return (host, volume id, since when) of what hosts that were down must still remove."""
        ...

    def data(self) -> list[KeptData] | None:
        """Return what hosts keep of volumes and snapshots; None: they are not our hosts'."""
        ...

    def claims(self, older_than_s: float) -> list[VolumeClaim]:
        """Return everything made for a key at least so long ago."""
        ...

    def sweep(self, keys: Iterable[Key]) -> int:
        """Remove whatever still stands for these keys of ended operations; return how many."""
        ...
