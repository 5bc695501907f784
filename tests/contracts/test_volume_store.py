"""What every volume store promises, on the simulated one and on real files."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kilonova.agent.images import CachedImage
from kilonova.common.ids import new_uuid
from kilonova.image.inspect import Limits, inspect
from kilonova.objects import volume_orders as v
from kilonova.objects.guest import ImageSource
from kilonova.objects.volume import NbdConnection
from kilonova.virt.driver import Again, DriverError, Progress
from kilonova.virt.fake.world import World
from kilonova.virt.libvirt import exporter
from kilonova.virt.volumes import VolumeStore
from tests.contracts.test_driver import EmptyImages, real, until_done


def quiet(text: str) -> None:
    """Nobody watches."""


def nobody(url: str, path: Path, progress: Progress) -> None:
    """Sends nothing."""


@dataclass
class Host:
    """A store; ``open`` gives the same one after a restart. sent: what was uploaded.

    files: real ones. scratch: a directory.
    """

    open: Callable[["Host"], VolumeStore]
    second: Callable[[ExitStack], VolumeStore]  # another host's
    sent: dict[str, Path] = field(default_factory=dict)
    scratch: Path = Path()
    files: bool = False

    def __post_init__(self) -> None:
        self.store = self.open(self)

    def send(self, url: str, path: Path, progress: Progress) -> None:
        kept = self.scratch / f"sent-{new_uuid()}"
        kept.write_bytes(path.read_bytes())
        self.sent[url] = kept

    def make(self, size_gib: int = 1, **more: object) -> str:
        wanted = v.VolumeMake(volume_id=new_uuid(), size_gib=size_gib, **more)  # type: ignore[arg-type]
        made = until_done(lambda: self.store.make(wanted, quiet))
        assert (made.size_gib, made.format) == (size_gib, "qcow2")
        assert wanted.volume_id in made.path
        return wanted.volume_id

    def snapshot(self, volume: str, snapshot: str) -> v.VolumeMade:
        made: v.VolumeMade = until_done(lambda: self.store.snapshot(volume, snapshot, quiet))
        return made

    def remove_all(self) -> None:
        self.store.apply(v.VolumeExports(host="host1", generation=1 << 40))
        for file in self.store.files():
            if file.kind == "snapshot":
                self.store.remove_snapshot(file.id, quiet)
            elif file.kind == "volume":
                until_done(lambda f=file: self.store.remove(f.id, quiet))


def simulated(stack: ExitStack, path: Path) -> Host:
    def again(host: Host) -> VolumeStore:
        world = World(path / "guests.sqlite")
        stack.callback(world.close)
        return world.volumes("host1", host.send)

    def second(stack: ExitStack) -> VolumeStore:
        world = World(path / "guests.sqlite")
        stack.callback(world.close)
        return world.volumes("host2")

    return Host(again, second, scratch=path)


def files(stack: ExitStack, path: Path) -> Host:
    from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig

    def again(host: Host) -> VolumeStore:
        store = QcowVolumes(
            VolumesConfig(path / "volumes", "host1", address="127.0.0.1"), EmptyImages(), host.send
        )
        stack.callback(store.close)
        return store

    def second(stack: ExitStack) -> VolumeStore:
        config = VolumesConfig(path / "second", "host2", address="127.0.0.1")
        store = QcowVolumes(config, EmptyImages(), nobody)
        stack.callback(store.close)
        return store

    host = Host(again, second, scratch=path, files=True)
    stack.callback(exporter.end_all, path / "volumes")
    return host


@pytest.fixture(
    params=[
        pytest.param(simulated, id="fake"),
        pytest.param(files, id="files", marks=[pytest.mark.real, real]),
    ]
)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        yield request.param(stack, tmp_path)


def test_life_of_a_volume(host: Host) -> None:
    """Each step twice; a restart of the agent changes nothing; the end leaves nothing."""
    volume, snapshot = host.make(), new_uuid()
    wanted = v.VolumeMake(volume_id=volume, size_gib=1)
    assert host.store.make(wanted, quiet).size_gib == 1
    for _ in range(2):
        assert host.store.extend(volume, 2, quiet).size_gib == 2
    assert host.store.extend(volume, 1, quiet).size_gib == 2  # never smaller
    for _ in range(2):
        assert host.snapshot(volume, snapshot).size_gib == 2
    host.store.close()
    host.store = host.open(host)
    assert [(f.kind, f.size_gib) for f in host.store.files()] == [("snapshot", 2), ("volume", 2)]
    assert until_done(lambda: host.store.remove(volume, quiet)) is True
    assert until_done(lambda: host.store.remove(volume, quiet)) is False
    grown = host.make(3, snapshot_id=snapshot)  # a snapshot stands by itself
    copy = host.make(3, source_volid=grown)
    assert host.store.remove_snapshot(snapshot, quiet) is True
    assert host.store.remove_snapshot(snapshot, quiet) is False
    assert {f.id for f in host.store.files()} == {grown, copy}
    host.remove_all()
    assert host.store.files() == ()


def test_a_volume_is_written_anew_and_back(host: Host) -> None:
    """The old data are aside, also after a restart, until they are back or forgotten; each step twice."""
    volume = host.make(2)
    source = ImageSource(image_id="i", url="image:i", disk_format="qcow2", size=1)
    wanted = v.VolumeMake(volume_id=volume, size_gib=2, image=source)
    for _ in range(2):
        assert until_done(lambda: host.store.reimage(wanted, quiet)).size_gib == 2
    host.store.close()
    host.store = host.open(host)
    assert [(f.kind, f.size_gib) for f in host.store.files()] == [("aside", 2), ("volume", 2)]
    assert host.store.restore_aside(volume, quiet) is True
    assert host.store.restore_aside(volume, quiet) is False
    assert [f.kind for f in host.store.files()] == ["volume"]
    until_done(lambda: host.store.reimage(wanted, quiet))
    assert (host.store.forget_aside(volume), host.store.forget_aside(volume)) == (True, False)
    assert [f.kind for f in host.store.files()] == ["volume"]
    until_done(lambda: host.store.reimage(wanted, quiet))
    host.remove_all()
    assert host.store.files() == ()
    with pytest.raises(DriverError):
        until_done(lambda: host.store.reimage(wanted, quiet))
    assert host.store.files() == ()


def test_what_cannot_be(host: Host) -> None:
    """Nothing is left of it."""
    volume = host.make(2)
    for call in (
        lambda: host.store.make(
            v.VolumeMake(volume_id=new_uuid(), size_gib=1, source_volid=volume), quiet
        ),
        lambda: host.store.make(
            v.VolumeMake(volume_id=new_uuid(), size_gib=1, snapshot_id=new_uuid()), quiet
        ),
        lambda: host.store.extend(new_uuid(), 2, quiet),
        lambda: host.store.snapshot(new_uuid(), new_uuid(), quiet),
    ):
        with pytest.raises(DriverError):
            until_done(call)
    assert [f.id for f in host.store.files()] == [volume]


def test_upload(host: Host) -> None:
    """The image's bytes are the volume's, in the format that was asked for; the host keeps none of it."""
    volume = host.make(1)
    upload = v.VolumeUpload(volume_id=volume, image_id=new_uuid(), url="image:1")
    done = until_done(lambda: host.store.upload(upload, quiet))
    found = inspect(host.sent["image:1"], "qcow2", Limits(None))
    assert found.virtual_size == done.virtual_size == 1 << 30
    assert done.size == host.sent["image:1"].stat().st_size
    host.store.forget_upload(upload)
    assert [f.kind for f in host.store.files()] == ["volume"]


def test_upload_of_a_snapshot(host: Host) -> None:
    """Its bytes, and its size, whatever has become of the volume."""
    volume, snapshot = host.make(1), new_uuid()
    host.snapshot(volume, snapshot)
    host.store.extend(volume, 2, quiet)
    upload = v.VolumeUpload(
        volume_id=volume, image_id=new_uuid(), url="image:2", snapshot_id=snapshot
    )
    until_done(lambda: host.store.upload(upload, quiet))
    assert inspect(host.sent["image:2"], "qcow2", Limits(None)).virtual_size == 1 << 30
    missing = upload.replace(snapshot_id=new_uuid())
    with pytest.raises(DriverError):
        until_done(lambda: host.store.upload(missing, quiet))


def test_copies_of_what_a_guest_writes_are_somebody_elses(host: Host) -> None:
    """The store waits for them, and takes up nothing that was not finished."""
    volume, snapshot = host.make(1), new_uuid()
    targets: list[Path] = []

    def never(target: Path, progress: Progress) -> None:
        targets.append(target)
        raise Again(0.01)

    for _ in range(2):
        with pytest.raises(Again):
            host.store.snapshot(volume, snapshot, quiet, never)
    assert targets[0] == targets[1]
    host.store.remove_snapshot(snapshot, quiet)
    assert [f.kind for f in host.store.files()] == ["volume"]


def test_exports(host: Host) -> None:
    """Exactly what is wanted; generations only grow; an exported volume neither grows nor goes."""
    volume = host.make(1)
    one = v.VolumeExport(attachment_id=new_uuid(), volume_id=volume, name=new_uuid())
    bad = v.VolumeExport(attachment_id=new_uuid(), volume_id=new_uuid(), name=new_uuid())
    wanted = v.VolumeExports(host="host1", generation=2, exports=(one, bad))
    for _ in range(2):
        applied = host.store.apply(wanted)
        assert (applied.host, applied.generation) == ("host1", 2)
        assert applied.address and applied.port
        assert [a for a, _ in applied.failed] == [bad.attachment_id]
    with pytest.raises(DriverError):
        host.store.extend(volume, 2, quiet)
    with pytest.raises(Again):
        host.store.remove(volume, quiet)
    assert host.store.apply(v.VolumeExports(host="host1", generation=1)).generation == 2
    with pytest.raises(Again):
        host.store.remove(volume, quiet)
    assert host.store.apply(v.VolumeExports(host="host1", generation=3)).failed == ()
    assert host.store.extend(volume, 2, quiet).size_gib == 2
    assert until_done(lambda: host.store.remove(volume, quiet)) is True


def test_a_volume_comes_from_another_host(host: Host) -> None:
    """What another host exports is copied whole, and only as long as it does; done again, it stays."""
    volume = host.make(1)
    if host.files:
        path = host.scratch / "volumes" / "volumes" / f"{volume}.qcow2"
        words = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", str(path)]
        subprocess.run(words, check=True, capture_output=True)
    there = v.VolumeExport(attachment_id=new_uuid(), volume_id=volume, name="e" * 32, readonly=True)
    applied = host.store.apply(v.VolumeExports(host="host1", generation=1, exports=(there,)))
    remote = NbdConnection(
        attachment_id=there.attachment_id,
        volume_id=volume,
        host=applied.address,
        port=applied.port,
        export=there.name,
        readonly=True,
    )
    wanted = v.VolumeMake(volume_id=volume, size_gib=1, remote=remote)
    with ExitStack() as stack:
        other = host.second(stack)
        wrong = wanted.replace(remote=remote.replace(export="f" * 32))
        with pytest.raises(DriverError):
            until_done(lambda: other.make(wrong, quiet))
        assert other.files() == ()
        for _ in range(2):
            made = until_done(lambda: other.make(wanted, quiet))
            assert made.size_gib == 1
        if host.files:
            words = ["qemu-io", "-f", "qcow2", "-r", "-c", "read -P 7 1M 64k", made.path]
            said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            assert "read 65536/65536" in said and "verification failed" not in said
        host.store.apply(v.VolumeExports(host="host1", generation=2))
        assert until_done(lambda: host.store.remove(volume, quiet)) is True
        assert [f.id for f in other.files()] == [volume]
        assert until_done(lambda: other.remove(volume, quiet)) is True


class Sent:
    """An image store of what a host sent, for the same host; ``fetch`` and ``link`` as an agent's cache."""

    def __init__(self) -> None:
        self.host: Host | None = None

    def _path(self, source: ImageSource) -> Path:
        assert self.host is not None
        return self.host.sent[source.url]

    def link(self, source: ImageSource, target: Path, progress: Progress) -> CachedImage:
        words = ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2"]
        subprocess.run([*words, str(self._path(source)), str(target)], check=True)
        return CachedImage(target, 1 << 30)

    def fetch(self, source: ImageSource, target: Path, progress: Progress) -> None:
        target.write_bytes(self._path(source).read_bytes())


@real
@pytest.mark.real
def test_incremental_backups_of_files(tmp_path: Path) -> None:
    """What changed, what became zeros and what grew, three times; each restore is the disk as it was then."""
    from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig

    images = Sent()
    config = VolumesConfig(tmp_path / "volumes", "host1")
    host = Host(
        lambda h: QcowVolumes(config, images, h.send), lambda stack: host.store, scratch=tmp_path
    )
    images.host = host
    volume = host.make(1)
    path = tmp_path / "volumes" / "volumes" / f"{volume}.qcow2"
    chain: tuple[ImageSource, ...] = ()
    sums: list[str] = []
    for commands in (
        ["write -P 1 0 1M", "write -P 2 8M 64k", "write -P 3 100M 192k"],
        ["write -P 4 64k 4k", "write -z 100M 64k", "write -P 5 200M 4k"],
        ["write -P 1 64k 4k", "write -P 6 1000M 64k"],
    ):
        words = [w for c in commands for w in ("-c", c)]
        subprocess.run(
            ["qemu-io", "-f", "qcow2", *words, str(path)], check=True, capture_output=True
        )
        url = f"image:{len(chain)}"
        upload = v.VolumeUpload(volume_id=volume, image_id=new_uuid(), url=url, base=chain)
        until_done(lambda u=upload: host.store.upload(u, quiet))
        source = ImageSource(
            image_id=upload.image_id,
            url=url,
            disk_format="qcow2",
            size=host.sent[url].stat().st_size,
        )
        chain = (*chain, source)
        sums.append(_content(path))
        assert b"layer" not in host.sent[url].read_bytes()[:4096]  # no name of a file below
    sizes = [host.sent[s.url].stat().st_size for s in chain]
    assert sizes[1] < sizes[0] and sizes[2] < sizes[0]
    assert len(set(sums)) == 3
    for n, wanted in enumerate(sums, 1):
        make = v.VolumeMake(volume_id=new_uuid(), size_gib=1, image=chain[0], layers=chain[1:n])
        made = until_done(lambda m=make: host.store.make(m, quiet))
        assert _content(Path(made.path)) == wanted
    assert not [f for f in host.store.files() if f.kind == "part"]
    host.store.close()


def _content(path: Path) -> str:
    """Return the checksum of the disk in a file."""
    raw = path.with_suffix(".raw")
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)]
    subprocess.run(words, check=True)
    with raw.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    raw.unlink()
    return found
