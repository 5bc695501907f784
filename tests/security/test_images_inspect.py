"""S1, S2, S3, S4, S6, S7: hostile images are refused by reading them; no QEMU tool runs."""

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kilonova.image.inspect import Limits, Refused, inspect
from tests.security import image_fixtures as fx

GIB = 1 << 30
LIMITS = Limits(64 * GIB)


@pytest.fixture
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Give a function that takes every program away: what runs after it runs none."""

    def take_away() -> None:
        def never(*a: object, **k: object) -> None:
            raise AssertionError("a program was started")

        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        monkeypatch.setattr("subprocess.Popen", never)
        monkeypatch.setattr(os, "posix_spawn", never)
        monkeypatch.setattr(os, "fork", never)

    return take_away


Make = Callable[[Path], Path]


def qcow2(**options: str) -> Make:
    return lambda d: fx.create(d / "x.qcow2", "qcow2", **options)


def poked(offset: int, data: bytes, **options: str) -> Make:
    return lambda d: fx.poke(fx.create(d / "x.qcow2", "qcow2", **options), offset, data)


def backing(name: str) -> Make:
    """S1 and S6: the name is written by hand, so that nothing is ever opened."""

    def make(d: Path) -> Path:
        path = fx.create(d / "x.qcow2", "qcow2")
        fx.poke(path, 8, fx.be64(0x200) + fx.be32(len(name)))
        return fx.poke(path, 0x200, name.encode())

    return make


def real_backing(d: Path) -> Path:
    path = d / "x.qcow2"
    fx.qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", path, "64K")
    return path


def data_file(d: Path) -> Path:
    path = d / "x.qcow2"
    fx.qemu_img(
        *("create", "-f", "qcow2", "-o", f"data_file={d}/secret,data_file_raw=on", path, "64K")
    )
    return path


def data_file_name_only(d: Path) -> Path:
    """The header extension without its bit."""
    path = fx.create(d / "x.qcow2", "qcow2")
    return fx.poke(path, 112, fx.be32(0x44415441) + fx.be32(8) + b"/etc/xyz" + bytes(8))


def snapshots(d: Path) -> Path:
    path = fx.create(d / "x.qcow2", "qcow2")
    fx.qemu_img("snapshot", "-c", "s", path)
    return path


def luks(d: Path) -> Path:
    (d / "x.luks").write_bytes(b"LUKS\xba\xbe\x00\x01" + bytes(4096))
    return d / "x.luks"


def polyglot(d: Path) -> Path:
    """S4: a qcow2 with an ISO's volume descriptor where an ISO has it."""
    path = fx.create(d / "x.qcow2", "qcow2", "40M")
    fx.qemu_img("resize", "-q", "-f", "qcow2", path, "41M")
    with path.open("r+b") as f:
        f.truncate(max(path.stat().st_size, 512 * 1024))
    sector = fx.iso(d / "i.iso").read_bytes()[32 * 1024 : 34 * 1024]
    return fx.poke(path, 32 * 1024, sector)


def vmdk(kind: str = "monolithicSparse") -> Make:
    return lambda d: fx.create(d / "x.vmdk", "vmdk", "1M", subformat=kind)


def vmdk_with(old: bytes, new: bytes) -> Make:
    return lambda d: fx.rewrite_vmdk(vmdk()(d), old, new)


def vdi_with_parent(d: Path) -> Path:
    return fx.poke(fx.create(d / "x.vdi", "vdi"), 0x1A8, b"\1" * 16)


HOSTILE: list[tuple[str, Make, str, str]] = [
    ("S1 backing file", real_backing, "qcow2", "backing"),
    ("S1 backing file by hand", backing("/etc/hostname"), "qcow2", "backing"),
    ("S1 backing length only", poked(16, fx.be32(5)), "qcow2", "backing"),
    ("S6 nbd", backing("nbd://127.0.0.1:1/x"), "qcow2", "backing"),
    ("S6 http", backing("http://169.254.169.254/"), "qcow2", "backing"),
    ("S6 json", backing('json:{"driver":"https","url":"https://x/"}'), "qcow2", "backing"),
    ("S2 data file", data_file, "qcow2", "data"),
    ("S2 data file bit", poked(72, fx.be64(1 << 2)), "qcow2", "data"),
    ("S2 data file name", data_file_name_only, "qcow2", "data file"),
    ("S2 unknown bit", poked(72, fx.be64(1 << 40)), "qcow2", "feature"),
    ("S2 extended L2", poked(72, fx.be64(1 << 4)), "qcow2", "feature"),
    ("corrupt bit", poked(72, fx.be64(1 << 1)), "qcow2", "corrupt"),
    ("version 9", poked(4, fx.be32(9)), "qcow2", "version"),
    ("encrypted by LUKS", poked(32, fx.be32(2)), "qcow2", "encrypt"),
    ("LUKS header", poked(112, fx.be32(0x0537BE77) + fx.be32(16)), "qcow2", "encrypt"),
    ("crypt method", poked(32, fx.be32(1)), "qcow2", "encrypt"),
    ("luks", luks, "raw", "encrypt"),
    ("snapshots", snapshots, "qcow2", "snapshot"),
    ("S7 8 TiB", lambda d: fx.create(d / "x", "qcow2", "8T"), "qcow2", "large"),
    ("S7 L1 too small", poked(36, fx.be32(0)), "qcow2", "L1"),
    ("S7 L1 huge", poked(36, fx.be32(1 << 30)), "qcow2", "L1"),
    ("S7 L1 outside", poked(40, fx.be64(1 << 50)), "qcow2", "L1"),
    ("S7 refcounts huge", poked(56, fx.be32(1 << 30)), "qcow2", "refcount"),
    ("S7 refcounts outside", poked(48, fx.be64(1 << 50)), "qcow2", "refcount"),
    ("cluster bits", poked(20, fx.be32(40)), "qcow2", "cluster"),
    ("S4 qcow2 as raw", qcow2(), "raw", "qcow2"),
    ("S4 qcow2 as iso", qcow2(), "iso", "qcow2"),
    ("S4 qcow2 as aki", qcow2(), "aki", "qcow2"),
    ("S4 raw as qcow2", lambda d: fx.create(d / "x", "raw"), "qcow2", "raw"),
    ("S4 iso as raw", lambda d: fx.iso(d / "x"), "raw", "iso"),
    ("S4 polyglot as qcow2", polyglot, "qcow2", "several"),
    ("S4 polyglot as iso", polyglot, "iso", "several"),
    ("S4 vmdk text as raw", lambda d: fx.vmdk_text(d / "x"), "raw", "vmdk"),
    ("S4 vhdx as raw", lambda d: fx.create(d / "x", "vhdx", "8M"), "raw", "vhdx"),
    ("S4 qed as raw", lambda d: fx.create(d / "x", "qed"), "raw", "qed"),
    ("S4 vpc as raw", lambda d: fx.create(d / "x", "vpc"), "raw", "vhd"),
    ("S3 flat file", lambda d: fx.vmdk_text(d / "x"), "vmdk", "sparse"),
    (
        "S3 device",
        lambda d: fx.vmdk_text(d / "x", "fullDevice", 'RW 8 FLAT "/dev/sda" 0'),
        "vmdk",
        "sparse",
    ),
    ("S3 flat by qemu-img", vmdk("monolithicFlat"), "vmdk", "sparse"),
    ("S3 split", vmdk("twoGbMaxExtentSparse"), "vmdk", "sparse"),
    ("S3 flat type", vmdk_with(b"monolithicSparse", b"monolithicFlat"), "vmdk", ""),
    ("S3 path", vmdk_with(b'"x.vmdk"', b'"/etc/hostname"'), "vmdk", ""),
    ("S3 two extents", vmdk_with(b"\n# The Disk Data", b'\nRW 1 FLAT "y" 0\n#'), "vmdk", ""),
    ("S3 flat extent", vmdk_with(b"SPARSE", b"FLAT"), "vmdk", ""),
    ("S3 parent", vmdk_with(b"parentCID=ffffffff", b"parentCID=12345678"), "vmdk", "parent"),
    (
        "S3 parent hint",
        vmdk_with(b"# Extent description", b'parentFileNameHint="/etc/hostname"'),
        "vmdk",
        "line",
    ),
    ("S7 vmdk capacity", lambda d: fx.poke(vmdk()(d), 12, fx.le64(1 << 34)), "vmdk", "large"),
    ("vdi parent", vdi_with_parent, "vdi", "parent"),
    (
        "vdi size",
        lambda d: fx.poke(fx.create(d / "x", "vdi"), 0x170, fx.le64(1 << 50)),
        "vdi",
        "large",
    ),
    ("empty", lambda d: fx.create(d / "x", "raw", "0"), "raw", "empty"),
    ("unknown format", lambda d: fx.create(d / "x", "raw"), "vhdx", "vhdx"),
]


@pytest.mark.parametrize(
    ("make", "declared", "reason"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
def test_hostile_images_are_refused_without_any_tool(
    tmp_path: Path, no_tools: Callable[[], None], make: Make, declared: str, reason: str
) -> None:
    """S1-S4, S6, S7"""
    path = make(tmp_path)
    assert path.exists()
    no_tools()
    with pytest.raises(Refused) as refusal:
        inspect(path, declared, LIMITS)
    assert reason.lower() in refusal.value.message.lower()
    assert str(tmp_path) not in refusal.value.message


def test_the_bomb_is_small(tmp_path: Path) -> None:
    """S7: 8 TiB virtual in a file of a few hundred KiB."""
    assert fx.create(tmp_path / "x", "qcow2", "8T").stat().st_size <= 400 * 1024


SOUND: list[tuple[str, Make, str, int]] = [
    ("qcow2", qcow2(), "qcow2", fx.MIB),
    ("qcow2 v2", qcow2(compat="0.10"), "qcow2", fx.MIB),
    ("qcow2 lazy", qcow2(lazy_refcounts="on"), "qcow2", fx.MIB),
    ("qcow2 zstd", qcow2(compression_type="zstd"), "qcow2", fx.MIB),
    ("qcow2 small clusters", qcow2(cluster_size="512"), "qcow2", fx.MIB),
    ("raw", lambda d: fx.create(d / "x", "raw"), "raw", fx.MIB),
    ("raw with partitions", lambda d: fx.mbr(d / "x"), "raw", 2 * fx.MIB + 512),
    ("ami", lambda d: fx.create(d / "x", "raw"), "ami", fx.MIB),
    ("iso", lambda d: fx.iso(d / "x"), "iso", 40 * 1024),
    ("vmdk sparse", vmdk(), "vmdk", fx.MIB),
    ("vmdk stream", vmdk("streamOptimized"), "vmdk", fx.MIB),
    ("vdi", lambda d: fx.create(d / "x", "vdi"), "vdi", fx.MIB),
]


@pytest.mark.parametrize(
    ("make", "declared", "size"), [s[1:] for s in SOUND], ids=[s[0] for s in SOUND]
)
def test_sound_images_are_measured(
    tmp_path: Path, no_tools: Callable[[], None], make: Make, declared: str, size: int
) -> None:
    path = make(tmp_path)
    no_tools()
    found = inspect(path, declared, LIMITS)
    assert (found.format, found.virtual_size) == (declared, size)


def test_written_disks_of_every_kind_are_measured(tmp_path: Path) -> None:
    """A footer, grains and L2 tables in use."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(2 * fx.MIB) + bytes(fx.MIB))
    for fmt, option in (("qcow2", ()), ("vdi", ()), ("vmdk", ("-o", "subformat=streamOptimized"))):
        out = tmp_path / f"out.{fmt}"
        fx.qemu_img("convert", "-f", "raw", "-O", fmt, *option, raw, out)
        assert inspect(out, fmt, LIMITS).virtual_size == 3 * fx.MIB


def test_a_footer_may_not_tell_another_story(tmp_path: Path) -> None:
    """S7 by the second header of a stream-optimised VMDK."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(fx.MIB))
    out = tmp_path / "out.vmdk"
    fx.qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, out)
    head = out.read_bytes()[:512]
    fx.poke(out, 56, b"\xff" * 8)  # the grain directory is where the footer says
    whole = out.read_bytes().rstrip(b"\0")
    whole = whole.ljust(-(-len(whole) // 512) * 512, b"\0")
    marker = struct.pack("<QII496s", 1, 0, 3, b"")
    out.write_bytes(whole + marker + head + bytes(512))
    assert inspect(out, "vmdk", LIMITS).virtual_size == fx.MIB
    out.write_bytes(whole + marker + head[:12] + fx.le64(1 << 34) + head[20:] + bytes(512))
    with pytest.raises(Refused, match="contradict"):
        inspect(out, "vmdk", LIMITS)


def test_links_pipes_and_directories_are_not_images(tmp_path: Path) -> None:
    """S15"""
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        inspect(tmp_path / "link", "raw")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused):
        inspect(tmp_path / "pipe", "raw")


def test_no_prefix_of_a_sound_image_breaks_the_inspector(tmp_path: Path) -> None:
    """Cut anywhere, a file is taken or refused; nothing else happens."""
    for fmt in ("qcow2", "vmdk", "vdi"):
        whole = fx.create(tmp_path / fmt, fmt).read_bytes()
        for length in [*range(1, 700, 13), *range(700, min(len(whole), 70000), 4999)]:
            cut = tmp_path / "cut"
            cut.write_bytes(whole[:length])
            for declared in (fmt, "raw"):
                try:
                    inspect(cut, declared, LIMITS)
                except Refused as refusal:
                    assert refusal.message


@pytest.mark.parametrize("fmt", ["qcow2", "vmdk", "vdi", "raw"])
def test_random_damage_is_taken_or_refused_and_nothing_else(tmp_path: Path, fmt: str) -> None:
    """S7: 600 headers with random bytes in random places; the seed is fixed, the inspector must not fall over."""
    dice = random.Random(20261121)
    path = fx.create(tmp_path / "x", fmt)
    whole = path.read_bytes()[: 200 * 1024]
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 2, 8, 64))):
            at = dice.randrange(min(len(data), dice.choice((80, 120, 512, 1600, 70000))))
            data[at] = dice.choice((0, 1, 2, 4, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        path.write_bytes(data)
        try:
            found = inspect(path, fmt, LIMITS)
        except Refused as refusal:
            assert refusal.message
        else:
            assert 0 <= found.virtual_size <= 64 * GIB
