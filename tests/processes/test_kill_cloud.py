"""kill -9 of a whole cloud at every kind of moment; the next process on the same directory ends what was under way."""

import contextlib
import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, until
from tests.ledger import changed

V = "/compute/v2.1/servers"
HISTORY = ("deleted:", "action:", "event:", "operation:", "fault:", "migration:")
ROOT = Path(__file__).resolve().parents[2]
UNREACHED = (OSError, http.client.HTTPException, AssertionError)
Point = tuple[str, str, str]


class Incarnations:
    """One state directory and the processes that live on it, one after another."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.said = state_dir.parent / "stderr"
        self.kills = 0
        self.restarts_s: list[float] = []
        self.start()
        self.baseline = self.ask("ledger")["ledger"]

    def start(self) -> None:
        at = time.monotonic()
        with self.said.open("wb") as said_last:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "tests.processes.cloud_child", str(self.state_dir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said_last,
                text=True,
                cwd=ROOT,
            )
        said = self._hear()
        self.client = Client(said["url"], said["demo"], said["project"])
        self.restarts_s.append(time.monotonic() - at)

    def _hear(self) -> Any:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, f"the cloud's process ended: {self.said.read_text()[-3000:]}"
        return json.loads(line)

    def ask(self, line: str) -> Any:
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        return self._hear()

    def died(self) -> None:
        """Wait for the process to be killed, then start the next one and let it come to rest."""
        assert self.child.wait(60) == -signal.SIGKILL
        self._close_pipes()
        self.kills += 1
        self.start()
        self.ask("rest")

    def kill(self) -> None:
        """Kill it now."""
        self.child.send_signal(signal.SIGKILL)
        self.died()

    def _close_pipes(self) -> None:
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def stop(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait(60)
        self._close_pipes()

    # -- what tests do

    def servers(self, name: str) -> list[dict[str, Any]]:
        found = self.client.get(f"{V}/detail")["servers"]
        return [s for s in found if s["name"].startswith(name)]

    def boot(self, name: str) -> str | None:
        """Ask for a server; None when the answer did not come."""
        with contextlib.suppress(*UNREACHED):
            return self.client.boot(name)
        return None

    def empty(self) -> None:
        """Delete every server, and demand that nothing but history is left."""
        for server in self.servers(""):
            self.client.delete(f"{V}/{server['id']}")
        until(lambda: not self.servers(""), "the end of all servers")
        self.ask("rest")
        said = self.ask("ledger")
        assert said["audit"] == []
        left = changed(self.baseline, said["ledger"])
        assert {k: v for k, v in left.items() if not k.startswith(HISTORY)} == {}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incarnations]:
    x = Incarnations(tmp_path_factory.mktemp("kill") / "state")
    yield x
    x.stop()
    restarts = sorted(x.restarts_s)
    print(f"{x.kills} kills; start to ready, median {restarts[len(restarts) // 2]:.2f} s")


def points(fast: str, slow: str = "") -> list[Any]:
    """Return fault points "step:direction:when"; the second list belongs to the long run."""
    found = [pytest.param(tuple(p.split(":")), id=p) for p in fast.split()]
    return found + [
        pytest.param(tuple(p.split(":")), id=p, marks=pytest.mark.slow) for p in slow.split()
    ]


CREATE = points(
    "place:do:recorded record:do:after build:do:after finish:do:after",
    "place:do:before place:do:after ports:do:before ports:do:after ports:do:recorded record:do:before "
    "record:do:recorded build:do:before build:do:recorded finish:do:before",
)
UNDO = points(
    "build:undo:after unwound:undo:after",
    "build:undo:before build:undo:recorded record:undo:before record:undo:after record:undo:recorded "
    "ports:undo:before ports:undo:after ports:undo:recorded unwound:undo:before",
)
DELETE = points(
    "guest:do:after forget:do:after",
    "guest:do:before guest:do:recorded ports:do:before ports:do:after ports:do:recorded forget:do:before",
)
POWER = points("guest:do:after", "guest:do:before")


def _arm(cloud: Incarnations, point: Point, *more: tuple[str, ...]) -> None:
    cloud.ask("arm " + json.dumps([*more, ("kill", *point)]))


@pytest.mark.parametrize("point", CREATE)
def test_during_a_create(point: Point, cloud: Incarnations) -> None:
    """R2, R3: accepted is accepted; the next process finishes it."""
    _arm(cloud, point)
    accepted = cloud.boot("made")
    cloud.died()
    found = cloud.servers("made")
    assert [(s["status"], s["OS-EXT-STS:task_state"]) for s in found] == [("ACTIVE", None)]
    assert accepted in (None, found[0]["id"])
    cloud.empty()


@pytest.mark.parametrize("point", UNDO)
def test_during_an_unwind(point: Point, cloud: Incarnations) -> None:
    """R2: the next process unwinds to the end."""
    _arm(cloud, point, ("error", "finish", "do", "after"))
    cloud.boot("undone")
    cloud.died()
    assert [s["status"] for s in cloud.servers("undone")] == ["ERROR"]
    cloud.empty()


@pytest.mark.parametrize("point", DELETE)
def test_during_a_delete(point: Point, cloud: Incarnations) -> None:
    """R2, R17"""
    server = cloud.client.boot("gone")
    cloud.client.wait(server, "ACTIVE")
    _arm(cloud, point)
    with contextlib.suppress(*UNREACHED):
        cloud.client.delete(f"{V}/{server}")
    cloud.died()
    assert cloud.servers("gone") == []
    cloud.empty()


@pytest.mark.parametrize("point", POWER)
def test_during_a_stop(point: Point, cloud: Incarnations) -> None:
    """R2"""
    server = cloud.client.boot("stopped")
    cloud.client.wait(server, "ACTIVE")
    _arm(cloud, point)
    with contextlib.suppress(*UNREACHED):
        cloud.client.act(server, {"os-stop": None})
    cloud.died()
    assert cloud.client.show(server)["status"] == "SHUTOFF"
    cloud.empty()


def _storm(cloud: Incarnations, seed: int, kills: int) -> None:
    """Create, stop and delete from four clients; kill at random times; nothing that was answered may be lost."""
    rng = random.Random(seed)
    for _ in range(kills):
        ending = threading.Event()
        accepted: list[str] = []
        asked: list[
            str
        ] = []  # to be deleted: a request whose answer was lost may have been accepted
        deleted: list[str] = []

        def work(
            n: int,
            me: Client,
            end: threading.Event,
            made: list[str],
            going: list[str],
            gone: list[str],
        ) -> None:
            mine = random.Random(seed * 100 + n)
            with contextlib.suppress(*UNREACHED):
                while not end.is_set():
                    server = me.boot(f"storm{n}")
                    made.append(server)
                    if mine.random() < 0.4:
                        me.act(server, {"os-stop": None})
                    if mine.random() < 0.6:
                        going.append(server)
                        me.delete(f"{V}/{server}")
                        gone.append(server)

        threads = [
            threading.Thread(target=work, args=(n, cloud.client, ending, accepted, asked, deleted))
            for n in range(3)
        ]
        for t in threads:
            t.start()
        time.sleep(rng.uniform(0.05, 0.8))  # the moment of the kill is what is random
        cloud.child.send_signal(signal.SIGKILL)
        ending.set()
        for t in threads:
            t.join(60)
        cloud.died()
        found = {s["id"]: s for s in cloud.servers("storm")}
        assert set(accepted) - set(asked) <= set(found), f"lost (seed {seed})"
        assert not set(deleted) & set(found), f"not deleted (seed {seed})"
        states = {(s["status"], s["OS-EXT-STS:task_state"]) for s in found.values()}
        assert states <= {("ACTIVE", None), ("SHUTOFF", None)}, f"seed {seed}: {states}"
        cloud.empty()


def test_at_random_times(cloud: Incarnations) -> None:
    """R2, R9"""
    _storm(cloud, 1, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_at_random_times_at_length(seed: int, cloud: Incarnations) -> None:
    """R2"""
    _storm(cloud, seed, kills=20)
