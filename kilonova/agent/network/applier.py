"""The network of a real host: documents go to the root helper, reports to the network service."""

import threading
from collections.abc import Callable

from kilonova.agent.helper import names
from kilonova.agent.helper.client import HelperClient, HelperError
from kilonova.agent.network.fake import FakeFaults, FakeHostNetwork
from kilonova.agent.network.gathering import Gathering
from kilonova.agent.network.in_force import InForce, Overtaken, ask_until_newest, kind_of
from kilonova.agent.network.interface import HostNetwork, PlugFailed, PortNotReady
from kilonova.agent.network.named_groups import NamedGroups
from kilonova.bus.interface import Bus, NobodyListens
from kilonova.common.errors import Unavailable
from kilonova.common.log import get_logger
from kilonova.objects.base import IncompatibleVersion, decode, encode, type_of
from kilonova.objects.netstate import Applied, Change, NetworkState, StateRequest

__all__ = [
    "FakeFaults",
    "FakeHostNetwork",
    "HostNetwork",
    "PlugFailed",
    "PortNotReady",
    "RealHostNetwork",
]
log = get_logger(__name__)


class RealHostNetwork:
    """HostNetwork by the root helper. Without a bus only ``apply`` brings documents.

    underlay: the address of this host that tunnels to other hosts end at, "" for none. told: somebody answered once.
    """

    def __init__(
        self, helper: HelperClient, host: str, bus: Bus | None = None, underlay: str = ""
    ) -> None:
        self.host = host
        self._underlay = underlay
        self._helper = helper
        self._bus = bus
        self._in_force = InForce(self._ask if bus else None)
        self._networks: dict[str, NetworkState] = {}
        self._named = NamedGroups()
        self._gathering = Gathering()
        self._lock = threading.Lock()
        self.on_networks: Callable[[], None] = lambda: None
        self.told = threading.Event()
        self._subscription = bus.subscribe(f"agent.{host}.state", self._on_state) if bus else None

    # -- documents

    def _on_state(self, subject: str, body: bytes) -> None:
        if type_of(body) != "Change":  # other things travel on the same subject
            return
        change = decode(body, Change)
        try:
            self._report(self.apply(change))
            for port_id in self._without_group(change):
                self._ask(port_id)
        except Overtaken:
            self._ask(None)
        except Unavailable as exc:
            log.warning("a change not applied", extra={"host": self.host, "why": exc.message})

    def apply(self, change: Change) -> Applied:
        with self._lock:
            self._in_force.admit(change)
            change = self._with_groups_gone(self._gathering.take(change))
            if not change.documents and not change.removed and not change.full:
                return Applied(host=self.host, items=())  # a part of something, or nothing at all
            try:
                applied = self._helper.network_apply(change)
            except HelperError as exc:
                items = tuple(
                    (kind_of(d), d.id, d.generation, exc.message) for d in change.documents
                )
                return Applied(host=self.host, items=items)
            self._note_networks(change)
        self.on_networks()
        self._in_force.took(change, applied)
        return applied

    def _with_groups_gone(self, change: Change) -> Change:
        """Add the removal of groups that no port names any more: nobody else knows when that is."""
        unnamed = self._named.take(change)
        have = self._in_force.all() if unnamed else {}
        gone = [("group", g, have["group", g]) for g in sorted(unnamed) if ("group", g) in have]
        return change.replace(removed=(*change.removed, *gone)) if gone else change

    def _without_group(self, change: Change) -> list[str]:
        """Return ports whose rules name a group of which this host was never told: its members come with the port."""
        with self._lock:
            have = {id_ for kind, id_ in self._in_force.all() if kind == "group"}
            return self._named.waiting(change, have)

    def _note_networks(self, change: Change) -> None:
        if change.full:
            self._networks = {}
        for kind, id_, _ in change.removed:
            if kind == "network":
                self._networks.pop(id_, None)
        for document in change.documents:
            if isinstance(document, NetworkState):
                self._networks[document.id] = document

    def networks(self) -> dict[str, NetworkState]:
        """Return the networks in force; those with a dhcp_server have a metadata address."""
        with self._lock:
            return dict(self._networks)

    def _report(self, applied: Applied) -> None:
        if self._bus is not None and applied.items:
            self._bus.publish(f"network.report.{self.host}", encode(applied))

    def _ask(self, port_id: str | None) -> None:
        if self._bus is None:
            return
        request = StateRequest(host=self.host, port_id=port_id, underlay=self._underlay)
        body = encode(request)
        try:
            self._report(ask_until_newest(self._bus, self.host, body, self.apply))
            self.told.set()
        except (NobodyListens, IncompatibleVersion, Unavailable) as exc:
            log.warning("network state not received", extra={"host": self.host, "why": str(exc)})

    def resync(self, full: Change | None = None) -> None:
        if full is None:
            self._ask(None)
        else:
            self._report(self.apply(full.replace(full=True)))

    # -- ports

    def wait_port(self, port_id: str, timeout_s: float, generation: int | None = None) -> bool:
        return self._in_force.wait_port(port_id, timeout_s, generation)

    def tap_of(self, port_id: str) -> str:
        return names.tap(port_id)

    def plug(self, port_id: str) -> str:
        try:
            return self._helper.tap_ensure(port_id)
        except HelperError as exc:
            if exc.helper_code == "port_unknown":
                raise PortNotReady(
                    "The port's network is not ready on the host", port=port_id
                ) from exc
            raise PlugFailed(
                "The host could not connect the network", port=port_id, error=exc.message
            ) from exc

    def unplug(self, port_id: str) -> None:
        try:
            self._helper.tap_remove(port_id)
        except HelperError as exc:
            raise PlugFailed(
                "The host could not disconnect the network", port=port_id, error=exc.message
            ) from exc

    # -- the whole

    def remove_all(self) -> None:
        with self._lock:
            self._helper.network_remove()
            self._networks = {}
            self._named = NamedGroups()
        self._in_force.clear()

    def generations(self) -> dict[tuple[str, str], int]:
        return self._in_force.all()

    def digest(self) -> int:
        """Return one number for all generations in force, for the heartbeat."""
        return sum(self._in_force.all().values())

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
