"""VMDK, only the two kinds that are complete in one file: monolithicSparse and streamOptimized.

source: VMware "Virtual Disk Format 5.0"; QEMU block/vmdk.c. Everything else may name other files (OSSA-2023-002).
"""

import re
import struct

from kilonova.image.inspect.parts import Limits, Piece, Refused, check_virtual_size

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_EXTENT = re.compile(r'(rw|rdonly)\s+(\d+)\s+sparse\s+"[^"/\\:]+"(\s+0)?')
_EXTENT_WORDS = ("rw", "rdonly", "noaccess")
_FIELD = re.compile(r"([a-z0-9_.]+)\s*=\s*(.*)")
_FIELDS = {"version", "encoding", "cid", "parentcid", "createtype", "isnativesnapshot"}
_AT_END = 0xFFFFFFFFFFFFFFFF
_MAX_DESCRIPTOR = 64 * 1024


def virtual_size(f: Piece, limits: Limits) -> int:
    """Return the size in bytes of the disk inside a VMDK file; Refused for everything that we do not take."""
    head = _HEADER.unpack(f.at(0, _HEADER.size, "header"))
    sectors, grain, gd_at = head[3], head[4], head[9]
    _check_header(head)
    check_virtual_size(sectors * 512, limits)
    if gd_at == _AT_END:
        foot = _HEADER.unpack(f.at(f.size - 1024, _HEADER.size, "footer"))
        _check_header(foot)
        same = (0, 1, 3, 4, 5, 6, 7)
        if foot[9] == _AT_END or [foot[i] for i in same] != [head[i] for i in same]:
            raise Refused("The VMDK's header and footer contradict each other.")
        gd_at = foot[9]
    tables = -(-sectors // (grain * 512))
    if tables * 4 > 32 << 20 or gd_at == 0 or gd_at * 512 + tables * 4 > f.size:
        raise Refused("The VMDK is damaged: its grain directory lies outside of the file.")
    size = head[6] * 512
    if not 512 <= size <= _MAX_DESCRIPTOR:
        raise Refused("The VMDK is damaged: the size of its descriptor is impossible.")
    _check_descriptor(f.at(512, size, "descriptor"), sectors)
    return int(sectors * 512)


def _check_header(h: tuple[object, ...]) -> None:
    magic, version, grain, descriptor, per_table = h[0], h[1], h[4], h[5], h[7]
    if magic != b"KDMV" or version not in (1, 2, 3):
        raise Refused("Only VMDK files of the sparse kinds are taken.")
    if descriptor != 1:
        raise Refused("The VMDK's descriptor is not where it must be.")
    if not isinstance(grain, int) or not 1 <= grain <= 2048 or grain & (grain - 1):
        raise Refused("The VMDK is damaged: its grain size is impossible.")
    if per_table != 512:
        raise Refused("The VMDK is damaged: its grain tables have an impossible size.")


def _check_descriptor(raw: bytes, sectors: int) -> None:
    try:
        text = raw.partition(b"\0")[0].decode("ascii").lower()
    except UnicodeDecodeError as exc:
        raise Refused("The VMDK's descriptor is not ASCII text.") from exc
    fields: dict[str, str] = {}
    extents: list[str] = []
    for line in (part.strip() for part in text.splitlines()):
        if not line or line.startswith(("#", "ddb.")):
            continue
        if line.split()[0] in _EXTENT_WORDS:
            extents.append(line)
        elif (m := _FIELD.fullmatch(line)) and m[1] in _FIELDS and m[1] not in fields:
            fields[m[1]] = m[2].strip().strip('"')
        else:
            raise Refused(f"The VMDK's descriptor has a line that is not taken: {line[:60]!r}")
    if fields.get("createtype") not in ("monolithicsparse", "streamoptimized"):
        raise Refused(
            f"VMDK type {fields.get('createtype', 'unknown')[:40]!r} is not taken; "
            "only monolithicSparse and streamOptimized are complete in one file."
        )
    if fields.get("parentcid", "ffffffff") != "ffffffff":
        raise Refused("The VMDK refers to a parent disk; an image must be complete in itself.")
    if len(extents) != 1 or (extent := _EXTENT.fullmatch(extents[0])) is None:
        raise Refused("The VMDK must have exactly one sparse extent, kept in the file itself.")
    if int(extent[2]) != sectors:
        raise Refused("The VMDK's extent and header contradict each other.")
