"""Disks that are kept aside and exchanged: whole on one side or the other after a crash at any rename."""

import os
from pathlib import Path

import pytest

from kilonova.virt.libvirt import kept_disks as kept

NEW = {"root.qcow2": "new root", "ephemeral0.raw": "new ephemeral"}
OLD = {"root.qcow2": "old root", "swap.raw": "old swap"}
BASE = {"root.base.qcow2": "base", "console.log": "log"}


class Crash(Exception):
    """The process ended here."""


def resized(directory: Path) -> Path:
    """Return a guest's directory after a resize."""
    (directory / kept.KEPT).mkdir()
    for name, text in {**NEW, **BASE}.items():
        (directory / name).write_text(text)
    for name, text in OLD.items():
        (directory / kept.KEPT / name).write_text(text)
    return directory


def content(directory: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in kept.disk_files(directory)}


def crash_at(monkeypatch: pytest.MonkeyPatch, n: int) -> list[int]:
    """Let the n-th rename be the last act of the process; return where calls are counted."""
    calls = [0]
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        calls[0] += 1
        if calls[0] == n:
            raise Crash

    monkeypatch.setattr(kept.os, "replace", replace)
    return calls


def test_there_and_back(tmp_path: Path) -> None:
    """An exchange and its opposite leave all as it was; what is no disk is never touched."""
    where = resized(tmp_path)
    assert kept.exchange(where, kept.KEPT, kept.REVERTED)
    assert content(where) == OLD and content(where / kept.REVERTED) == NEW
    assert kept.exchange(where, kept.REVERTED, kept.KEPT)
    assert content(where) == NEW and content(where / kept.KEPT) == OLD
    assert kept.drop(where) and not kept.drop(where)
    assert {p.name for p in where.iterdir()} == NEW.keys() | BASE.keys()


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("on", [True, False], ids=["gone on", "turned round"])
def test_a_crash_at_any_rename(
    n: int, on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with, the old disks are in place; turned round, the new ones are; the others are aside, whole."""
    where = resized(tmp_path)
    with monkeypatch.context() as patch:
        calls = crash_at(patch, n)
        with pytest.raises(Crash):
            kept.exchange(where, kept.KEPT, kept.REVERTED)
        assert calls == [n], "never reached, so nothing was tested"
    if on:
        kept.exchange(where, kept.KEPT, kept.REVERTED)
        assert content(where) == OLD and content(where / kept.REVERTED) == NEW
    else:
        kept.exchange(where, kept.REVERTED, kept.KEPT)
        assert content(where) == NEW and content(where / kept.KEPT) == OLD
    left = {p.name for p in where.iterdir() if p.is_dir()}
    assert left == {kept.REVERTED if on else kept.KEPT}


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    """Done again, the first copy stays: what was written since is not in it."""
    (tmp_path / "root.qcow2").write_text("before")
    (tmp_path / "copies.part").mkdir()
    (tmp_path / "copies.part" / "root.qcow2").write_text("half")
    kept.keep(tmp_path)
    (tmp_path / "root.qcow2").write_text("after")
    kept.keep(tmp_path)
    assert content(tmp_path / kept.KEPT) == {"root.qcow2": "before"}
    assert not (tmp_path / "copies.part").exists()
