"""The volume store of one simulated host: files are records of the world, exports too. Faults: faults.py."""

import tempfile
from pathlib import Path

import msgspec

from kilonova.objects.volume_orders import (
    ExportsApplied,
    VolumeExports,
    VolumeMade,
    VolumeMake,
    VolumeUpload,
    VolumeUploaded,
)
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.fake.files import FakeExports, FakeFile, write_empty_disk
from kilonova.virt.fake.host import HANG_S
from kilonova.virt.fake.world import World
from kilonova.virt.volumes import CheckSource, Copy, SendImage, SentFile, VolumeFile

PORT = 10809
EMPTY_BYTES = 4 << 16


class FakeVolumes:
    """One host's volumes. Threads may share it."""

    def __init__(self, world: World, host: str, send: SendImage | None = None) -> None:
        self._world = world
        self._host = host
        self._send = send
        self.check_source: CheckSource | None = None
        """Who has folders of backups reads what a volume is made of here, as a real host would."""
        with world.lock:
            world.files.first_exports(host)

    def make(self, make: VolumeMake, progress: Progress, copy: Copy | None = None) -> VolumeMade:
        """Make a record."""
        with self._world.lock:
            found = self._find("volume", make.volume_id)
            if found is not None:
                return self._made(found)
            source = self._source(make)
        self._check(make, progress)
        image_id = "" if make.image is None else make.image.image_id
        if make.layers:
            image_id = make.layers[-1].image_id
        if make.remote is not None and source is not None:
            image_id = source.image_id
        wanted = FakeFile(
            kind="volume", id=make.volume_id, size_gib=make.size_gib, image_id=image_id
        )
        if source is not None and source.size_gib > make.size_gib:
            raise DriverError("The volume is smaller than its source.", size_gib=source.size_gib)
        return self._make(wanted, "volume_make", make.volume_id, progress, copy)

    def remove(self, volume_id: str, progress: Progress) -> bool:
        """Drop the records."""
        self._fail("volume_remove", volume_id, progress)
        with self._world.lock:
            self._wait_until_free(volume_id, progress)
            self._world.files.drop(self._host, "part", volume_id)
            self._world.files.drop(self._host, "aside", volume_id)
            return self._world.files.drop(self._host, "volume", volume_id)

    def reimage(self, make: VolumeMake, progress: Progress) -> VolumeMade:
        """Put the record aside and make another one; volume_reimage_fail_late strikes between the two."""
        volume_id, image = make.volume_id, make.image
        if image is None:
            raise DriverError("There is no image to write.")
        with self._world.lock:
            self._wait_until_free(volume_id, progress)
            before = self._find("aside", volume_id)
            if before is None:
                before = msgspec.structs.replace(self._get(volume_id), kind="aside")
        self._check(make, progress)
        self._fail("volume_reimage", volume_id, progress)
        with self._world.lock:
            self._world.files.put(self._host, before)
            if self._world.faults.strikes("volume_reimage_fail_late", self._host, volume_id):
                raise DriverError("The host could not do it.", fault="volume_reimage_fail_late")
            last = (image, *make.layers)[-1]
            file = msgspec.structs.replace(before, kind="volume", image_id=last.image_id)
            self._world.files.put(self._host, file)
            return self._made(file)

    def restore_aside(self, volume_id: str, progress: Progress) -> bool:
        """Put it back."""
        self._fail("volume_restore", volume_id, progress)
        with self._world.lock:
            before = self._find("aside", volume_id)
            if before is None:
                return False
            self._world.files.put(self._host, msgspec.structs.replace(before, kind="volume"))
            return self._world.files.drop(self._host, "aside", volume_id)

    def forget_aside(self, volume_id: str) -> bool:
        """Drop it."""
        with self._world.lock:
            return self._world.files.drop(self._host, "aside", volume_id)

    def _wait_until_free(self, volume_id: str, progress: Progress) -> None:
        """Raise Again while anybody may have the volume. The lock is held."""
        if self._exported(volume_id):
            progress("waiting until the volume is not exported any more")
            raise Again(HANG_S)
        if self._world.written_at(volume_id, self._host):
            progress("waiting until no server has the volume")
            raise Again(HANG_S)

    def extend(
        self, volume_id: str, size_gib: int, progress: Progress, *, exported: bool = False
    ) -> VolumeMade:
        """Change the record."""
        self._fail("volume_extend", volume_id, progress)
        with self._world.lock:
            file = self._get(volume_id)
            if file.size_gib >= size_gib:
                return self._made(file)
            if self._exported(volume_id) and not exported:
                raise DriverError("A volume cannot grow while another host has it.")
            if exported and (broken := self._world.breaks_for(volume_id, self._host)):
                raise DriverError("A guest would lose the volume for a moment.", servers=broken)
            file = msgspec.structs.replace(file, size_gib=size_gib)
            self._world.files.put(self._host, file)
            return self._made(file)

    def snapshot(
        self, volume_id: str, snapshot_id: str, progress: Progress, copy: Copy | None = None
    ) -> VolumeMade:
        """Make a record."""
        with self._world.lock:
            found = self._find("snapshot", snapshot_id)
            if found is not None:
                return self._made(found)
            size_gib = self._get(volume_id).size_gib
        wanted = FakeFile(kind="snapshot", id=snapshot_id, size_gib=size_gib, volume_id=volume_id)
        return self._make(wanted, "snapshot", volume_id, progress, copy)

    def remove_snapshot(self, snapshot_id: str, progress: Progress) -> bool:
        """Drop the records."""
        with self._world.lock:
            found = self._find("snapshot", snapshot_id)
        self._fail("snapshot_remove", snapshot_id if found is None else found.volume_id, progress)
        with self._world.lock:
            self._world.files.drop(self._host, "part", snapshot_id)
            return self._world.files.drop(self._host, "snapshot", snapshot_id)

    def upload(
        self, upload: VolumeUpload, progress: Progress, copy: Copy | None = None
    ) -> VolumeUploaded:
        """Send a small image of an empty disk, if anybody takes images."""
        with self._world.lock:
            file = self._get(upload.volume_id) if upload.snapshot_id is None else None
            file = file or self._find("snapshot", upload.snapshot_id or "")
            if file is None:
                raise DriverError("The snapshot is not on this host.", snapshot=upload.snapshot_id)
            part = FakeFile(kind="part", id=upload.image_id, size_gib=file.size_gib)
            self._world.files.put(self._host, part)
        self._fail("volume_upload", upload.volume_id, progress)
        if copy is not None:
            copy(part.path(self._host), progress)
        size, kept_at = EMPTY_BYTES, None
        if self._send is not None:
            with tempfile.TemporaryDirectory(prefix="kilonova-simulated-") as scratch:
                path = Path(scratch) / "disk"
                if upload.disk_format == "raw":
                    path.write_bytes(bytes(EMPTY_BYTES))
                else:
                    write_empty_disk(path, file.size_gib)
                kept_at = self._send(upload.url, path, progress)
                size = path.stat().st_size
        self.forget_upload(upload)
        found = kept_at or SentFile("", "")
        return VolumeUploaded(
            size=size,
            virtual_size=file.size_gib << 30,
            location=found.location,
            hash_value=found.sha512,
        )

    def forget_upload(self, upload: VolumeUpload) -> None:
        """Drop the record."""
        with self._world.lock:
            self._world.files.drop(self._host, "part", upload.image_id)

    def apply(self, exports: VolumeExports) -> ExportsApplied:
        """Export what is there."""
        files, faults = self._world.files, self._world.faults
        with self._world.lock:
            known = files.exports(self._host) or FakeExports()
            failed: list[tuple[str, str]] = []
            if exports.generation >= known.generation:
                works = []
                for export in exports.exports:
                    if self._find("volume", export.volume_id) is None:
                        failed.append((export.attachment_id, "The volume is not on this host."))
                    elif faults.strikes("export_fail", self._host, export.volume_id):
                        failed.append((export.attachment_id, "The volume could not be exported."))
                    else:
                        works.append(export)
                known = FakeExports(generation=exports.generation, exports=tuple(works))
                files.put_exports(self._host, known)
        return ExportsApplied(
            host=self._host,
            generation=known.generation,
            address=self._host,
            port=PORT,
            failed=tuple(failed),
        )

    def check(self) -> ExportsApplied | None:
        """Nothing can die."""
        return None

    def certificate_request(self) -> str:
        """Simulated hosts have no wire between them."""
        return ""

    def take_certificate(self, certificate: str, authority: str) -> None:
        """Not needed."""

    def files(self) -> tuple[VolumeFile, ...]:
        """Return the records of this host."""
        with self._world.lock:
            return tuple(
                sorted(
                    VolumeFile(f.kind, f.id, f.size_gib) for f in self._world.files.of(self._host)
                )
            )

    def close(self) -> None:
        """Nothing is held."""

    # -- parts

    def _make(
        self, wanted: FakeFile, verb: str, volume_id: str, progress: Progress, copy: Copy | None
    ) -> VolumeMade:
        part = msgspec.structs.replace(wanted, kind="part")
        with self._world.lock:
            self._world.files.put(self._host, part)
        progress("making the file")
        self._fail(verb, volume_id, progress)
        if copy is not None:
            copy(part.path(self._host), progress)
        with self._world.lock:
            self._world.files.put(self._host, wanted)
        return self._made(wanted)

    def _check(self, make: VolumeMake, progress: Progress) -> None:
        """Read the backups in folders that a volume is made of."""
        chain = () if make.image is None else (make.image, *make.layers)
        for source in chain:
            if self.check_source is not None and source.url.startswith("folder:"):
                self.check_source(source, progress)

    def _source(self, make: VolumeMake) -> FakeFile | None:
        if make.remote is not None:
            return self._remote(make.remote.export)
        for kind, id_ in (("snapshot", make.snapshot_id), ("volume", make.source_volid)):
            if id_ is not None:
                found = self._find(kind, id_)
                if found is None:
                    raise DriverError("The volume's source is not on this host.", source=id_)
                return found
        return None

    def _remote(self, name: str) -> FakeFile:
        """Return what a host exports under a name."""
        for host, export in self._world.files.all_exports():
            if export.name == name:
                found = self._world.files.find(host, "volume", export.volume_id)
                if found is not None:
                    return found
        raise DriverError("The volume's host does not export it.", export=name)

    def _find(self, kind: str, id_: str) -> FakeFile | None:
        return self._world.files.find(self._host, kind, id_)

    def _get(self, volume_id: str) -> FakeFile:
        found = self._find("volume", volume_id)
        if found is None:
            raise DriverError("The volume is not on this host.", volume=volume_id)
        return found

    def _exported(self, volume_id: str) -> bool:
        known = self._world.files.exports(self._host)
        return known is not None and any(e.volume_id == volume_id for e in known.exports)

    def _made(self, file: FakeFile) -> VolumeMade:
        return VolumeMade(
            path=str(file.path(self._host)),
            format="qcow2",
            size_gib=file.size_gib,
            allocated=EMPTY_BYTES,
        )

    def _fail(self, verb: str, volume_id: str, progress: Progress) -> None:
        faults = self._world.faults
        if faults.strikes("volume_hang", self._host, volume_id):
            progress("hanging")
            raise Again(HANG_S)
        for fault in (f"{verb}_fail", f"{verb}_fail_once"):
            if faults.strikes(fault, self._host, volume_id):
                raise DriverError("The host could not do it.", fault=fault)
