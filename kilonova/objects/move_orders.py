"""What a host agent is told when a guest moves to another host. Payloads of Order and Answer.

verb of the Order      payload          answer payload
guest_leave            GuestLeave       GuestState     turn the guest off, unplug it, keep its disks; undo: GuestReturn
guest_return           GuestReturn      GuestBuilt     the guest that left is there again; undo: GuestLeave
guest_copy_disks       GuestCopyDisks   DisksCopied    copy local disks of a guest that is off to files of the host
guest_send_disks       GuestSendDisks   DisksSent      give those files to the image service, and remove them
guest_check            GuestBuild       GuestChecked   tell whether this host can make the guest; nothing is made
The undo of guest_copy_disks has the same payload and removes the files. The destination is told guest_build.
"""

from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestBuild


class GuestLeave(Versioned, frozen=True, kw_only=True):
    """Turn a guest off (at once after ``timeout_s``) and take its ports away; it stays defined, with its disks."""

    server_id: str
    timeout_s: float = 60.0


class GuestReturn(Versioned, frozen=True, kw_only=True):
    """Define a guest anew over the disks that it left; build.start: whether it runs afterwards."""

    server_id: str
    build: GuestBuild


class GuestCopyDisks(Versioned, frozen=True, kw_only=True):
    """Copy disks. disks: (serial, file); file: a UUID that names the copy on the host."""

    server_id: str
    disks: tuple[tuple[str, str], ...]


class CopiedDisk(Versioned, frozen=True, kw_only=True):
    """One copy, in the driver's own words (SM-15). size: bytes of the file. virtual_size: bytes of the disk inside."""

    serial: str
    disk_format: str
    container_format: str
    size: int
    virtual_size: int


class DisksCopied(Versioned, frozen=True, kw_only=True):
    copies: tuple[CopiedDisk, ...]


class GuestSendDisks(Versioned, frozen=True, kw_only=True):
    """Give images their bytes. files: (file, url); url: "image:<id>" in one process, else signed."""

    server_id: str
    files: tuple[tuple[str, str], ...]


class DisksSent(Versioned, frozen=True, kw_only=True):
    """size: bytes of all files."""

    size: int


class GuestChecked(Versioned, frozen=True, kw_only=True):
    """The host can make the guest."""
