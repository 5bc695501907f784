"""A guest's disks as they were before a resize, kept aside until it is confirmed, and exchanged by a revert.

kept-disks/            the old disks, whole once it has this name
reverted-disks/        after a revert: the disks of the new size
<either>.part/         being filled; what is missing of it is still in its place
<either>.full/         filled: what is to come into its place is still in the other one
Every step is a rename, so that each moment of a crash is one of these and is gone on from.
"""

import os
import shutil
from pathlib import Path

from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.disks import run_tool

KEPT, REVERTED = "kept-disks", "reverted-disks"


def disk_files(directory: Path) -> list[Path]:
    """Return the local disks of a guest that are in their place; base images are not among them."""
    found = [*directory.glob("*.qcow2"), *directory.glob("*.raw")]
    return sorted(p for p in found if not p.name.endswith(".base.qcow2"))


def is_there(directory: Path, name: str) -> bool:
    """Tell whether disks are aside under a name, also when their exchange was begun."""
    other = KEPT if name == REVERTED else REVERTED
    ends = (name, f"{other}.part", f"{other}.full")
    return any((directory / end).exists() for end in ends)


def keep(directory: Path) -> None:
    """Copy the disks aside; a complete copy of an earlier try stays as it is. DriverError: no room."""
    kept, part = directory / KEPT, directory / "copies.part"
    if kept.exists():
        return
    _remove(part)
    part.mkdir(mode=0o700)
    try:
        for path in disk_files(directory):
            _copy(path, part / path.name)
        os.replace(part, kept)
    except (OSError, DriverError) as exc:
        _remove(part)
        raise DriverError("The host has no room to keep the disks.", error=str(exc)) from exc


def exchange(directory: Path, source: str, target: str) -> bool:
    """Put what is aside as ``source`` in its place, and what is there aside as ``target``; False: nothing was aside.

    Safe to repeat after a crash at any moment. An exchange the other way that was begun is ended or taken back first.
    """
    _settle_other_way(directory, source, target)
    part, full = directory / f"{target}.part", directory / f"{target}.full"
    if (directory / source).exists() and not full.exists():
        part.mkdir(mode=0o700, exist_ok=True)
        for path in disk_files(directory):
            os.replace(path, part / path.name)
        os.replace(part, full)
    if not full.exists():
        return False
    _bring_in(directory, source)
    os.replace(full, directory / target)
    return True


def drop(directory: Path) -> bool:
    """Remove all that is aside; tell whether anything was. Not during an exchange."""
    existed = False
    for name in (KEPT, REVERTED, "copies.part"):
        existed |= (directory / name).exists()
        _remove(directory / name)
    return existed


def _settle_other_way(directory: Path, source: str, target: str) -> None:
    """End an exchange from ``target`` to ``source`` that a crash left, so that it can be turned round."""
    part, full = directory / f"{source}.part", directory / f"{source}.full"
    if part.exists():
        for path in sorted(part.iterdir()):
            os.replace(path, directory / path.name)
        part.rmdir()
    elif full.exists():
        _bring_in(directory, target)
        os.replace(full, directory / source)


def _bring_in(directory: Path, source: str) -> None:
    aside = directory / source
    if aside.exists():
        for path in sorted(aside.iterdir()):
            os.replace(path, directory / path.name)
        aside.rmdir()


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its holes, by reference where the file system can."""
    run_tool("cp", "--reflink=auto", "--sparse=always", "--", str(source), str(target))


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise DriverError("Kept disks could not be removed.", error=str(exc)) from exc
