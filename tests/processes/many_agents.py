"""Many agents, each a real process with a bus connection of its own: a parent that loads the code once and forks them.

Run: python -m tests.processes.many_agents CONFIG DIRECTORY CELL NAME …. CONFIG: ``kilonova.toml`` of a deployment with
the bus and [agent] credentials_dir. What ends is started again until SIGTERM. DIRECTORY/pids.json has the pids by
name, DIRECTORY/<name>/registered the pid of a life in which a conductor replied. Memory is shared as long as nobody
writes to it: three hundred fit where three would.
"""

import dataclasses
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kilonova.cli import role
from kilonova.common import log
from kilonova.objects import base
from kilonova.server import agent_role, configured, privileges, simulated
from kilonova.virt.fake import driver, volumes

LOADED = (agent_role, simulated, driver, volumes)
ALSO = ("kilonova.bus.nats", "kilonova.agent.network.fake", "nats", "nats.aio.client")
PAUSE_S = 0.05


def _child(config: Path, directory: Path, cell: str, name: str) -> None:
    """Be one host's agent until SIGTERM."""
    privileges.end_with_parent()
    settings, tables = role.read(config)
    agent = dataclasses.replace(tables.agent, driver="fake", cell=cell, hosts=1, name=name)
    tables = dataclasses.replace(tables, agent=agent)
    plan = dataclasses.replace(
        configured.plan_of(config, "agent", settings, tables), state_dir=directory / name
    )
    plan.state_dir.mkdir(mode=0o700, exist_ok=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    log.set_up((plan.state_dir / "log").open("a"))
    process = agent_role.AgentProcess(plan, tables)
    process.start()
    for made in process.fleet.agents:
        while not stop.is_set() and not made.registered.wait(0.2):
            pass
    (plan.state_dir / "registered").write_text(str(os.getpid()))
    stop.wait()
    process.stop()


class Parent:
    """Keeps one process per name."""

    def __init__(self, config: Path, directory: Path, cell: str, names: list[str]) -> None:
        self._what = (config, directory, cell)
        self._names = names
        self._pids: dict[str, int] = {}
        self._ending = False
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> None:
        """Start all, start again what ends, until SIGTERM; return when none is left."""
        while not self._ending:
            for name in self._names:
                if name not in self._pids:
                    self._pids[name] = self._fork(name)
            self._write()
            self._reap()
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)
        while self._pids:
            self._reap()

    def _end(self, *_: Any) -> None:
        self._ending = True

    def _fork(self, name: str) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            _child(*self._what, name)
            code = 0
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Forget those that ended; wait a moment when none did."""
        ended = {n for n, pid in self._pids.items() if os.waitpid(pid, os.WNOHANG)[0]}
        self._pids = {n: pid for n, pid in self._pids.items() if n not in ended}
        if not ended:
            time.sleep(PAUSE_S)

    def _write(self) -> None:
        path = self._what[1] / "pids.json"
        path.with_suffix(".new").write_text(json.dumps(self._pids))
        path.with_suffix(".new").replace(path)


def main() -> None:
    """Load everything, then fork."""
    config, directory, cell, *names = sys.argv[1:]
    for module in ALSO:
        importlib.import_module(module)
    base.prepare()
    gc.collect()
    gc.freeze()
    Parent(Path(config), Path(directory), cell, names).run()


if __name__ == "__main__":
    main()
