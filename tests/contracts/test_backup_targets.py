"""Every target of backups: a chain that comes back byte by byte, removed twice, and what is gone or changed is said.

Data are real qcow2 files; hosts fetch, check and put chains together as those with real guests do.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import pytest

from kilonova.agent.backup_folders import MARKER, BackupFolders
from kilonova.agent.images import ImageCache
from kilonova.agent.uploads import ImageSender
from kilonova.common.errors import NotFound
from kilonova.common.ids import new_uuid
from kilonova.image.safe_convert import convert_to_qcow2
from kilonova.objects import volume_orders as v
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import real, until_done

pytestmark = [pytest.mark.real, real]
BLOCK = 1 << 16
FOLDER = "8f6f2f0e-3f6b-4b5e-9a39-0d1f4c6f2a11"


def quiet(text: str) -> None:
    """Nobody watches."""


@dataclass
class Target:
    """A target as a host knows it. path: where a backup lies. url: of a new one; source: of one that was sent."""

    sender: ImageSender
    images: ImageCache
    path: Callable[[str], Path]
    url: Callable[[str], str]
    sent: dict[str, v.VolumeUploaded] = field(default_factory=dict)

    def source(self, backup: str) -> ImageSource:
        """Return what the record of a backup says."""
        done = self.sent[backup]
        where = f"folder:{done.location}" if done.location else self.url(backup)
        algo = "sha512"
        value = done.hash_value or hashlib.sha512(self.path(backup).read_bytes()).hexdigest()
        return ImageSource(
            image_id=backup,
            url=where,
            disk_format="qcow2",
            size=done.size,
            hash_algo=algo,
            hash_value=value,
        )


def images(root: Path) -> Target:
    """The image store: who takes and opens files by their ids."""
    store = root / "store"
    store.mkdir()

    def take(image: str, pieces: object) -> None:
        (store / image).write_bytes(b"".join(pieces))  # type: ignore[arg-type]

    def opened(image: str) -> BufferedReader:
        if not (store / image).exists():
            raise NotFound("The image has no data.")
        return (store / image).open("rb")

    cache = ImageCache(root / "cache", convert_to_qcow2, open_image=opened)
    return Target(ImageSender(take), cache, lambda b: store / b, lambda b: f"image:{b}")


def folder(root: Path) -> Target:
    """A folder."""
    path = root / "backups"
    path.mkdir()
    (path / MARKER).write_text(FOLDER)
    folders = BackupFolders(path)
    cache = ImageCache(root / "cache", convert_to_qcow2)
    cache.open_folder = folders.open
    return Target(
        ImageSender(folders=folders),
        cache,
        lambda b: path / f"{b}.qcow2",
        lambda b: f"folder:/{b}",
    )


@pytest.fixture(params=[images, folder], ids=["images", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    found: Target = request.param(tmp_path)
    return found


def open_store(root: Path, target: Target) -> QcowVolumes:
    return QcowVolumes(VolumesConfig(root, "host1"), target.images, target.sender)


def write(store_root: Path, volume: str, *commands: str) -> str:
    """Have qemu-io write into a volume; return its content's checksum."""
    path = store_root / "volumes" / f"{volume}.qcow2"
    words = [w for c in commands for w in ("-c", c)]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, str(path)], check=True, capture_output=True)
    return content(path)


def content(path: Path) -> str:
    """Return the checksum of the disk in a file: of every 64 KiB that are not zeros, with where they are."""
    raw = path.with_suffix(".raw")
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)]
    subprocess.run(words, check=True)
    digest, at, size = hashlib.sha256(), 0, raw.stat().st_size
    with raw.open("rb") as file:
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break  # nothing but zeros from here on
            piece = os.pread(file.fileno(), BLOCK, at)
            if piece.strip(b"\0"):
                digest.update(at.to_bytes(8, "big") + piece)
            at += BLOCK
    raw.unlink()
    return digest.hexdigest()


def back_up(store: QcowVolumes, target: Target, volume: str, chain: list[str]) -> str:
    """Back a volume up; chain: the backups that it adds to."""
    backup = new_uuid()
    base = tuple(target.source(b) for b in chain)
    upload = v.VolumeUpload(volume_id=volume, image_id=backup, url=target.url(backup), base=base)
    target.sent[backup] = until_done(lambda: store.upload(upload, quiet))
    return backup


def restore(store: QcowVolumes, target: Target, chain: list[str]) -> Path:
    """Make a volume of a chain."""
    sources = [target.source(b) for b in chain]
    make = v.VolumeMake(
        volume_id=new_uuid(), size_gib=1, image=sources[0], layers=tuple(sources[1:])
    )
    made: v.VolumeMade = until_done(lambda: store.make(make, quiet))
    return Path(made.path)


def chain_of(root: Path, target: Target) -> tuple[QcowVolumes, str, list[str], list[str]]:
    """Return (store, volume, three backups that add to each other, the content of each)."""
    store, volume = open_store(root, target), new_uuid()
    until_done(lambda: store.make(v.VolumeMake(volume_id=volume, size_gib=1), quiet))
    chain: list[str] = []
    sums = []
    for commands in (
        ("write -P 1 0 1M", "write -P 3 100M 192k"),
        ("write -P 4 64k 4k", "write -z 100M 64k"),
        ("write -P 6 1000M 64k",),
    ):
        sums.append(write(root, volume, *commands))
        chain.append(back_up(store, target, volume, chain))
    return store, volume, chain, sums


def test_each_of_a_chain_is_what_the_volume_was(target: Target, tmp_path: Path) -> None:
    """Also on another host, and when the volume and its host are gone; nothing stays beside it."""
    store, volume, chain, sums = chain_of(tmp_path / "one", target)
    until_done(lambda: store.remove(volume, quiet))
    store.close()
    other = open_store(tmp_path / "two", target)
    for n, wanted in enumerate(sums, 1):
        assert content(restore(other, target, chain[:n])) == wanted
    assert {f.kind for f in other.files()} == {"volume"}
    other.close()


@pytest.mark.parametrize("change", ["gone", "cut", "tampered"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_chain_that_is_not_what_it_was(
    target: Target, tmp_path: Path, change: str, which: int
) -> None:
    """Its full backup or one that adds to it: the restore fails, a volume that was to have it keeps its data."""
    store, volume, chain, sums = chain_of(tmp_path / "one", target)
    sources = [target.source(b) for b in chain]
    path = target.path(chain[which])
    whole = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-4096] if change == "cut" else whole[:-1] + b"\xff")
    for kept in (tmp_path / "cache").glob("*"):
        kept.unlink()  # of the full backup, by its checksum: as good as the backup itself
    make = v.VolumeMake(volume_id=volume, size_gib=1, image=sources[0], layers=tuple(sources[1:]))
    fresh = open_store(tmp_path / "two", target)
    with pytest.raises(DriverError):
        until_done(lambda: fresh.make(make.replace(volume_id=new_uuid()), quiet))
    with pytest.raises(DriverError):
        until_done(lambda: store.reimage(make, quiet))
    assert content(tmp_path / "one" / "volumes" / f"{volume}.qcow2") == sums[-1]
    assert ([f.kind for f in store.files()], fresh.files()) == (["volume"], ())
    for each in (store, fresh):
        each.close()
