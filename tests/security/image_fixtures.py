"""Hostile and sound disk images, made on the spot by qemu-img and by hand; nothing is stored in the repository."""

import struct
import subprocess
from pathlib import Path

MIB = 1 << 20


def qemu_img(*words: str | Path) -> None:
    """Run qemu-img; an error is the test's."""
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def create(path: Path, fmt: str, size: str = "1M", **options: str) -> Path:
    """Make an empty image."""
    words: list[str | Path] = ["create", "-f", fmt]
    for k, v in options.items():
        words += ["-o", f"{k}={v}"]
    qemu_img(*words, path, size)
    return path


def poke(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes."""
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(data)
    return path


def be32(n: int) -> bytes:
    return struct.pack(">I", n)


def be64(n: int) -> bytes:
    return struct.pack(">Q", n)


def le64(n: int) -> bytes:
    return struct.pack("<Q", n)


def iso(path: Path) -> Path:
    """Make the smallest thing that is taken for an ISO 9660 file system."""
    sector = bytearray(2048)
    sector[0:6] = b"\x01CD001"
    sector[80:84] = struct.pack("<L", 20)
    sector[128:130] = struct.pack("<H", 2048)
    path.write_bytes(bytes(32 * 1024) + bytes(sector) + bytes(6 * 1024))
    return path


def mbr(path: Path) -> Path:
    """Make a raw disk with a partition table."""
    head = bytearray(512)
    head[446:462] = struct.pack("<B3BB3BII", 0x80, 1, 1, 0, 0x83, 1, 1, 0, 2048, 2048)
    head[510:512] = b"\x55\xaa"
    path.write_bytes(bytes(head) + bytes(2 * MIB))
    return path


VMDK_TEXT = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="{kind}"
{extent}
ddb.virtualHWVersion = "4"
"""


def vmdk_text(
    path: Path, kind: str = "monolithicFlat", extent: str = 'RW 128 FLAT "/etc/hostname" 0'
) -> Path:
    """Make a VMDK that is only a descriptor and names another file."""
    path.write_text(VMDK_TEXT.format(kind=kind, extent=extent))
    return path


def rewrite_vmdk(path: Path, old: bytes, new: bytes) -> Path:
    """Replace text in a sparse VMDK's descriptor, length kept."""
    data = path.read_bytes()
    at = data.index(old, 512, 512 + 20 * 512)
    old_text = data[512 : 512 + 20 * 512].rstrip(b"\0")
    text = old_text.replace(old, new)
    assert at and len(text) <= 20 * 512
    return poke(path, 512, text.ljust(20 * 512, b"\0"))
