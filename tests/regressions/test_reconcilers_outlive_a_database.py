"""A database that did not answer when a conductor asked who reconciles ended its reconcilers for good (R9)."""

import threading
from pathlib import Path

import pytest

from kilonova.common.errors import Unavailable
from kilonova.operations.services import Services
from kilonova.reconcile import loop
from kilonova.reconcile.finding import Finding
from tests.operations.server_world import ServerWorld


def test_reconcilers_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, ran, asked = ServerWorld(tmp_path), threading.Event(), []

    def leads(_: Services) -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise Unavailable("The database does not answer. Try again.")
        return True

    def run(_: Services) -> list[Finding]:
        ran.set()
        return []

    monkeypatch.setattr(Services, "leads", leads)
    monkeypatch.setattr(loop, "JOBS", (("test", 0.01, run),))
    reconcilers = loop.Reconcilers(world.services)
    reconcilers.start()
    try:
        assert ran.wait(10.0), "the thread ended with the first refusal"
        assert len(asked) >= 3
    finally:
        reconcilers.close()
        world.close()
