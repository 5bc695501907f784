"""Keeps the processes of a split deployment running: starts them, starts again what died, ends all in order.

One thread; a process that dies at once is started again after a pause that grows to 5 s. Each process ends when this
one does, by the kernel's word (prctl), so that a killed supervisor leaves none behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from kilonova.common.log import get_logger
from kilonova.server import privileges, state

log = get_logger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
STEADY_S = 10.0
STOP_S = 45.0
EVERY_S = 0.05
FILE = "processes.json"


@dataclass
class Member:
    """One process to keep. end_by: the signal that ends it in order. pause: before it is started again."""

    name: str
    command: list[str]
    log: Path
    end_by: signal.Signals = signal.SIGTERM
    pause_s: float = FIRST_PAUSE_S
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    starts: int = 0


@dataclass
class Supervisor:
    """Members start in the order given and end in the reverse one."""

    directory: Path
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, members: list[Member]) -> None:
        """Start more members, and watch them."""
        for member in members:
            self._start(member)
        self.members = [*self.members, *members]
        self._write()
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all, the last one first; by force who does not end within 45 s. Safe to repeat."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        for member in reversed(self.members):
            _end(member)
        (self.directory / FILE).unlink(missing_ok=True)

    def _start(self, member: Member) -> None:
        with member.log.open("ab") as out:
            member.process = subprocess.Popen(  # noqa: S603
                member.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=privileges.end_with_parent,
            )
        member.started_at = time.monotonic()
        member.starts += 1

    def _watch(self) -> None:
        while not self._stopping.wait(EVERY_S):
            if [m for m in self.members if self._look(m)]:
                self._write()

    def _look(self, member: Member) -> bool:
        """Start a member again if it died and its pause is over; tell whether that was done."""
        process, now = member.process, time.monotonic()
        if process is not None:
            code = process.poll()
            if code is None:
                return False
            log.warning("%s ended", member.name, extra={"code": code, "pid": process.pid})
            steady = now - member.started_at > STEADY_S
            member.pause_s = FIRST_PAUSE_S if steady else min(member.pause_s * 2, LONGEST_PAUSE_S)
            member.process, member.started_at = None, now
        if now - member.started_at < member.pause_s:
            return False
        self._start(member)
        return True

    def _write(self) -> None:
        """Say which processes run, for people, ``down`` and tests."""
        pids = {
            m.name: {"pid": m.process.pid, "started_ticks": state.ticks(m.process.pid)}
            for m in self.members
            if m.process is not None
        }
        state.write_json(self.directory / FILE, pids, 0o644)


def _end(member: Member) -> None:
    process, member.process = member.process, None
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(member.end_by)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        log.error("%s did not end and is killed", member.name)
        process.kill()
        process.wait()


def program(*words: str) -> list[str]:
    """Return the command line of one of our own commands, run by this very Python."""
    return [sys.executable, "-m", "kilonova.cli.main", *words]


def environment_is_ours() -> None:
    """Let members import what this process imports, wherever they start."""
    here = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *(p for p in paths if p)])
