"""The files of guests: one directory per server, each file whole or not there, every format said aloud.

root.qcow2            an overlay over root.base.qcow2, a hard link into the image cache; or an empty disk
ephemeral0.raw, swap.raw
config-drive.iso, console.log, vnc.sock, nvram.fd, guest.json
rescue.qcow2, rescue.iso    of a rescued guest: what it boots from, and the config drive that tells its password
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from kilonova.common.ids import is_uuid
from kilonova.objects.guest import FileDisk, GuestBuild, Hardware, ImageSource, LocalDisk
from kilonova.virt.driver import DriverError, Progress

MIB = 1 << 20
GIB = 1 << 30
BASE = ".base.qcow2"  # the end of the name of a base image
NEW, ASIDE = ".new", ".aside"  # ends of the names of disks that are not in their place
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SHARED_FILE = "A volume that several servers write is reached by NBD, not as a file."
_LIMITS = ("--cpu=60", f"--as={2 * GIB}", "--core=0", "--")


class Cached(Protocol):
    """A base image."""

    @property
    def virtual_size(self) -> int: ...


class Images(Protocol):
    """The image cache (kilonova/agent/images.py)."""

    def link(self, source: ImageSource, target: Path, progress: Progress) -> Cached: ...

    def fetch(self, source: ImageSource, target: Path, progress: Progress) -> None: ...


class DiskFile(NamedTuple):
    """A file that a guest has as a disk. format: qcow2 or raw."""

    path: Path
    format: str


class GuestRecord(msgspec.Struct, frozen=True):
    """guest.json: what must be known of a guest before it is defined, and after its domain is gone."""

    server: str
    ports: tuple[str, ...] = ()
    hardware: Hardware | None = None
    tags: dict[str, str] = {}  # of its devices, by alias


class Owner(NamedTuple):
    """Who else may use the files: the group in which QEMU runs, None when QEMU is root or us."""

    group: int | None = None

    def give(self, path: Path, *, write: bool) -> None:
        """Let QEMU read, and ``write``, a file or directory; nobody else may."""
        if path.is_dir():
            mode = 0o700 if self.group is None else 0o2770
        elif self.group is None:
            mode = 0o600
        else:
            mode = 0o660 if write else 0o640
        if self.group is not None:
            os.chown(path, -1, self.group)
        path.chmod(mode)


class Disks:
    """The directory of all guests of a host."""

    def __init__(self, instances: Path, images: Images, owner: Owner) -> None:
        self.root = instances
        self.owner = owner
        self._images = images
        instances.mkdir(parents=True, exist_ok=True)
        instances.chmod(0o711)

    def directory(self, server_id: str) -> Path:
        """Return where a server's files are; whether they are is another question."""
        if not is_uuid(server_id):
            raise DriverError("The server's id is not a UUID.", server=server_id)
        return self.root / server_id.lower()

    def record(self, server_id: str) -> GuestRecord | None:
        """Return guest.json, None when there is none."""
        try:
            data = (self.directory(server_id) / "guest.json").read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=GuestRecord)
        except msgspec.MsgspecError as exc:
            raise DriverError("A file of the guest is damaged.", error=str(exc)) from exc

    def put_record(self, record: GuestRecord) -> None:
        """Write guest.json, and the directory if it is missing."""
        directory = self.directory(record.server)
        directory.mkdir(exist_ok=True)
        self.owner.give(directory, write=True)
        part = directory / "guest.json.part"
        part.write_bytes(msgspec.json.encode(record))
        part.chmod(0o600)
        os.replace(part, directory / "guest.json")

    def make(self, build: GuestBuild, progress: Progress) -> dict[str, DiskFile]:
        """Make what is missing of a build's local disks; return all by name. Raises Again, DriverError."""
        directory = self.directory(build.server_id)
        images = {i.image_id: i for i in build.images}
        found: dict[str, DiskFile] = {}
        for disk in build.disks:
            if not isinstance(disk, LocalDisk):
                continue
            file = found[disk.name] = self.file_of(directory, disk)
            if file.path.exists():
                continue
            progress(f"making disk {disk.name}")
            self._make_for(disk, file, images)
        return found

    def make_beside(
        self, build: GuestBuild, names: Iterable[str], mark: str, progress: Progress
    ) -> None:
        """Make these local disks beside those that are there: ``<file>.new``; one that is complete stays.

        mark: names their base images apart from those in use. Raises Again, DriverError.
        """
        directory = self.directory(build.server_id)
        images = {i.image_id: i for i in build.images}
        for disk in build.disks:
            if isinstance(disk, LocalDisk) and disk.name in names:
                path, fmt = self.file_of(directory, disk)
                beside = DiskFile(path.with_name(path.name + NEW), fmt)
                if not beside.path.exists():
                    progress(f"making disk {disk.name}")
                    self._make_for(disk, beside, images, f".{mark}")

    def prune_bases(self, server_id: str) -> None:
        """Remove base images that no disk of the server stands on any more."""
        directory = self.directory(server_id)
        used = {_backing(p) for p in directory.rglob("*.qcow2*") if not p.name.endswith(BASE)}
        for path in directory.glob(f"*{BASE}"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def make_empty(self, build: GuestBuild, sizes: Mapping[str, int]) -> None:
        """Make local disks anew, empty, of these sizes in bytes: what they are to hold is copied. DriverError: room."""
        directory = self.directory(build.server_id)
        for disk in build.disks:
            if isinstance(disk, LocalDisk) and disk.name in sizes:
                file = self.file_of(directory, disk)
                part = file.path.with_name(f"{file.path.name}.part")
                part.unlink(missing_ok=True)
                if file.format == "raw":
                    with part.open("xb") as f:
                        os.truncate(f.fileno(), sizes[disk.name])
                else:
                    self._create(part, sizes[disk.name])
                os.replace(part, file.path)
                self.owner.give(file.path, write=True)

    def existing(self, build: GuestBuild) -> dict[str, DiskFile]:
        """Return a build's local disks by name; DriverError when one is gone: it is never made anew from an image."""
        directory = self.directory(build.server_id)
        found = {
            d.name: self.file_of(directory, d) for d in build.disks if isinstance(d, LocalDisk)
        }
        missing = [name for name, file in found.items() if not file.path.exists()]
        if missing:
            raise DriverError("A disk of the server is not on its host.", missing=missing)
        return found

    def file_of(self, directory: Path, disk: LocalDisk) -> DiskFile:
        """Return the file that a local disk has."""
        if not _NAME.fullmatch(disk.name):
            raise DriverError("A disk of the server has an impossible name.", disk=disk.name)
        fmt = "raw" if disk.name == "swap" or disk.name.startswith("ephemeral") else "qcow2"
        return DiskFile(directory / f"{disk.name}.{fmt}", fmt)

    def found(self) -> dict[str, tuple[str, ...]]:
        """Return every server that has a directory, and the names of the local disks in it."""
        found = {}
        for server in filter(is_uuid, os.listdir(self.root)):
            with contextlib.suppress(FileNotFoundError):  # it goes just now
                names = os.listdir(self.root / server)
                disks = [n for n in names if n.endswith((".qcow2", ".raw"))]
                found[server] = tuple(
                    sorted(n.rpartition(".")[0] for n in disks if not n.endswith(BASE))
                )
        return found

    def drive_of(self, build: GuestBuild) -> Path:
        """Return the file that a build's config drive has."""
        if not _NAME.fullmatch(build.drive_name):
            raise DriverError("The config drive has an impossible name.", drive=build.drive_name)
        return self.directory(build.server_id) / f"{build.drive_name}.iso"

    def remove(self, server_id: str) -> bool:
        """Remove a server's directory; tell whether there was one. A half-removed one is removed by the next call."""
        directory = self.directory(server_id)
        if not directory.exists():
            return False
        try:
            shutil.rmtree(directory)
        except OSError as exc:
            raise DriverError("A disk of the server could not be removed.", error=str(exc)) from exc
        return True

    # -- one disk

    def _make_for(
        self, disk: LocalDisk, file: DiskFile, images: dict[str, ImageSource], mark: str = ""
    ) -> None:
        try:
            self._make_one(disk, file, images, mark)
            self.owner.give(file.path, write=True)
        except OSError as exc:
            raise DriverError(
                "The host has no room for the disk.", elsewhere=True, error=str(exc)
            ) from exc

    def _make_one(
        self, disk: LocalDisk, file: DiskFile, images: dict[str, ImageSource], mark: str
    ) -> None:
        part = file.path.with_name(f"{file.path.name}.part")
        part.unlink(missing_ok=True)
        size = disk.size_mib * MIB or disk.size_gib * GIB
        if file.format == "raw" and disk.image_id is not None:
            self._unpack(disk, part, images, size)
        elif file.format == "raw":
            with part.open("xb") as f:
                os.truncate(f.fileno(), size)
            if disk.name == "swap":
                run_tool("mkswap", "--quiet", "--", str(part))
            else:
                _format(part, disk)
        elif disk.image_id is None:
            self._create(part, size)
        else:
            source = _source(images, disk.image_id)
            base = file.path.with_name(f"{disk.name}{mark}{BASE}")
            fresh = not base.exists()
            virtual = self._images.link(source, base, _nobody).virtual_size
            if fresh and 0 < size < virtual:
                base.unlink()
            _fits(size, virtual)
            self._create(part, max(size, virtual), base)
        os.replace(part, file.path)

    def _unpack(
        self, disk: LocalDisk, part: Path, images: dict[str, ImageSource], size: int
    ) -> None:
        """Make a raw file of an image: an ephemeral disk that comes from another host."""
        base = part.with_name(f"{disk.name}{BASE}")
        base.unlink(missing_ok=True)
        virtual = self._images.link(_source(images, disk.image_id), base, _nobody).virtual_size
        try:
            _fits(size, virtual)
            run_tool(
                *("qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw"),
                *("--", base.name, part.name),
                cwd=part.parent,
            )
        finally:
            base.unlink(missing_ok=True)
        if size > part.stat().st_size:
            os.truncate(part, size)

    @staticmethod
    def _create(part: Path, size: int, base: Path | None = None) -> None:
        backing = () if base is None else ("-F", "qcow2", "-b", base.name)
        run_tool(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            *backing,
            "--",
            part.name,
            str(size),
            cwd=part.parent,
        )


def _source(images: dict[str, ImageSource], image_id: str | None) -> ImageSource:
    source = images.get(image_id or "")
    if source is None:
        raise DriverError("The order names no source of the image.", image=image_id)
    return source


def _fits(size: int, virtual: int) -> None:
    """Refuse an image that is larger than its disk. size: bytes; 0: the disk is as large as the image."""
    if size and size < virtual:
        raise DriverError(
            f"The disk of {size // MIB} MiB is too small for the image of {-(-virtual // MIB)} MiB."
        )


def _backing(path: Path) -> str:
    """Return the name of the base image in a qcow2 header, which only QEMU and we write. QEMU docs, interop/qcow2."""
    with path.open("rb") as f:
        head = f.read(20)
        f.seek(int.from_bytes(head[8:16], "big"))
        return f.read(int.from_bytes(head[16:20], "big")).decode(errors="replace")


def size_of(file: DiskFile) -> int:
    """Return the bytes that a guest sees. source: QEMU docs, interop/qcow2: bytes 24-31."""
    if file.format == "raw":
        return file.path.stat().st_size
    with file.path.open("rb") as f:
        head = f.read(32)
    return int.from_bytes(head[24:32], "big")


def stands_on_image(file: DiskFile) -> bool:
    """Tell whether a disk is an overlay over a base image."""
    return file.format == "qcow2" and bool(_backing(file.path))


def _nobody(text: str) -> None:
    """The order's own progress already says which disk is made."""


def _format(part: Path, disk: LocalDisk) -> None:
    """Put an empty file system on an ephemeral disk. source: Nova, ephemeral disks are ext4 labelled by name."""
    kind = disk.guest_format or "ext4"
    if kind in ("ext2", "ext3", "ext4"):
        run_tool(f"mkfs.{kind}", "-q", "-F", "-L", disk.name[:16], "--", str(part))
    elif kind == "vfat":
        run_tool("mkfs.vfat", "-n", disk.name[:11].upper(), "--", str(part))
    elif kind != "none":
        raise DriverError(f"This host cannot make the file system {kind}.", elsewhere=True)


def run_tool(*command: str, cwd: Path | None = None) -> None:
    """Run a disk tool on files of our own, with limits. Raises DriverError."""
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    prlimit = shutil.which("prlimit")
    if program is None or prlimit is None:
        raise DriverError("A program is missing on the host.", elsewhere=True, program=command[0])
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell, names of our own
            [prlimit, *_LIMITS, program, *command[1:]],
            cwd=cwd,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise DriverError("Making a disk took too long.", elsewhere=True) from exc
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace")[-1000:]
        raise DriverError(
            "A disk could not be made.", elsewhere=True, program=command[0], said=text
        )


def refuses(build: GuestBuild) -> str | None:
    """Return why the disks of a build cannot be made here."""
    for disk in build.disks:
        if isinstance(disk, LocalDisk) and disk.device_type not in ("disk", "cdrom"):
            return f"This host cannot make a {disk.device_type}."
        if isinstance(disk, FileDisk) and disk.format not in ("raw", "qcow2"):
            return f"This host cannot use a volume of format {disk.format}."
        if isinstance(disk, FileDisk) and disk.shareable and disk.format != "raw":
            return SHARED_FILE
    return None
