"""Volumes of a host with real guests: qcow2 files, each complete in itself, exported by qemu-storage-daemons.

ROOT/volumes/<volume>.qcow2      0660 with QEMU's group, else 0600
ROOT/snapshots/<snapshot>.qcow2  0600
ROOT/aside/<volume>.qcow2        0600: what a volume had before it was written anew, until that is certain
ROOT/parts/<kind>-<id>.qcow2     what is being made; never taken up again once nobody makes it
ROOT/exports.json, daemon, daemons, public   of what is exported (exporter.py)

Who copies a volume: the storage daemon if it is exported, the guest's driver if a guest of this host has it, else
its blocks are shared where the file system can, or copied by qemu-img, whose locks keep writers away meanwhile.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kilonova.common.errors import KilonovaError
from kilonova.common.ids import is_uuid
from kilonova.common.log import get_logger
from kilonova.objects.volume_orders import (
    ExportsApplied,
    VolumeExports,
    VolumeMade,
    VolumeMake,
    VolumeUpload,
    VolumeUploaded,
)
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.libvirt import layers, tools
from kilonova.virt.libvirt.disks import Images, Owner
from kilonova.virt.libvirt.exporter import Exporter, ExporterConfig
from kilonova.virt.libvirt.identity import HostIdentity
from kilonova.virt.libvirt.tools import Tools
from kilonova.virt.volumes import Copy, SendImage, SentFile, VolumeFile

log = get_logger(__name__)
GIB = 1 << 30
EXPORT_POLL_S = 0.3
_UPLOADS = frozenset({"qcow2", "raw", "vmdk", "vdi"})


@dataclass(frozen=True)
class VolumesConfig:
    """root: the directory. group: QEMU's, None when that is ours. address: where other hosts reach this one, if any.

    identity: by which hosts know each other; without one exports on an address, and what is fetched, have no TLS.
    """

    root: Path
    host: str
    group: int | None = None
    address: str | None = None
    tools: Tools = field(default_factory=Tools)
    identity: HostIdentity | None = None


class QcowVolumes:
    """One host's volumes. Threads may share it."""

    def __init__(self, config: VolumesConfig, images: Images, send: SendImage) -> None:
        self._config = config
        self._owner = Owner(config.group)
        self._images = images
        self._send = send
        self.tools = config.tools
        self._copied: set[Path] = set()  # copies that an upload made whole
        self._begun: set[Path] = set()  # copies that the daemon makes
        self._root = config.root.resolve()
        for name in ("", "volumes", "snapshots", "aside", "parts", "public"):
            directory = self._root / name
            directory.mkdir(mode=0o700, exist_ok=True)
            if config.group is not None:
                os.chown(directory, -1, config.group)
                directory.chmod(0o2750)  # QEMU's group may pass, and new files belong to it
        self._exporter = Exporter(
            ExporterConfig(self._root, config.host, self._owner, config.address, config.identity)
        )

    # -- volumes

    def make(self, make: VolumeMake, progress: Progress, copy: Copy | None = None) -> VolumeMade:
        """Make a volume's file."""
        path, size = self._path("volume", make.volume_id), make.size_gib * GIB
        if path.exists():
            return self._made(path)
        part = self._part("volume", make.volume_id)
        with self._giving_up(part):
            if make.image is not None:
                self._from_image(make, part, progress)
            elif make.remote is not None:
                self.tools.fetch(make.remote, size, part, progress, self._certificates())
            elif make.snapshot_id is not None:
                source = self._source("snapshot", make.snapshot_id, size)
                self._copy_file(source, part, progress)
            elif make.source_volid is not None:
                self._source("volume", make.source_volid, size)
                self._copy_volume(make.source_volid, part, progress, copy)
            else:
                progress("making the volume")
                tools.create(part, size)
            self._grow(part, size)
            self._finish(part, path)
            self._owner.give(path, write=True)
        return self._made(path)

    def remove(self, volume_id: str, progress: Progress) -> bool:
        """Remove the file."""
        path = self._path("volume", volume_id)
        self._wait_until_free(volume_id, path, progress)
        self._end_part(self._part("volume", volume_id))
        self._part("image", volume_id).unlink(missing_ok=True)
        self._forget_layers(volume_id)
        self.forget_aside(volume_id)
        return _unlink(path)

    def _wait_until_free(self, volume_id: str, path: Path, progress: Progress) -> None:
        if self._exporter.exported(volume_id):
            progress("waiting until the volume is not exported any more")
            raise Again(EXPORT_POLL_S)
        if path.exists() and tools.is_written(path):
            progress("waiting until no server has the volume")
            raise Again(EXPORT_POLL_S)

    def reimage(self, make: VolumeMake, progress: Progress) -> VolumeMade:
        """Make a file of the image beside the old one, then exchange them by two renames."""
        path, aside = self._path("volume", make.volume_id), self._aside(make.volume_id)
        self._wait_until_free(make.volume_id, path, progress)
        if make.image is None:
            raise DriverError("There is no image to write.")
        if not aside.exists():
            self._there("volume", make.volume_id)
        part = self._part("volume", make.volume_id)
        with self._giving_up(part):
            self._from_image(make, part, progress)
            self._grow(part, make.size_gib * GIB)
            part.chmod(0o600)
            tools.sync(part)
            if not aside.exists():
                os.replace(path, aside)
            os.replace(part, path)
            self._owner.give(path, write=True)
        return self._made(path)

    def restore_aside(self, volume_id: str, progress: Progress) -> bool:
        """Rename the old file back; what is being made instead of it goes."""
        path, aside = self._path("volume", volume_id), self._aside(volume_id)
        self._end_part(self._part("volume", volume_id))
        self._part("image", volume_id).unlink(missing_ok=True)
        if not aside.exists():
            return False
        progress("making the volume what it was")
        os.replace(aside, path)
        self._owner.give(path, write=True)
        return True

    def forget_aside(self, volume_id: str) -> bool:
        """Remove the old file."""
        return _unlink(self._aside(volume_id))

    def _aside(self, volume_id: str) -> Path:
        return self._root / "aside" / self._path("volume", volume_id).name

    def extend(
        self, volume_id: str, size_gib: int, progress: Progress, *, exported: bool = False
    ) -> VolumeMade:
        """Grow the file, unless it has that size: a guest that runs grew it, then."""
        path, size = self._there("volume", volume_id), size_gib * GIB
        if exported and self._exporter.exported(volume_id):
            progress("extending the volume")
            self._exporter.grow(volume_id, size)
        elif tools.virtual_size(path) < size:
            if self._exporter.exported(volume_id):
                raise DriverError("A volume cannot grow while another host has it.")
            progress("extending the volume")
            self._grow(path, size)
        return self._made(path)

    # -- snapshots

    def snapshot(
        self, volume_id: str, snapshot_id: str, progress: Progress, copy: Copy | None = None
    ) -> VolumeMade:
        """Copy the volume."""
        path = self._path("snapshot", snapshot_id)
        if path.exists():
            return self._made(path)
        self._there("volume", volume_id)
        part = self._part("snapshot", snapshot_id)
        with self._giving_up(part):
            self._copy_volume(volume_id, part, progress, copy)
            self._finish(part, path)
        return self._made(path)

    def remove_snapshot(self, snapshot_id: str, progress: Progress) -> bool:
        """Remove the file."""
        self._end_part(self._part("snapshot", snapshot_id))
        return _unlink(self._path("snapshot", snapshot_id))

    # -- images

    def upload(
        self, upload: VolumeUpload, progress: Progress, copy: Copy | None = None
    ) -> VolumeUploaded:
        """Copy the volume, in the image's format, and send that."""
        if upload.disk_format not in _UPLOADS:
            raise DriverError(f"This host cannot make an image of format {upload.disk_format}.")
        kept = upload.snapshot_id
        path = self._there("volume" if kept is None else "snapshot", kept or upload.volume_id)
        copied, sent = self._upload_parts(upload)
        with self._giving_up(copied, sent):
            source = path
            if kept is None and (copy is not None or self._exporter.exported(upload.volume_id)):
                if copied not in self._copied:
                    self._copy_volume(upload.volume_id, copied, progress, copy)
                    self._copied.add(copied)
                source = copied
            if upload.base:
                self._difference(upload, source, sent, progress)
            else:
                self.tools.convert(source, sent, progress, target_format=upload.disk_format)
            kept_at = self._send(upload.url, sent, progress) or SentFile("", "")
            size, virtual = sent.stat().st_size, tools.virtual_size(path)
        self.forget_upload(upload)
        return VolumeUploaded(
            size=size, virtual_size=virtual, location=kept_at.location, hash_value=kept_at.sha512
        )

    def _difference(
        self, upload: VolumeUpload, path: Path, target: Path, progress: Progress
    ) -> None:
        """Make ``target`` of what is not as in the backups below."""
        below = layers.stack(self._images, upload.base, self._layer(upload.image_id), progress)
        layers.difference(self.tools, path, below, target, progress)

    def forget_upload(self, upload: VolumeUpload) -> None:
        """Remove the copies."""
        for part in self._upload_parts(upload):
            self._end_part(part)
        self._forget_layers(upload.image_id)

    def _upload_parts(self, upload: VolumeUpload) -> tuple[Path, Path]:
        return self._part("upload", upload.image_id), self._part("sent", upload.image_id)

    # -- exports

    def apply(self, exports: VolumeExports) -> ExportsApplied:
        """Keep what is wanted, then have exactly that."""
        return self._exporter.apply(exports)

    def check(self) -> ExportsApplied | None:
        """Start what died again, and try again what failed."""
        return self._exporter.check()

    def certificate_request(self) -> str:
        """Return a request of this host's key."""
        identity = self._config.identity
        return "" if identity is None else identity.request()

    def take_certificate(self, certificate: str, authority: str) -> None:
        """Keep it where QEMU reads it."""
        if self._config.identity is not None:
            self._config.identity.take(certificate, authority)

    # -- all

    def files(self) -> tuple[VolumeFile, ...]:
        """Return what is in the directories; of a damaged file, or one that goes just now, the size is 0."""
        found = [
            VolumeFile(kind, path.stem, tools.size_if_known(path) // GIB)
            for kind, name in (("volume", "volumes"), ("snapshot", "snapshots"), ("aside", "aside"))
            for path in (self._root / name).glob("*.qcow2")
        ]
        found += [
            VolumeFile("part", path.stem.partition("-")[2], 0)
            for path in (self._root / "parts").iterdir()
        ]
        return tuple(sorted(found))

    def close(self) -> None:
        """End tools that run; the daemon goes on."""
        self.tools.close()

    # -- parts

    def _certificates(self) -> Path | None:
        return None if self._config.identity is None else self._config.identity.directory()

    def _path(self, kind: str, id_: str) -> Path:
        if not is_uuid(id_):
            raise DriverError("The volume's id is not a UUID.", id=id_)
        return self._root / f"{kind}s" / f"{id_.lower()}.qcow2"

    def _there(self, kind: str, id_: str) -> Path:
        path = self._path(kind, id_)
        if not path.exists():
            raise DriverError(f"The {kind} is not on this host.", id=id_)
        return path

    def _part(self, kind: str, id_: str) -> Path:
        if not is_uuid(id_):
            raise DriverError("The volume's id is not a UUID.", id=id_)
        return self._root / "parts" / f"{kind}-{id_.lower()}.qcow2"

    def _source(self, kind: str, id_: str, size: int) -> Path:
        path = self._there(kind, id_)
        if tools.virtual_size(path) > size:
            raise DriverError("The volume is smaller than its source.", id=id_)
        return path

    def _from_image(self, make: VolumeMake, part: Path, progress: Progress) -> None:
        assert make.image is not None  # noqa: S101 - for the type checker; the caller looked
        if make.layers:
            self._from_chain(make, part, progress)
            return
        base = self._part("image", make.volume_id)
        virtual = self._images.link(make.image, base, progress).virtual_size
        try:
            if virtual > make.size_gib * GIB:
                raise DriverError(
                    f"The volume of {make.size_gib} GiB is too small for the image of {-(-virtual // GIB)} GiB."
                )
            self._copy_file(base, part, progress)
        finally:
            base.unlink(missing_ok=True)  # the tool that copies it has it open

    def _from_chain(self, make: VolumeMake, part: Path, progress: Progress) -> None:
        """Make a whole disk of a full backup and what others add to it."""
        assert make.image is not None  # noqa: S101 - for the type checker; the caller looked
        chain = (make.image, *make.layers)
        try:
            top = layers.stack(self._images, chain, self._layer(make.volume_id), progress)
            if tools.virtual_size(top) > make.size_gib * GIB:
                raise DriverError("The volume is smaller than the backup.", id=make.volume_id)
            self.tools.convert(top, part, progress)
        except Again:
            raise
        except KilonovaError:
            self._forget_layers(make.volume_id)
            raise
        self._forget_layers(make.volume_id)

    def _layer(self, id_: str) -> Callable[[int], Path]:
        first = self._part("layer", id_)
        return lambda n: first.with_suffix(f".{n}")

    def _forget_layers(self, id_: str) -> None:
        for path in self._part("layer", id_).parent.glob(f"layer-{id_.lower()}.*"):
            path.unlink(missing_ok=True)

    def _copy_volume(
        self, volume_id: str, part: Path, progress: Progress, copy: Copy | None
    ) -> None:
        """Copy a volume as it is at one moment; see this file's head for by whom."""
        path = self._there("volume", volume_id)
        if self._exporter.exported(volume_id):
            self._copy_exported(volume_id, path, part, progress)
        elif copy is not None:
            copy(part, progress)
        else:
            self._copy_file(path, part, progress)

    def _copy_exported(self, volume_id: str, path: Path, part: Path, progress: Progress) -> None:
        if part not in self._begun:
            self._exporter.end_copy(part)  # one of our life before
            tools.create(part, tools.virtual_size(path))
            self._begun.add(part)
        self._exporter.copy(volume_id, part, progress)
        self._begun.discard(part)

    def _copy_file(self, source: Path, part: Path, progress: Progress) -> None:
        """Copy a file that no program writes: at once, or by a tool that keeps writers away."""
        if not self.tools.runs(part):
            if tools.is_written(source):
                raise DriverError("The volume is in use.", path=str(source))
            if tools.clone(source, part):
                return
        self.tools.convert(source, part, progress)

    def _grow(self, path: Path, size: int) -> None:
        if tools.virtual_size(path) < size:
            tools.run_now("resize", "-q", "-f", "qcow2", "--", str(path), str(size))

    @staticmethod
    def _finish(part: Path, path: Path) -> None:
        part.chmod(0o600)
        tools.sync(part)
        os.replace(part, path)

    @contextmanager
    def _giving_up(self, *parts: Path) -> Iterator[None]:
        """Leave no part behind when what makes it fails or is aborted; what waits keeps it."""
        try:
            yield
        except Again:
            raise
        except OSError as exc:
            self._end_parts(parts)
            raise DriverError("The host has no room for the volume.", error=str(exc)) from exc
        except KilonovaError:
            self._end_parts(parts)
            raise

    def _end_parts(self, parts: tuple[Path, ...]) -> None:
        for part in parts:
            self._end_part(part)

    def _end_part(self, part: Path) -> None:
        self.tools.end(part)
        self._copied.discard(part)
        self._begun.discard(part)
        self._exporter.end_copy(part)
        part.unlink(missing_ok=True)

    def _made(self, path: Path) -> VolumeMade:
        return VolumeMade(
            path=str(path),
            format="qcow2",
            size_gib=tools.virtual_size(path) // GIB,
            allocated=path.stat().st_blocks * 512,
        )


def _unlink(path: Path) -> bool:
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed
