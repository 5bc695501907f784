"""The network of simulated hosts: applies in memory, at once; one object serves thousands of ports."""

import threading

from kilonova.agent.helper import names
from kilonova.agent.network.gathering import Gathering
from kilonova.agent.network.in_force import InForce, Overtaken, ask_until_newest, kind_of
from kilonova.agent.network.interface import PlugFailed, PortNotReady
from kilonova.bus.interface import Bus, NobodyListens
from kilonova.common.log import get_logger
from kilonova.objects.base import IncompatibleVersion, decode, encode, type_of
from kilonova.objects.netstate import (
    BEHIND,
    Applied,
    Change,
    Document,
    ForwardingState,
    StateRequest,
)

log = get_logger(__name__)
ASK_TIMEOUT_S = 2.0


class FakeFaults:
    """Switches of a fake network; a port id in a set makes that call fail."""

    def __init__(self) -> None:
        self.refuse_plug: set[str] = set()
        self.never_apply: set[str] = set()
        self.apply_error: dict[str, str] = {}  # document id -> error reported
        self.hit: list[str] = []


class FakeHostNetwork:
    """HostNetwork in memory. With a bus it subscribes and reports like a real one; without, call ``apply``."""

    def __init__(self, host: str, bus: Bus | None = None) -> None:
        self.host = host
        self.faults = FakeFaults()
        self.plugged: set[str] = set()
        self._bus = bus
        self._gathering = Gathering()
        self._lock = threading.Lock()
        self._in_force = InForce(self._ask if bus else None)
        self._subscription = bus.subscribe(f"agent.{host}.state", self._on_state) if bus else None

    def _on_state(self, subject: str, body: bytes) -> None:
        if type_of(body) == "Change":  # metadata documents travel on the same subject
            try:
                self._report(self.apply(decode(body, Change)))
            except Overtaken:
                self._ask(None)

    def _report(self, applied: Applied) -> None:
        if self._bus is not None and applied.items:
            self._bus.publish(f"network.report.{self.host}", encode(applied))

    def apply(self, change: Change) -> Applied:
        self._in_force.admit(change)
        with self._lock:
            change = self._gathering.take(change)
        items: list[tuple[str, str, int, str | None]] = []
        for document in change.documents:
            kind, error = kind_of(document), self._error(document)
            if document.id in self.faults.never_apply:
                self.faults.hit.append(f"never_apply:{document.id}")
                continue
            if error is not None and error != BEHIND:
                self.faults.hit.append(f"apply_error:{document.id}")
            known = self._in_force.get(kind, document.id) or 0
            items.append((kind, document.id, max(document.generation, known), error))
        items += [(kind, id_, generation, None) for kind, id_, generation in change.removed]
        applied = Applied(host=self.host, items=tuple(items))
        self._in_force.took(change, applied)
        return applied

    def _error(self, document: Document) -> str | None:
        if isinstance(document, ForwardingState) and document.base is not None:
            known = self._in_force.get("forwarding", document.id)
            if known is None or known < document.base:
                return BEHIND
        return self.faults.apply_error.get(document.id)

    def wait_port(self, port_id: str, timeout_s: float, generation: int | None = None) -> bool:
        return self._in_force.wait_port(port_id, timeout_s, generation)

    def _ask(self, port_id: str | None) -> None:
        if self._bus is None:
            return
        body = encode(StateRequest(host=self.host, port_id=port_id))
        try:
            self._report(ask_until_newest(self._bus, self.host, body, self.apply))
        except (NobodyListens, IncompatibleVersion, Overtaken) as exc:
            log.warning("network state not received", extra={"host": self.host, "why": str(exc)})

    def tap_of(self, port_id: str) -> str:
        return names.tap(port_id)

    def plug(self, port_id: str) -> str:
        if port_id in self.faults.refuse_plug:
            self.faults.hit.append(f"refuse_plug:{port_id}")
            raise PlugFailed("The host could not connect the network", port=port_id)
        if self._in_force.get("port", port_id) is None:
            raise PortNotReady("the port's network is not ready on the host", port=port_id)
        self.plugged.add(port_id)
        return self.tap_of(port_id)

    def unplug(self, port_id: str) -> None:
        self.plugged.discard(port_id)

    def resync(self, full: Change | None = None) -> None:
        if full is None:
            self._ask(None)
        else:
            self._report(self.apply(full.replace(full=True)))

    def remove_all(self) -> None:
        self._in_force.clear()
        self.plugged.clear()

    def generations(self) -> dict[tuple[str, str], int]:
        return self._in_force.all()

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
