"""Which generations are in force on a host, and waiting for them."""

import contextlib
import threading
import time
from collections.abc import Callable

from kilonova.bus.interface import Bus
from kilonova.common.errors import Unavailable
from kilonova.objects.base import decode
from kilonova.objects.netstate import Applied, Change

ASK_AFTER_S = 2.0
ASK_TIMEOUT_S = 5.0
Key = tuple[str, str]  # (kind, id)


def kind_of(document: object) -> str:
    """Return the kind of a document: "network", "port", "router" or "group"."""
    return type(document).__name__.removesuffix("State").lower()


class Overtaken(Unavailable):
    """A full state that is older than a change which came before it; ask for a newer one."""

    code = "overtaken"


class InForce:
    """Thread-safe (kind, id) -> generation, with a wait that asks once somebody waits in vain for 2 s.

    ask: called with a port id from the waiting thread; it should bring the port's state, or do nothing.
    """

    def __init__(self, ask: Callable[[str], None] | None = None) -> None:
        self._ask = ask
        self._changed = threading.Condition()
        self._generations: dict[Key, int] = {}
        self._missed: dict[str, float] = {}  # port id -> monotonic time of the next question
        self._newest = 0  # the highest Change.seq seen

    def admit(self, change: Change) -> None:
        """Note a change that is about to be applied. Raises Overtaken for a full state that would undo newer ones."""
        with self._changed:
            if change.full and 0 < change.seq < self._newest:
                raise Overtaken("the full state is older than what came since", seq=change.seq)
            self._newest = max(self._newest, change.seq)

    def took(self, change: Change, applied: Applied) -> None:
        """Note what ``applied`` says of ``change``."""
        removed = {(kind, id_) for kind, id_, _ in change.removed}
        with self._changed:
            for kind, id_, generation, error in applied.items:
                if error is not None:
                    continue
                if (kind, id_) in removed:
                    if self._generations.get((kind, id_), -1) <= generation:
                        self._generations.pop((kind, id_), None)
                else:
                    self._generations[kind, id_] = generation
                    self._missed.pop(id_, None)
            if change.full:
                keep = {(kind_of(d), d.id) for d in change.documents}
                for key in self._generations.keys() - keep:
                    del self._generations[key]
            self._changed.notify_all()

    def get(self, kind: str, id_: str) -> int | None:
        with self._changed:
            return self._generations.get((kind, id_))

    def all(self) -> dict[Key, int]:
        with self._changed:
            return dict(self._generations)

    def clear(self) -> None:
        with self._changed:
            self._generations.clear()
            self._missed.clear()

    def wait_port(self, port_id: str, timeout_s: float, generation: int | None) -> bool:
        """See HostNetwork.wait_port."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                known = self._generations.get(("port", port_id))
                if known is not None and (generation is None or known >= generation):
                    return True
                now = time.monotonic()
                ask_at = self._missed.setdefault(port_id, now + ASK_AFTER_S)
                if now < ask_at or self._ask is None:
                    if now >= deadline:
                        return False
                    end = deadline if self._ask is None else min(deadline, ask_at)
                    self._changed.wait(end - now)
                    continue
                self._missed[port_id] = now + ASK_AFTER_S
            self._ask(port_id)


def ask_until_newest(
    bus: Bus, host: str, request: bytes, apply: Callable[[Change], Applied]
) -> Applied:
    """Ask the network service and apply its answer; again (5 times at most) while changes overtake the answer."""
    subject = f"network.state.{host}"
    for _ in range(4):
        with contextlib.suppress(Overtaken):
            return apply(decode(bus.request(subject, request, ASK_TIMEOUT_S), Change))
    return apply(decode(bus.request(subject, request, ASK_TIMEOUT_S), Change))
