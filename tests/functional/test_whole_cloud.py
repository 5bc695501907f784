"""The whole cloud in one process, at its worst: a bus that loses and doubles, many clients, starts and stops."""

import threading
from pathlib import Path

import pytest

from kilonova.bus.disturbed import Disturbed
from kilonova.bus.memory import MemoryBus
from tests.ledger import changed, process
from tests.whole import running

V = "/compute/v2.1/servers"
HISTORY = ("deleted:", "action:", "event:", "operation:", "fault:")


def test_a_stopped_cloud_leaves_no_thread_and_no_file(tmp_path: Path) -> None:
    """B0: started and stopped twice, the process is what it was."""
    with running(tmp_path / "first", hosts=1):
        pass
    before = process()
    with running(tmp_path / "second", hosts=1) as x:
        x.demo.wait(x.demo.boot("web"), "ACTIVE")
        assert process() != before
    assert process() == before


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(20, 30))]
)
def test_a_disturbed_bus(seed: int, tmp_path: Path) -> None:
    """R7: messages 0-3 times, late, in any order, with threads and real time."""
    bus = Disturbed(MemoryBus(), seed, lose=0.05, delay_s=0.05)
    with running(tmp_path / "state", bus=bus) as x:
        before = x.ledger()
        made = [x.demo.boot(f"n{n}") for n in range(8)]
        for server in made:
            x.demo.wait(server, "ACTIVE")
        for n, server in enumerate(made):
            assert x.demo.act(server, {"os-stop": None} if n % 2 else {"pause": None}).status == 202
        for n, server in enumerate(made):
            x.demo.wait(server, "SHUTOFF" if n % 2 else "PAUSED")
        for server in made:
            x.demo.delete(f"{V}/{server}")
        for server in made:
            x.demo.gone(server)
        assert bus.lost > 0 and bus.doubled > 0
        left = changed(before, x.ledger())
        assert not [k for k in left if not k.startswith(HISTORY)]


def test_eight_clients(tmp_path: Path) -> None:
    """R10: creates and deletes at once; the accounts are right in the middle of it and at the end."""
    with running(tmp_path / "state", hosts=3) as x:
        quota = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
        x.admin.put(f"/compute/v2.1/os-quota-sets/{x.demo.project}", quota)
        before, errors = x.ledger(), []

        def work(n: int) -> None:
            try:
                mine = [x.demo.boot(f"c{n}") for _ in range(4)]
                for server in mine:
                    x.demo.delete(f"{V}/{server}")
                for server in mine:
                    x.demo.gone(server)
            except AssertionError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        found = [x.audit() for _ in range(5)]
        for t in threads:
            t.join(120)
        assert errors == [] and found == [[]] * 5
        left = changed(before, x.ledger())
        assert not [k for k in left if not k.startswith(HISTORY)]
