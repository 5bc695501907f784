"""Where /run is bare, as in a container of one's own, a guest's serial port could not be opened."""

import os
from pathlib import Path

import pytest

from kilonova.agent.helper.verbs import libvirt


def test_the_lock_directory_is_made_where_a_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's /var/lock is a link into /run, which is new at each boot."""
    (tmp_path / "run").mkdir()
    (tmp_path / "lock").symlink_to(tmp_path / "run/lock")
    monkeypatch.setattr(libvirt, "LOCKS", tmp_path / "lock")
    for _ in range(2):
        libvirt._lock_directory()
        assert os.stat(tmp_path / "lock").st_mode & 0o7777 == 0o1777
