"""Where a file system can share blocks, copies of volumes at rest do: made at once, and taking no room (xfs, btrfs)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kilonova.common.ids import new_uuid
from kilonova.objects import volume_orders as v
from kilonova.virt.libvirt.volumes import QcowVolumes, VolumesConfig
from tests.contracts.test_driver import EmptyImages, real, until_done
from tests.contracts.test_volume_store import nobody, quiet

pytestmark = [pytest.mark.real, real]
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MIB = 1 << 20
DATA = 64 * MIB


@pytest.fixture(params=["xfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in a file."""
    kind = request.param
    maker = shutil.which(f"mkfs.{kind}", path=SEARCH)
    if maker is None:
        pytest.skip(f"there is no mkfs.{kind}")
    image, where = tmp_path / "image", tmp_path / "mounted"
    where.mkdir()
    with image.open("xb") as file:
        os.truncate(file.fileno(), 512 * MIB)
    subprocess.run([maker, "-q", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(
        ["mount", "-t", kind, "-o", "loop", str(image), str(where)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"{kind} cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def _used(place: Path) -> int:
    os.sync()
    facts = os.statvfs(place)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def _io(path: str, *commands: str) -> str:
    words = ["qemu-io", "-f", "qcow2", *(w for c in commands for w in ("-c", c)), path]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_copies_share_blocks(place: Path) -> None:
    """A snapshot and a clone take next to no room, each keeps its moment, and their removal touches no other."""
    with ExitStack() as stack:
        store = QcowVolumes(VolumesConfig(place / "volumes", "host1"), EmptyImages(), nobody)
        stack.callback(store.close)
        volume, snapshot, clone = new_uuid(), new_uuid(), new_uuid()
        made = until_done(lambda: store.make(v.VolumeMake(volume_id=volume, size_gib=1), quiet))
        _io(made.path, f"write -P 7 0 {DATA}")
        before = _used(place)
        assert before >= DATA
        kept = store.snapshot(volume, snapshot, quiet)  # at once: no Again
        again = store.make(v.VolumeMake(volume_id=clone, size_gib=1, source_volid=volume), quiet)
        assert _used(place) - before < DATA // 8
        _io(made.path, f"write -P 8 0 {MIB}")
        for path in (kept.path, again.path):
            assert "verification failed" not in _io(path, f"read -P 7 0 {DATA}")
        assert "verification failed" not in _io(made.path, f"read -P 8 0 {MIB}")
        assert until_done(lambda: store.remove(volume, quiet)) is True
        assert store.remove_snapshot(snapshot, quiet) is True
        assert "verification failed" not in _io(again.path, f"read -P 7 0 {DATA}")
        assert until_done(lambda: store.remove(clone, quiet)) is True
        assert store.files() == ()
