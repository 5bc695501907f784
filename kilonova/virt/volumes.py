"""Where a host keeps volumes' data, and how other hosts reach them. Errors, Again and ``progress`` as in driver.py.

A volume and a snapshot are one complete qcow2 file each; no file here ever backs another. A file that is being made has
another name and is never taken up: what was not finished is made anew. Every method is repeatable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from kilonova.objects.guest import ImageSource
from kilonova.objects.volume_orders import (
    ExportsApplied,
    VolumeExports,
    VolumeMade,
    VolumeMake,
    VolumeUpload,
    VolumeUploaded,
)
from kilonova.virt.driver import Progress


class SentFile(NamedTuple):
    """Where a file went that no image service keeps: what finds it again, its SHA-512."""

    location: str
    sha512: str


Copy = Callable[[Path, Progress], None]
"""Makes a complete qcow2 file of a volume that a guest of this host has, as at one moment (DiskDriver.copy_disk)."""

SendImage = Callable[[str, Path, Progress], SentFile | None]
"""Gives an image (``image:<id>``, or a signed URL) the bytes of a file, fine when it has them; or writes a backup."""


CheckSource = Callable[[ImageSource, Progress], object]
"""Reads what a volume is made of to its end. DriverError: it is not what its record says."""


class VolumeFile(NamedTuple):
    """One file of a store. kind: "volume", "snapshot", "aside" or "part".

    aside: a volume's data before it was written anew; part: of something that is being made, or never was.
    """

    kind: str
    id: str
    size_gib: int


class VolumeStore(Protocol):
    """The volumes of one host. Safe from any thread, never called twice at once for one volume."""

    def make(self, make: VolumeMake, progress: Progress, copy: Copy | None = None) -> VolumeMade:
        """Make a volume; one that is there stays as it is. copy: of source_volid, when a guest has that.

        DriverError: no such source on this host, the source is larger, no room, an image that is not sound.
        """
        ...

    def remove(self, volume_id: str, progress: Progress) -> bool:
        """Remove a volume and what is left of making it; tell whether there was one.

        Again while it is exported, or a guest writes it.
        """
        ...

    def reimage(self, make: VolumeMake, progress: Progress) -> VolumeMade:
        """Give a volume the data of an image; those before are aside until ``forget_aside`` or ``restore_aside``.

        Again while it is exported, or a guest writes it. DriverError as ``make``; the volume is then what it was.
        """
        ...

    def restore_aside(self, volume_id: str, progress: Progress) -> bool:
        """Make a volume what it was before a reimage; tell whether anything was aside."""
        ...

    def forget_aside(self, volume_id: str) -> bool:
        """Remove what a reimage put aside; tell whether there was anything."""
        ...

    def extend(
        self, volume_id: str, size_gib: int, progress: Progress, *, exported: bool = False
    ) -> VolumeMade:
        """Let a volume grow; one that is as large already stays. DriverError: no such volume, or it is exported.

        exported: it may be, for who has it waits: its exports end and are there again, with the new size.
        """
        ...

    def snapshot(
        self, volume_id: str, snapshot_id: str, progress: Progress, copy: Copy | None = None
    ) -> VolumeMade:
        """Keep a volume as it is at one moment. copy: when a guest of this host has it."""
        ...

    def remove_snapshot(self, snapshot_id: str, progress: Progress) -> bool:
        """Remove a snapshot and what is left of making it; tell whether there was one."""
        ...

    def upload(
        self, upload: VolumeUpload, progress: Progress, copy: Copy | None = None
    ) -> VolumeUploaded:
        """Give an image the volume's bytes as at one moment; nothing of it stays on the host."""
        ...

    def forget_upload(self, upload: VolumeUpload) -> None:
        """Remove what an upload that was given up left on the host."""
        ...

    def apply(self, exports: VolumeExports) -> ExportsApplied:
        """Export exactly these volumes; a lower generation than the one in force changes nothing."""
        ...

    def check(self) -> ExportsApplied | None:
        """Look after what exports volumes; return what is in force when that had to be made anew, else None."""
        ...

    def certificate_request(self) -> str:
        """Return a request for a certificate by which other hosts know this one, PEM; "" where none is needed."""
        ...

    def take_certificate(self, certificate: str, authority: str) -> None:
        """Be known by this certificate from now on, and trust those of the authority. Repeatable."""
        ...

    def files(self) -> tuple[VolumeFile, ...]:
        """Return everything that is kept, sorted; for audits."""
        ...

    def close(self) -> None:
        """Let go; exports go on. Safe to repeat."""
        ...
