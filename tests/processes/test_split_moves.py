"""Roles of a deployment die while servers move, get volumes and leave dead hosts. R2, R3, R6, R8, R9, R11."""

import collections
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.client import until
from tests.nats import nats_server
from tests.processes.movers import Evacuee, Mover, Poller, V
from tests.processes.test_split import LONG_S, Split, _answers, _clean, wait_until_it_answered

ZONE = ("cell1-host3", "cell1-host4")
ASLEEP_S = 13.0  # beyond the lease of 10 s


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    """Two cells of four hosts, two conductors; two hosts of the first cell are a zone of their own."""
    with nats_server(), tempfile.TemporaryDirectory(prefix="kilonova-moves-") as name:
        options = ("--cells", "2", "--hosts", "4", "--conductors", "2")
        made = Split(Path(name) / "state", *options)
        try:
            body = {"aggregate": {"name": "far", "availability_zone": "far"}}
            aggregate = made.admin.post(f"{V}/os-aggregates", body)["aggregate"]["id"]
            for host in ZONE:
                path = f"{V}/os-aggregates/{aggregate}/action"
                made.admin.post(path, {"add_host": {"host": host}})
            yield made
        finally:
            made.close()


@dataclass
class Storm:
    """What is under way, and what was when something died. hit: (role, kind) -> how often."""

    split: Split
    movers: list[Mover]
    hit: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)

    def wait_for_prey(self) -> None:
        """Wait until something is under way; for a moment longer, until it is what was struck least."""
        until(lambda: any(m.busy or m.wrong for m in self.movers), "something is under way", LONG_S)
        end = time.monotonic() + 3.0
        while self.kinds() & {m.busy for m in self.movers} and time.monotonic() < end:
            time.sleep(0.005)

    def strike(self, role: str, asleep: bool) -> None:
        """Kill a role (or let it sleep beyond its lease) and wait until it runs again."""
        for m in self.movers:
            if m.busy:
                self.hit[role, m.busy] += 1
        if asleep:
            pid = until(lambda: self.split.pids().get(role), f"{role} runs", LONG_S)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(ASLEEP_S)  # the sleep itself is what is tested
            os.kill(pid, signal.SIGCONT)
            return
        wait_until_it_answered(self.split, role)
        before = self.split.kill(role)
        again = lambda: self.split.pids().get(role) not in (None, before)  # noqa: E731
        until(again, role, LONG_S)

    def kinds(self) -> set[str]:
        """Return what was hit at all."""
        return {kind for _, kind in self.hit}


def play(split: Split, seed: int, kills: int, people: int) -> Storm:
    """Let people move their servers while roles die; demand that all is well and nothing is left."""
    rng, ending = random.Random(seed), threading.Event()
    movers: list[Mover] = [Mover(split.admin, seed * 10 + n, ending) for n in range(people)]
    movers.append(Evacuee(split.admin, seed * 10 + people, ending))
    poller = Poller(split.admin, [m.server for m in movers])
    storm = Storm(split, movers)
    for thread in (poller, *movers):
        thread.start()
    roles = sorted(split.pids())
    conductors = [r for r in roles if r.startswith("conductor")]
    for n in range(kills):
        storm.wait_for_prey()
        asleep = n % 20 == 19
        storm.strike(conductors[n // 20 % 2] if asleep else roles[n % len(roles)], asleep)
        time.sleep(rng.uniform(0.05, 1.2))  # the moment of the next one is what is random
    ending.set()
    for m in movers:
        m.join(4 * LONG_S)
    until(lambda: _answers(split), "the API is back", LONG_S)
    poller.end()
    assert [w for m in movers for w in m.wrong] == []
    assert not any(m.is_alive() for m in movers), "one never came to its end"
    assert poller.wrong == [] and poller.looks > kills
    _nothing_left(split, movers)
    return storm


def _nothing_left(split: Split, movers: list[Mover]) -> None:
    for m in movers:
        m.clear()
    until(lambda: split.admin.get(f"{V}/servers?all_tenants=1")["servers"] == [], "none", LONG_S)
    until(lambda: _clean(split), "the audit finds nothing", LONG_S)


@pytest.mark.timeout(900)
def test_kill_each_role_while_servers_move(split: Split) -> None:
    """R2, R3, R6, R8, R9, R11: twenty strikes, one of them a sleep; each server is seen once at every instant."""
    storm = play(split, 1, kills=20, people=3)
    print(sorted(storm.hit.items()))
    for m in storm.movers:
        print(type(m).__name__, dict(m.done), dict(m.why), dict(m.refused))
    assert len(storm.kinds()) >= 4, storm.hit


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 205))
def test_kill_each_role_at_length(split: Split, seed: int) -> None:
    """R2: the nightly set."""
    storm = play(split, seed, kills=80, people=5)
    for m in storm.movers:
        print(type(m).__name__, dict(m.done), dict(m.why), dict(m.refused))
    assert len(storm.kinds()) >= 10, storm.hit
