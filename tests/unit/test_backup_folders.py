"""The folder of backups on a host: whole or not there, and nothing outside of it is ever opened."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from kilonova.agent import backup_folders
from kilonova.agent.backup_folders import MARKER, BackupFolders
from kilonova.agent.uploads import ImageSender
from kilonova.common.ids import new_uuid
from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import Aborted, DriverError

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def quiet(text: str) -> None:
    """Nobody watches."""


def folder(path: Path, marker: str = ONE) -> Path:
    """Make a folder as an operator does."""
    path.mkdir()
    (path / MARKER).write_text(f"{marker}\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What is backed up."""
    path = tmp_path / "data"
    path.write_bytes(os.urandom(3 << 20))
    return path


def source_of(location: str, data: Path) -> ImageSource:
    """Return a backup's file as its record says that it is."""
    return ImageSource(
        image_id=location.partition("/")[2],
        url=f"folder:{location}",
        disk_format="qcow2",
        size=data.stat().st_size,
        hash_algo="sha512",
        hash_value=hashlib.sha512(data.read_bytes()).hexdigest(),
    )


def test_written_read_and_removed(tmp_path: Path, data: Path) -> None:
    """Twice each; the sum and the place are what the sender hears; nobody but us may read."""
    path, backup = folder(tmp_path / "f"), new_uuid()
    folders = BackupFolders(path)
    for _ in range(2):
        sent = ImageSender(folders=folders)(f"folder:/{backup}", data, quiet)
        assert sent is not None and sent.location == f"{ONE}/{backup}"
    assert sorted(p.name for p in path.iterdir()) == sorted([f"{backup}.qcow2", MARKER])
    assert stat.S_IMODE((path / f"{backup}.qcow2").stat().st_mode) == 0o600
    assert folders.check(source_of(sent.location, data), quiet) == data.stat().st_size
    assert (folders.remove(sent.location), folders.remove(sent.location)) == (True, False)
    with pytest.raises(DriverError, match="data are gone"):
        folders.check(source_of(sent.location, data), quiet)


def test_older_folders_are_read(tmp_path: Path, data: Path) -> None:
    """After the setting changed, by the marker and whatever the folder is called now; one that is nowhere is said."""
    first = BackupFolders(folder(tmp_path / "first"))
    location = first.put(f"/{new_uuid()}", data, quiet).location
    both = BackupFolders(folder(tmp_path / "second", TWO), [tmp_path / "first"])
    assert both.check(source_of(location, data), quiet)
    assert both.put(f"/{new_uuid()}", data, quiet).location.startswith(TWO)
    with pytest.raises(DriverError, match="a folder that this host does not have"):
        BackupFolders(tmp_path / "second").check(source_of(location, data), quiet)
    assert both.remove(location)


def test_a_folder_that_is_not_mounted(tmp_path: Path, data: Path) -> None:
    """Nothing is written below a mount point, and what is there stays."""
    (tmp_path / "empty").mkdir()
    for path, said in (("empty", "no marker"), ("nowhere", "is not there")):
        folders = BackupFolders(tmp_path / path)
        for act in (
            lambda f=folders: f.put(f"/{new_uuid()}", data, quiet),
            lambda f=folders: f.remove(f"{ONE}/{new_uuid()}"),
            lambda f=folders: f.check(source_of(f"{ONE}/{new_uuid()}", data), quiet),
        ):
            with pytest.raises(DriverError, match=said):
                act()
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(DriverError, match="no backup folder"):
        BackupFolders().put(f"/{new_uuid()}", data, quiet)
    assert BackupFolders().forget(f"/{new_uuid()}") is False


@pytest.mark.parametrize("marker", ["", "here", "../../etc", "x" * 5000])
def test_a_marker_that_is_none(tmp_path: Path, marker: str) -> None:
    """It has to be a UUID."""
    with pytest.raises(DriverError, match="not a UUID"):
        BackupFolders(folder(tmp_path / "f", marker)).remove(f"/{new_uuid()}")


def test_links_are_not_followed(tmp_path: Path, data: Path) -> None:
    """In the folder's path, as the marker, as a backup, as what is being written; a directory is no backup either."""
    real, backup = folder(tmp_path / "f"), new_uuid()
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(DriverError, match="symbolic links"):
        BackupFolders(tmp_path / "link").put(f"/{backup}", data, quiet)
    folders, secret = BackupFolders(real), tmp_path / "secret"
    secret.write_bytes(data.read_bytes())
    (real / f"{backup}.qcow2").symlink_to(secret)
    (real / f"{backup}.part").symlink_to(secret)
    with pytest.raises(DriverError, match="could not be read"):
        folders.check(source_of(f"{ONE}/{backup}", data), quiet)
    folders.put(f"/{backup}", data, quiet)
    assert not (real / f"{backup}.qcow2").is_symlink() and secret.read_bytes() == data.read_bytes()
    folders.remove(f"/{backup}")
    (real / f"{backup}.qcow2").mkdir()
    with pytest.raises(DriverError, match="not a file"):
        folders.check(source_of(f"{ONE}/{backup}", data), quiet)
    os.mkfifo(real / f"{ONE}.qcow2")
    with pytest.raises(DriverError, match="not a file"):
        folders.check(source_of(f"{ONE}/{ONE}", data), quiet)
    other = tmp_path / "g"
    other.mkdir()
    (other / MARKER).symlink_to(real / MARKER)
    with pytest.raises(DriverError, match="no marker"):
        BackupFolders(other).put(f"/{backup}", data, quiet)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "/",
        "../x",
        "/../../etc/passwd",
        f"{ONE}/../{TWO}",
        f"..//{ONE}",
        f"/{ONE}/{TWO}",
        "/x\0y",
    ],
)
def test_places_outside(tmp_path: Path, data: Path, where: str) -> None:
    """A place is ids and nothing else."""
    folders = BackupFolders(folder(tmp_path / "f"))
    for act in (lambda: folders.put(where, data, quiet), lambda: folders.remove(where)):
        with pytest.raises(DriverError, match="is not one"):
            act()


def test_what_was_tampered_with_or_cut_off(tmp_path: Path, data: Path) -> None:
    """One byte, the end, one byte more: each is said, and the file stays for whoever looks into it."""
    path, backup = folder(tmp_path / "f"), new_uuid()
    folders = BackupFolders(path)
    source = source_of(folders.put(f"/{backup}", data, quiet).location, data)
    file, whole = path / f"{backup}.qcow2", data.read_bytes()
    for content, said in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "checksum is wrong"),
        (whole[:-1], "cut off"),
        (whole + b"x", "cut off, or longer"),
    ):
        file.write_bytes(content)
        with pytest.raises(DriverError, match=said):
            folders.check(source, quiet)
        assert file.read_bytes() == content
    file.write_bytes(whole)
    assert folders.check(source, quiet)


def test_nothing_half_written_stays(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full folder, a failing disk, an abort: the backup before is as it was, and there is no part."""
    path, backup = folder(tmp_path / "f"), new_uuid()
    folders, hit = BackupFolders(path), []
    folders.put(f"/{backup}", data, quiet)
    before = (path / f"{backup}.qcow2").read_bytes()

    def abort(text: str) -> None:
        if "writing the backup: 6" in text:
            hit.append(text)
            raise Aborted("given up")

    with pytest.raises(Aborted):
        folders.put(f"/{backup}", data, abort)
    for code, said in ((errno.ENOSPC, "no room"), (errno.EIO, "could not be written")):

        def fail(fd: int, code: int = code) -> None:
            hit.append(code)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(backup_folders.os, "fsync", fail)
        with pytest.raises(DriverError, match=said):
            folders.put(f"/{backup}", data, quiet)
        monkeypatch.undo()
    assert len(hit) == 3
    assert (path / f"{backup}.qcow2").read_bytes() == before
    assert sorted(p.name for p in path.iterdir()) == sorted([f"{backup}.qcow2", MARKER])
