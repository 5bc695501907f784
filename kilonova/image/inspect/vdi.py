"""VDI without a parent. source: QEMU block/vdi.c."""

import struct

from kilonova.image.inspect.parts import Limits, Piece, Refused, check_virtual_size

_HEADER = struct.Struct("<64sIIIII256sIIIIIIIQIIII16s16s16s16s")
_UNUSED = 0xFFFFFFFF


def virtual_size(f: Piece, limits: Limits) -> int:
    """Return the size in bytes of the disk inside a VDI file; Refused for everything that we do not take."""
    h = _HEADER.unpack(f.at(0, _HEADER.size, "header"))
    version, kind, bmap_at, data_at = h[2], h[4], h[7], h[8]
    size, block, extra, blocks, allocated, link, parent = (
        h[14],
        h[15],
        h[16],
        h[17],
        h[18],
        h[21],
        h[22],
    )
    if version != 0x00010001 or kind not in (1, 2):
        raise Refused("Only VDI 1.1 of the dynamic and fixed kinds are taken.")
    if any(link) or any(parent):
        raise Refused("The VDI refers to a parent disk; an image must be complete in itself.")
    check_virtual_size(size, limits)
    if block != 1 << 20 or extra != 0:
        raise Refused("The VDI is damaged: its block size is impossible.")
    if blocks < -(-size // block) or blocks * 4 > 512 << 20 or allocated > blocks:
        raise Refused("The VDI is damaged: its block map is impossible.")
    if bmap_at % 512 or data_at % 512 or bmap_at + blocks * 4 > f.size:
        raise Refused("The VDI is damaged: its block map lies outside of the file.")
    if size > blocks * block or size == _UNUSED << 20:
        raise Refused("The VDI is damaged: its size is impossible.")
    return int(size)
