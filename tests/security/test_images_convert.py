"""S5, S6, S7, S9, S11: the one place where a QEMU tool meets foreign bytes, and the rule that there is no other."""

import ast
import os
import stat
from pathlib import Path

import pytest

from kilonova.common.errors import KilonovaError, TooLarge, Unavailable
from kilonova.image import safe_convert
from kilonova.image.inspect import Refused, inspect
from kilonova.image.safe_convert import ToolLimits, convert_to_qcow2
from tests.security import image_fixtures as fx

GIB = 1 << 30
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("fmt", ["raw", "qcow2", "vmdk", "vdi"])
def test_every_format_becomes_the_same_disk(tmp_path: Path, work: Path, fmt: str) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(fx.MIB) + bytes(4 * fx.MIB) + b"end" + bytes(509))
    source = tmp_path / "source"
    fx.qemu_img("convert", "-f", "raw", "-O", fmt, raw, source)
    found = convert_to_qcow2(source, fmt, work / "out", GIB)
    assert found.format == fmt
    assert [p.name for p in work.iterdir()] == ["out"], "something was left behind"
    assert stat.S_IMODE((work / "out").stat().st_mode) == 0o600
    back = tmp_path / "back"
    fx.qemu_img("convert", "-f", "qcow2", "-O", "raw", work / "out", back)
    want, got = raw.read_bytes(), back.read_bytes()
    assert got[: len(want)] == want and not any(got[len(want) :])


def test_repeating_it_is_safe(tmp_path: Path, work: Path) -> None:
    source = fx.create(tmp_path / "s", "qcow2")
    for _ in range(2):
        convert_to_qcow2(source, "qcow2", work / "out", GIB)
    assert inspect(work / "out", "qcow2").virtual_size == fx.MIB


def test_an_odd_size_is_rounded_up_to_a_sector(tmp_path: Path, work: Path) -> None:
    (tmp_path / "s").write_bytes(b"x" * 1000)
    convert_to_qcow2(tmp_path / "s", "raw", work / "out", GIB)
    assert inspect(work / "out", "qcow2").virtual_size == 1024


def test_refused_before_the_tool_runs(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1, S4, S7"""

    def never(*a: object) -> None:
        raise AssertionError("the tool was started")

    monkeypatch.setattr(safe_convert, "_run", never)
    backed = tmp_path / "backed"
    fx.qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", backed, "64K")
    huge = fx.create(tmp_path / "huge", "qcow2", "8T")
    for source, declared in ((backed, "qcow2"), (backed, "raw"), (huge, "qcow2")):
        with pytest.raises(Refused):
            convert_to_qcow2(source, declared, work / "out", GIB)
    assert list(work.iterdir()) == []


def test_a_header_in_a_raw_disk_stays_data(tmp_path: Path) -> None:
    """S5: what a guest writes on its raw disk is never read as a format: the formats agree, or it is refused."""
    backed = tmp_path / "backed"
    fx.qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", backed, "64K")
    disk = tmp_path / "disk"
    disk.write_bytes(backed.read_bytes().ljust(2 * fx.MIB, b"\0"))
    with pytest.raises(Refused):
        inspect(disk, "raw")


def test_the_tool_has_no_network_and_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """S6: asked of the confinement itself, with a program that tells."""
    import subprocess

    words = safe_convert._confinement()
    if not words:
        pytest.skip("this system allows no network namespace")
    script = "cat /proc/net/dev; grep -E '^(CapEff|CapBnd|NoNewPrivs|Uid)' /proc/self/status"
    said = subprocess.run(
        [*words, "sh", "-c", script], capture_output=True, text=True, check=True
    ).stdout
    links = [line.split(":")[0].strip() for line in said.splitlines()[2:] if ":" in line]
    if "unshare" in words[0]:
        assert [name for name in links if name in ("eth0", "lo")] == ["lo"]
    if os.geteuid() == 0:
        assert "CapEff:\t0000000000000000" in said and "NoNewPrivs:\t1" in said
        assert "Uid:\t65534" in said


def test_limits_are_set_on_the_tool(tmp_path: Path, work: Path) -> None:
    """S7: what would grow too large, run too long or eat too much memory ends, and leaves nothing."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(8 * fx.MIB))
    for tool in (
        ToolLimits(file_overhead_bytes=-7 * fx.MIB),
        ToolLimits(address_space_bytes=8 * fx.MIB),
        ToolLimits(timeout_s=0.0001),
    ):
        with pytest.raises((Unavailable, TooLarge, Refused)):
            convert_to_qcow2(raw, "raw", work / "out", GIB, tool)
        assert list(work.iterdir()) == []


def test_a_damaged_inside_is_an_answer(tmp_path: Path, work: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(fx.MIB))
    source = tmp_path / "s"
    fx.qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, source)
    with source.open("r+b") as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), "big")
        f.seek(l1)
        f.write(fx.be64((1 << 63) | 0x10200))
    with pytest.raises(KilonovaError) as refusal:
        convert_to_qcow2(source, "qcow2", work / "out", GIB)
    assert str(tmp_path) not in refusal.value.message
    assert list(work.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path, work: Path) -> None:
    """S15"""
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        convert_to_qcow2(tmp_path / "link", "raw", work / "out", GIB)
    assert list(work.iterdir()) == []


def _string_runs(tree: ast.AST) -> list[list[str]]:
    """Return the texts inside each list, tuple and call of a module, in order."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Call)):
            inside = [
                n.value
                for n in ast.walk(node)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            out.append(inside)
    return out


def unsafe_calls(source: str) -> list[list[str]]:
    """Find commands for qemu-img, qemu-io, qemu-nbd that name no format."""
    verbs = ("convert", "info", "check", "resize", "rebase", "commit", "map", "compare", "measure")
    tools = ("qemu-img", "qemu-io", "qemu-nbd")
    bad = []
    for words in _string_runs(ast.parse(source)):
        tool = any(w in tools or w.endswith(tuple("/" + t for t in tools)) for w in words)
        acts = any(w in verbs for w in words) or "qemu-io" in words or "qemu-nbd" in words
        told = any(
            w in ("-f", "--image-opts", "--source-format")
            or "driver" in w
            or w.startswith("--format")
            for w in words
        )
        if tool and acts and not told:
            bad.append(words)
    return bad


def test_no_command_lets_a_tool_guess() -> None:
    """S5: in all of kilonova/."""
    found = {
        str(p): bad
        for p in (ROOT / "kilonova").rglob("*.py")
        if (bad := unsafe_calls(p.read_text()))
    }
    assert not found
    assert unsafe_calls('run(["qemu-img", "info", path])'), "the lint must be able to fail"
    assert not unsafe_calls('run(["qemu-img", "info", "-f", "raw", path])')
