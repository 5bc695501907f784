"""The systemd units of the roles: complete, and systemd finds nothing wrong where it is there to ask."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.stem)
def test_a_unit_starts_its_role(unit: Path, tmp_path: Path) -> None:
    role = unit.stem.removeprefix("kilonova-")
    text = unit.read_text()
    assert f"ExecStart=/usr/bin/kilonova {role} --config /etc/kilonova/{role}.toml" in text
    assert "Restart=always" in text
    assert ("User=root" in text) is (role == "agent")
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/usr/bin/kilonova", "/bin/true").replace("User=kilonova", ""))
    done = subprocess.run(
        [program, "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_each_role_has_a_unit() -> None:
    assert [u.stem for u in UNITS] == [
        f"kilonova-{r}" for r in ("agent", "api", "conductor", "console")
    ]
