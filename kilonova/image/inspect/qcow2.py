"""qcow2, read strictly. source: QEMU, docs/interop/qcow2.txt; the bounds are those of QEMU's block/qcow2.c."""

import struct

from kilonova.image.inspect.parts import Limits, Piece, Refused, check_virtual_size

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_BIT_NAMES = {1: "it is marked corrupt", 2: "it keeps its data in another file", 4: "extended L2"}
_ALLOWED_BITS = 0b1001  # dirty refcounts (read only: harmless), compression type
_MAX_L1_BYTES = 32 << 20
_MAX_REFTABLE_BYTES = 8 << 20
_EXTENSIONS = {
    0xE2792ACA: "it names the format of a backing file",
    0x44415441: "it names an external data file",
    0x0537BE77: "it is encrypted",
}


def virtual_size(f: Piece, limits: Limits) -> int:
    """Return the size in bytes of the disk inside a qcow2 file; Refused for everything that we do not take."""
    head = f.at(0, _HEADER.size, "header")
    (_, version, backing, backing_len, bits, size, crypt, l1, l1_at, ref_at, ref_n, snaps, _) = (
        _HEADER.unpack(head)
    )
    if version not in (2, 3):
        raise Refused(f"The image is qcow version {version}; versions 2 and 3 are taken.")
    if backing != 0 or backing_len != 0:
        raise Refused("The image refers to a backing file; an image must be complete in itself.")
    if crypt != 0:
        raise Refused("The image is encrypted; encrypted images are not taken.")
    if not 9 <= bits <= 21:
        raise Refused(f"The image is damaged: clusters of 2^{bits} bytes do not exist.")
    if snaps != 0:
        raise Refused("The image contains internal snapshots; remove them first.")
    check_virtual_size(size, limits)
    cluster = 1 << bits
    _features(f, version, cluster)
    _tables(f, cluster, size, (l1, l1_at), (ref_n, ref_at))
    return int(size)


def _features(f: Piece, version: int, cluster: int) -> None:
    length = 72
    if version == 3:
        incompatible, _, _, order, length = _V3.unpack(f.at(72, _V3.size, "header"))
        for bit in range(64):
            if incompatible >> bit & 1 and not _ALLOWED_BITS >> bit & 1:
                why = _BIT_NAMES.get(bit, "an unknown feature")
                raise Refused(f"The image needs a feature that is not taken: {why} (bit {bit}).")
        if order > 6:
            raise Refused("The image is damaged: its refcount order is impossible.")
        if length < 104 or length > cluster or length % 8:
            raise Refused("The image is damaged: its header length is impossible.")
        if length > 104 and f.at(104, 1, "header")[0] > 1:
            raise Refused("The image uses a compression that is not known.")
    _walk_extensions(f, length, cluster)


def _walk_extensions(f: Piece, offset: int, cluster: int) -> None:
    end = min(cluster, f.size)
    while offset + 8 <= end:
        kind, size = struct.unpack(">II", f.at(offset, 8, "header extension"))
        if kind == 0:
            return
        if kind in _EXTENSIONS:
            raise Refused(f"The image is refused: {_EXTENSIONS[kind]}.")
        offset += 8 + (size + 7) // 8 * 8
        if offset > end:
            raise Refused("The image is damaged: a header extension does not end.")


def _tables(
    f: Piece, cluster: int, size: int, l1: tuple[int, int], refcounts: tuple[int, int]
) -> None:
    """Check that the first tables are where and as large as they must be."""
    entries, at = l1
    per_entry = cluster * (cluster // 8)
    if entries * 8 > _MAX_L1_BYTES or entries < -(-size // per_entry):
        raise Refused("The image is damaged: the size of its L1 table is impossible.")
    if entries and (at % cluster or at == 0 or at + entries * 8 > f.size):
        raise Refused("The image is damaged: its L1 table lies outside of the file.")
    clusters, at = refcounts
    if clusters == 0 or clusters * cluster > max(_MAX_REFTABLE_BYTES, cluster):
        raise Refused("The image is damaged: the size of its refcount table is impossible.")
    if at % cluster or at == 0 or at >= f.size:
        raise Refused("The image is damaged: its refcount table lies outside of the file.")
