"""What only real volumes can get wrong: images that lie, files that are half made, a full disk, who may read."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent.images import ImageCache
from kilonova.common.ids import new_uuid
from kilonova.image.safe_convert import convert_to_qcow2
from kilonova.objects import volume_orders as v
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import Aborted, Again, DriverError
from kilonova.virt.libvirt import storage_daemon, tools
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import real, until_done
from tests.security.image_fixtures import create

pytestmark = [pytest.mark.real, real]
GIB = 1 << 30


def quiet(text: str) -> None:
    """Nobody watches."""


def open_store(root: Path, image: Path | None = None) -> QcowVolumes:
    images = ImageCache(
        root.parent / "images", convert_to_qcow2, open_image=lambda _: (image or root).open("rb")
    )
    return QcowVolumes(VolumesConfig(root, "host1"), images, lambda *_: None)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "v"
    yield path
    storage_daemon.end(path / "daemon")


def source_of(image: Path, fmt: str) -> ImageSource:
    size = image.stat().st_size
    return ImageSource(image_id="i", url="image:i", disk_format=fmt, size=size)


def make(store: QcowVolumes, size_gib: int = 1, **more: object) -> v.VolumeMade:
    wanted = v.VolumeMake(volume_id=new_uuid(), size_gib=size_gib, **more)  # type: ignore[arg-type]
    made: v.VolumeMade = until_done(lambda: store.make(wanted, quiet))
    return made


def fill(path: str, mib: int) -> None:
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {mib}M", path],
        check=True,
        capture_output=True,
    )


def holds(path: str, mib: int) -> bool:
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P 7 0 {mib}M", path]
    done = subprocess.run(command, check=True, capture_output=True)
    return b"Pattern verification failed" not in done.stdout


def test_a_volume_from_an_image_is_complete_in_itself(root: Path, tmp_path: Path) -> None:
    """It has the wanted size, no file behind it, and nothing stays beside it."""
    image = create(tmp_path / "image", "qcow2", "64M")
    fill(str(image), 8)
    store = open_store(root, image)
    made = make(store, 2, image=source_of(image, "qcow2"))
    assert tools.virtual_size(Path(made.path)) == 2 * GIB
    assert holds(made.path, 8)
    info = subprocess.run(
        ["qemu-img", "info", "-f", "qcow2", made.path], check=True, capture_output=True, text=True
    )
    assert "backing" not in info.stdout
    assert [f.kind for f in store.files()] == ["volume"]
    assert Path(made.path).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("lie", ["vmdk", "too large", "backing file"])
def test_images_that_lie_leave_nothing(root: Path, tmp_path: Path, lie: str) -> None:
    """S1, S2: through the checked cache only; the reason is the tenant's to read."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0" * 1000)
    image = create(tmp_path / "image", "qcow2", "3G" if lie == "too large" else "1M")
    if lie == "backing file":
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, image],
            check=True,
        )
    store = open_store(root, image)
    source = source_of(image, "vmdk" if lie == "vmdk" else "qcow2")
    wanted = v.VolumeMake(volume_id=new_uuid(), size_gib=2, image=source)
    with pytest.raises(DriverError) as caught:
        until_done(lambda: store.make(wanted, quiet))
    assert str(tmp_path) not in caught.value.message
    assert store.files() == ()


def test_half_made_files_are_never_taken_up(root: Path) -> None:
    """What a process that was killed left is made anew, and what is whole stays."""
    store = open_store(root)
    made = make(store)
    fill(made.path, 4)
    volume, snapshot, copy = Path(made.path).stem, new_uuid(), new_uuid()
    for name in (f"snapshot-{snapshot}", f"volume-{copy}"):
        (root / "parts" / f"{name}.qcow2").write_bytes(b"half made")
    kept = until_done(lambda: store.snapshot(volume, snapshot, quiet))
    assert holds(kept.path, 4)
    wanted = v.VolumeMake(volume_id=copy, size_gib=1, source_volid=volume)
    assert holds(until_done(lambda: store.make(wanted, quiet)).path, 4)
    assert [f.kind for f in store.files()] == ["snapshot", "volume", "volume"]


def test_an_aborted_copy_is_gone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool is ended, and its file goes with it."""
    monkeypatch.setattr(tools, "clone", lambda *_: False)
    monkeypatch.setattr(tools, "POLL_S", 0.0)
    store = open_store(root)
    made = make(store)
    fill(made.path, 64)
    snapshot = new_uuid()

    def abort(text: str) -> None:
        raise Aborted("enough")

    with pytest.raises((Again, Aborted)):
        store.snapshot(Path(made.path).stem, snapshot, quiet)
    with pytest.raises(Aborted):
        store.snapshot(Path(made.path).stem, snapshot, abort)
    assert [f.kind for f in store.files()] == ["volume"]


def test_a_volume_that_is_written_elsewhere_is_not_copied(root: Path) -> None:
    """A torn copy would look like a good one: QEMU's own lock says who writes."""
    store = open_store(root)
    made = make(store)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", made.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.write(b"write 0 64k\n")
        writer.stdin.flush()
        assert b"wrote" in writer.stdout.readline()
        with pytest.raises(DriverError, match="in use"):
            store.snapshot(Path(made.path).stem, new_uuid(), quiet)
        with pytest.raises(Again):
            store.remove(Path(made.path).stem, quiet)
        writer.stdin.close()
    assert until_done(lambda: store.snapshot(Path(made.path).stem, new_uuid(), quiet))


def test_a_full_disk_in_the_middle_of_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error, the volume as it was, nothing half made; with room again it works."""
    monkeypatch.setattr(tools, "clone", lambda *_: False)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], check=True)
    try:
        store = open_store(small / "v")
        made = make(store)
        fill(made.path, 14)
        with pytest.raises(DriverError, match="no room"):
            until_done(lambda: store.snapshot(Path(made.path).stem, new_uuid(), quiet))
        assert holds(made.path, 14)
        assert [f.kind for f in store.files()] == ["volume"]
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert until_done(lambda: store.snapshot(Path(made.path).stem, new_uuid(), quiet))
    finally:
        subprocess.run(["umount", small], check=True)


def test_ids_are_ids(root: Path) -> None:
    """No id of anybody's becomes a path."""
    store = open_store(root)
    for bad in ("../../etc/passwd", "", "x" * 36):
        with pytest.raises(DriverError):
            store.make(v.VolumeMake(volume_id=bad, size_gib=1), quiet)
        with pytest.raises(DriverError):
            store.remove(bad, quiet)
        with pytest.raises(DriverError):
            store.remove_snapshot(bad, quiet)


def test_the_exports_of_guests_of_this_host(root: Path) -> None:
    """Without an address the daemon listens on a unix socket, in no network at all; a copy of an export is whole."""
    store = open_store(root)
    made = make(store)
    fill(made.path, 4)
    volume, snapshot = Path(made.path).stem, new_uuid()
    export = v.VolumeExport(attachment_id=new_uuid(), volume_id=volume, name="n")
    applied = store.apply(v.VolumeExports(host="host1", generation=1, exports=(export,)))
    assert (applied.port, applied.failed) == (0, ())
    url = f"nbd+unix:///n?socket={applied.address}"
    done = subprocess.run(["qemu-io", "-f", "raw", "-c", "read -P 7 0 4M", url], check=True)
    assert done.returncode == 0
    kept = until_done(lambda: store.snapshot(volume, snapshot, quiet))
    assert holds(kept.path, 4)
    store.apply(v.VolumeExports(host="host1", generation=2))
    assert not (root / "daemon" / "pid").exists()
