"""Incremental backups as qcow2 files: what is not as in the disk below, found by qemu-img, zeros said aloud.

A file that is kept names no file below it; that is written into its head again where it is put on another one.
source: QEMU docs, qemu-img rebase (safe mode compares the old and the new file below).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from kilonova.objects.guest import ImageSource
from kilonova.virt.driver import Progress
from kilonova.virt.libvirt import tools
from kilonova.virt.libvirt.disks import Images
from kilonova.virt.libvirt.tools import Tools


def stack(
    images: Images, chain: Sequence[ImageSource], part: Callable[[int], Path], progress: Progress
) -> Path:
    """Put a chain of backups on each other, the full one first; return the top. part(n): where the n-th one goes.

    What is there already is taken up. DriverError: one is not there, or not what its record says.
    """
    below = part(0)
    if not below.exists():
        images.link(chain[0], below, progress)
    for n, source in enumerate(chain[1:], 1):
        above = part(n)
        if not above.exists():
            coming = above.with_suffix(".coming")
            images.fetch(source, coming, progress)
            rebase_head(coming, below)
            coming.rename(above)
        below = above
    return below


def rebase_head(path: Path, below: Path | None) -> None:
    """Say which file is below a file, or that none is; its data stay as they are."""
    words = ("-b", "") if below is None else ("-b", str(below), "-F", "qcow2")
    tools.run_now("rebase", "-q", "-u", "-f", "qcow2", *words, "--", str(path))


def difference(runner: Tools, source: Path, below: Path, target: Path, progress: Progress) -> None:
    """Make ``target`` of what is in ``source`` and not as in ``below``; Again while it works."""
    if not runner.runs(target):
        target.unlink(missing_ok=True)
        words = ("-b", str(source), "-F", "qcow2", "--", str(target))
        tools.run_now("create", "-q", "-f", "qcow2", *words)
    runner.rebase(target, source, below, progress)
    rebase_head(target, None)
