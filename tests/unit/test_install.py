"""tools/install on a system that it does not know: it names what is needed and changes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = ("bash", "cat", "cut", "dirname", "env", "grep", "sed")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with hardly any programs."""
    for name in PLAIN:
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    return tmp_path


def install(programs: Path) -> subprocess.CompletedProcess[str]:
    """Run ``tools/install --packages`` with these programs alone (and those of /usr/sbin)."""
    return subprocess.run(
        [str(programs / "bash"), str(ROOT / "tools" / "install"), "--packages"],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def script(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def test_without_apt(programs: Path) -> None:
    """Every program is named, nothing is half-done."""
    done = install(programs)
    assert done.returncode == 1
    assert all(word in done.stderr for word in ("qemu-system-x86_64", "genisoimage", "--image"))
    assert "Nothing was changed" in done.stderr and done.stdout == ""


def test_an_archive_without_our_packages(programs: Path) -> None:
    """A system with apt and other names of packages: they are named before the first is installed."""
    called = programs / "called"
    script(programs / "id", "echo 0")
    script(programs / "dpkg-query", "exit 1")
    script(programs / "apt-get", f'echo "$*" >>{called}')
    script(programs / "apt-cache", "echo 'qemu-utils - tools'")
    done = install(programs)
    assert done.returncode == 1
    assert "has no qemu-system-x86 qemu-block-extra" in done.stderr
    assert called.read_text() == "-qq update\n"
