"""UEFI variables of a guest that comes from another host: what it brings is what it has, or a fresh template."""

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from kilonova.objects import guest as g
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt import building, facts
from kilonova.virt.libvirt.building import Building, packed
from kilonova.virt.libvirt.disks import Disks, Owner
from tests.unit.agent_kit import build_of

SIZE = 64 << 10


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with some firmware."""
    path = tmp_path / "vars.fd"
    path.write_bytes(bytes(SIZE))
    monkeypatch.setattr(facts, "uefi", lambda: (tmp_path / "code.fd", path))
    return path


def variables_of(tmp_path: Path, brought: str | None) -> Path:
    """Return the file that a guest has which brings this."""
    part: Any = Building.__new__(Building)  # no libvirt: these are files only
    part._disks = Disks(tmp_path / "instances", None, Owner())  # type: ignore[arg-type]
    build = build_of(nics=0).replace(belongings=g.Belongings(variables=brought))
    directory = part._disks.directory(build.server_id)
    directory.mkdir()
    _, made = part._nvram(build, directory)
    assert part.variables_of(build.server_id) == packed(made)
    return Path(made)


def test_brought_along(tmp_path: Path, template: Path) -> None:
    mine = b"boot order" + bytes(SIZE - 10)
    text = base64.b64encode(zlib.compress(mine)).decode()
    assert variables_of(tmp_path, text).read_bytes() == mine


@pytest.mark.parametrize("brought", [None, "", "!", "aGVsbG8=", "short", "long"])
def test_what_does_not_fit_this_firmware_is_made_anew(
    tmp_path: Path, template: Path, brought: str | None
) -> None:
    """Another firmware's, or no variables at all: never a file of another size, however much it would unpack to."""
    if brought in ("short", "long"):
        data = b"x" * (SIZE - 1 if brought == "short" else 64 << 20)
        brought = base64.b64encode(zlib.compress(data)).decode()
    assert variables_of(tmp_path, brought).read_bytes() == template.read_bytes()


def test_more_than_an_order_carries(tmp_path: Path, template: Path) -> None:
    template.write_bytes(os.urandom(2 * building.VARIABLES_MOST))
    with pytest.raises(DriverError, match="too large"):
        variables_of(tmp_path, None)
    assert packed(tmp_path / "missing") is None
