"""Detect what a file is, compare with what it was said to be, then let its own parser measure it."""

import os
import stat
import struct
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

from kilonova.image.inspect import qcow2, vdi, vmdk
from kilonova.image.inspect.parts import NO_LIMITS, Limits, Piece, Refused, check_virtual_size

CHECKER_VERSION = 1
"""Grows with every new rule; a cached image that an older one passed is checked again (RELIABILITY S8)."""

DISK_FORMATS = ("ami", "ari", "aki", "iso", "qcow2", "raw", "vdi", "vmdk")
_PLAIN = ("raw", "ami", "ari", "aki")
_PARSERS = {"qcow2": qcow2.virtual_size, "vmdk": vmdk.virtual_size, "vdi": vdi.virtual_size}
_HEAD = 2 << 20
_NOT_MINE = (ValueError, AttributeError, LookupError, TypeError, RuntimeError, struct.error)
_MAGICS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"conectix", "vhd"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"SKUL\xba\xbe", "luks"),
    (0, b"OOOM", "cow"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (0x8001, b"CD001", "iso"),
    (0x8001, b"NSR02", "iso"),
    (0x8001, b"NSR03", "iso"),
)


class Found(NamedTuple):
    """What the bytes are. format: one of DISK_FORMATS. virtual_size: bytes of the disk inside."""

    format: str
    virtual_size: int


def inspect(path: Path | str, declared_format: str, limits: Limits = NO_LIMITS) -> Found:
    """Return what the file is; Refused (400) when it is not a sound image of the declared format.

    Reads the first 2 MiB and the format's tables, never the whole file (but of a VMDK). Raises OSError as open(2) does.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return inspect_fd(fd, declared_format, limits)
    finally:
        os.close(fd)


def inspect_fd(fd: int, declared_format: str, limits: Limits = NO_LIMITS) -> Found:
    """As inspect, of a file that is open; its position is not used."""
    if declared_format not in DISK_FORMATS:
        raise Refused(
            f"disk_format {declared_format[:40]!r} is not taken; one of {', '.join(DISK_FORMATS)} is."
        )
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise Refused("The image is not an ordinary file.")
    f = Piece(fd, info.st_size)
    if f.size == 0:
        raise Refused("The image is empty.")
    ours, theirs = detect(f)
    _agree(ours | theirs.keys(), declared_format)
    parser = _PARSERS.get(declared_format)
    if parser is not None:
        size = parser(f, limits)
        _safety(theirs.get(declared_format))
        return Found(declared_format, size)
    check_virtual_size(f.size, limits)
    return Found(declared_format, f.size)


def _agree(found: Set[str], declared: str) -> None:
    """Raise Refused unless what was found is what was declared, and nothing besides."""
    wanted = "raw" if declared in _PLAIN else declared
    content = set(found)
    if wanted in ("raw", "iso"):
        content.discard("gpt")  # a boot sector is the guest's business; every hybrid ISO has one
    if not content:
        content = {"raw"}
    if len(content) > 1:
        raise Refused(
            f"The image is several formats at once ({', '.join(sorted(content))}); that is not taken."
        )
    (is_a,) = content
    if is_a == "luks":
        raise Refused("The image is encrypted (LUKS); encrypted images are not taken.")
    if is_a != wanted:
        raise Refused(f"The image is declared {declared}, and its bytes are {is_a}.")


def detect(f: Piece) -> tuple[set[str], dict[str, Any]]:
    """Return every format that the bytes look like to us, and to oslo.utils (name -> its inspector; gpt: MBR, too)."""
    head = f.some(0, _HEAD)
    found = {name for at, magic, name in _MAGICS if head[at : at + len(magic)] == magic}
    if _is_vmdk_text(head):
        found.add("vmdk")
    return found, _second_opinion(f, head, whole="vmdk" in found)


def _is_vmdk_text(head: bytes) -> bool:
    """Tell whether QEMU would take this for a VMDK descriptor, and a little more."""
    text = head[:4096].lower().lstrip()
    return text.startswith(b"# disk descriptorfile") or (
        b"createtype" in text and b"parentcid" in text
    )


def _second_opinion(f: Piece, head: bytes, whole: bool) -> dict[str, Any]:
    """Ask oslo.utils. ``whole``: it needs the file to its end (a VMDK's footer)."""
    from oslo_utils.imageutils import format_inspector as oslo

    not_mine = (oslo.ImageFormatError, *_NOT_MINE)
    alive = [cls() for cls in oslo.ALL_FORMATS.values() if cls.NAME != "raw"]
    offset, piece = 0, head
    while piece and alive:
        for one in list(alive):
            try:
                one.eat_chunk(piece)
            except not_mine:
                alive.remove(one)
        offset += len(piece)
        piece = f.some(offset, 1 << 20) if whole else b""
    matches: dict[str, Any] = {}
    for one in alive:
        one.finish()
        try:
            if one.format_match:
                matches[one.NAME] = one
        except not_mine:
            continue
    return matches


def _safety(inspector: Any) -> None:
    """Let oslo.utils refuse what our parser took; a format that only we recognise is refused, too."""
    from oslo_utils.imageutils import format_inspector as oslo

    if inspector is None:
        raise Refused("The image is damaged: it ends too early.")
    try:
        inspector.safety_check()
    except oslo.ImageFormatError as exc:
        raise Refused("The image is damaged: it ends too early.") from exc
    except oslo.SafetyCheckFailed as exc:
        reasons = "; ".join(f"{name}: {why}" for name, why in sorted(exc.failures.items()))
        raise Refused(f"The image is not safe to use ({reasons[:200]}).") from exc
