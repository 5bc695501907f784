"""The thread that runs reconcilers, one after another, each at its own pace."""

import functools
import random
import threading
import time
from collections.abc import Callable

from kilonova.bus import answers
from kilonova.common import memory
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.operations.services import Services
from kilonova.reconcile import (
    allocations,
    attachments,
    cleanups,
    guests,
    hosts,
    live,
    mappings,
    ports,
    reclaim,
    resizes,
    retention,
    secrets,
    shelved,
)
from kilonova.reconcile.finding import Finding

log = get_logger(__name__)
Run = Callable[[Services], list[Finding]]


def _give_memory_back(services: Services) -> list[Finding]:
    memory.give_back()
    return []


JOBS: tuple[tuple[str, float, Run], ...] = (
    ("cleanups", cleanups.EVERY_S, cleanups.run),
    ("live", live.EVERY_S, live.run),
    ("guests", guests.EVERY_S, guests.run),
    ("resizes", resizes.EVERY_S, resizes.run),
    ("reclaim", reclaim.EVERY_S, reclaim.run),
    ("shelved", shelved.EVERY_S, shelved.run),
    ("mappings", mappings.EVERY_S, mappings.run),
    ("allocations", allocations.EVERY_S, allocations.run),
    ("attachments", attachments.EVERY_S, attachments.run),
    ("ports", ports.EVERY_S, ports.run),
    ("actions", 300.0, live.run_actions),
    ("secrets", secrets.EVERY_S, secrets.run),
    ("hosts", hosts.EVERY_S, hosts.run),
    ("retention", retention.EVERY_S, retention.run),
    ("memory", 30.0, _give_memory_back),
)


EVERYWHERE = frozenset({"memory"})
"""What each process does for itself; all else is done by one conductor, the one that leads."""


class Reconcilers:
    """All reconcilers of a process on one thread. ``found``: name -> what its last pass found."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.found: dict[str, list[Finding]] = {}
        self._subscription = services.bus.subscribe(
            answers.of_all_hosts(cleanups.ANSWERS),
            functools.partial(cleanups.answered, services),
            "conductors",
        )

    def start(self) -> None:
        """Run each after its own interval, with jitter, until ``close``."""
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the pass that runs; safe to repeat."""
        self._subscription.close()
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(30)

    def run_all(self) -> list[Finding]:
        """Run every reconciler once now, on this thread; return what was found."""
        return [f for name, _, run in JOBS for f in self._pass(name, run)]

    def _pass(self, name: str, run: Run) -> list[Finding]:
        try:
            found = run(self._services)
        except Exception:
            log.exception("a reconciler failed; it runs again at its next time", extra={"of": name})
            return []
        for f in found:
            if f.repair is None and f.key not in {o.key for o in self.found.get(name, [])}:
                log.warning("needs an operator: %s", f.message, extra={"finding": f.kind})
        self.found[name] = found
        return found

    def _leads(self) -> bool:
        """Tell whether this process is the one that reconciles; while no database says so, none is."""
        try:
            return self._services.leads()
        except KilonovaError as exc:
            log.warning("who reconciles is not known", extra={"why": exc.message})
            return False

    def _loop(self) -> None:
        due = [(time.monotonic() + _spread(every), name, every, run) for name, every, run in JOBS]
        while not self._stop.is_set():
            due.sort(key=lambda d: d[0])
            at, name, every, run = due[0]
            if self._stop.wait(max(0.0, at - time.monotonic())):
                return
            if name in EVERYWHERE or self._leads():
                self._pass(name, run)
            due[0] = (time.monotonic() + _spread(every), name, every, run)


def _spread(every_s: float) -> float:
    return every_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
