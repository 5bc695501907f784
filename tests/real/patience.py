"""Wait for a guest as long as it moves: on a busy machine a boot takes minutes, and one fixed time is wrong for it."""

import contextlib
import os
import subprocess
import time

from kilonova.cli.common import Failed
from tests.real.cloud import Server

QUIET_S = 120.0
"""So long may a console stay as it is before the guest counts as stuck."""
LONGEST_S = 600.0


def answers(server: Server, command: str = "true") -> str:
    """Return what the guest printed as soon as it takes SSH and the command works, blanks at the ends removed.

    It fails when the console stood still for QUIET_S, or after LONGEST_S, and says how far the guest came: whether it
    started, got its address, was ready, and whether anybody listens.
    """
    began = grew = time.monotonic()
    seen, why = "", ""
    while True:
        try:
            done = server.ssh(command)
            if done.returncode == 0:
                return done.stdout.strip()
            why = f"{done.returncode} {done.stderr.strip()}"
        except subprocess.TimeoutExpired:
            why = "SSH did not end"
        with contextlib.suppress(Failed):  # the cloud may be starting
            now = server.console()
            if now != seen:
                seen, grew = now, time.monotonic()
        at = time.monotonic()
        if at - grew > QUIET_S or at - began > LONGEST_S:
            raise AssertionError(_told(server, seen, why, at - began, at - grew))
        time.sleep(0.3)


def _told(server: Server, console: str, why: str, waited_s: float, quiet_s: float) -> str:
    """Say how far a guest came since its last start, and what else may explain that it does not answer."""
    last = console.rpartition("GUEST START")[2]
    marks = {
        "started": "GUEST START" in console,
        "address": next((x for x in last.splitlines() if "GUEST NIC" in x), "none"),
        "ready": "GUEST READY" in last,
    }
    shown = server.show()
    record = {k: shown.get(k) for k in ("status", "OS-EXT-STS:task_state", "addresses")}
    port = {k: server.port().get(k) for k in ("status", "binding:host_id", "fixed_ips")}
    return (
        f"{server.name} does not answer at {server.address} after {waited_s:.0f} s, its console quiet for "
        f"{quiet_s:.0f} s, load {os.getloadavg()}: {why}\n{marks}\n{record}\n{port}\nQEMU: {server.qemu()}\n"
        f"{console[-2000:]}{server.cloud.log()}"
    )
