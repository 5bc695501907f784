"""What each verb of an order does with the driver, the host's network and the metadata store.

Repeating any of it is safe. What waits raises Again: it is called once more later, with the same Work.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from kilonova.agent.uploads import HostFiles
from kilonova.common.clock import Clock
from kilonova.common.errors import KilonovaError, Unavailable
from kilonova.objects.base import Versioned
from kilonova.objects.guest import (
    DeviceAddress,
    GuestBuild,
    GuestBuilt,
    GuestDelete,
    GuestGone,
    GuestPower,
    GuestState,
    MetadataDocument,
    PowerAction,
)
from kilonova.objects.order import Direction, Order, unpack
from kilonova.virt.driver import Aborted, Again, Driver, DriverError
from kilonova.virt.volumes import VolumeStore
from kilonova.virt.whole import HostDriver

PORT_POLL_S = 0.2
_ABOUT = ("server_id", "volume_id", "backup_id")  # what a payload is about: the first that it has
_STARTS = frozenset({PowerAction.START, PowerAction.REBOOT_HARD, PowerAction.RESUME})


class PortGate(Protocol):
    """What an agent's core asks of its host's network."""

    def wait_port(self, port_id: str, timeout_s: float) -> bool:
        """Wait until the port's wanted generation is in force here; tell whether it is (0: look only)."""
        ...

    def plug(self, port_id: str) -> str:
        """Make the port's tap and put it into its network; return the tap's name. Repeatable."""
        ...

    def unplug(self, port_id: str) -> None:
        """Remove the tap; fine when there is none."""
        ...


class MetadataStore(Protocol):
    """Keeps the documents that this host serves; survives a restart."""

    def put(self, document: MetadataDocument, devices: tuple[DeviceAddress, ...] | None) -> None:
        """Keep a document unless a newer generation is kept; devices None: as they are."""
        ...

    def plugged(self, server_id: str, device: DeviceAddress) -> None:
        """Add a device to a server's, in place of one of the same MAC or serial; fine when there is no document."""
        ...

    def unplugged(self, server_id: str, name: str) -> None:
        """Take the device of this MAC or serial off a server's; fine when there is none."""
        ...

    def remove(self, server_id: str) -> None:
        """Forget a server's document; fine when there is none."""
        ...

    def password(self, server_id: str) -> str:
        """Return the password that a guest posted, "" when there is none."""
        ...

    def set_password(self, server_id: str, password: str) -> bool:
        """Keep it; False when there is one already, or no such server."""
        ...

    def clear_password(self, server_id: str) -> None:
        """Forget it; fine when there is none."""
        ...


class NoMetadata:
    """For hosts whose guests never ask: simulated ones."""

    def put(self, document: MetadataDocument, devices: tuple[DeviceAddress, ...] | None) -> None:
        """Keep nothing."""

    def plugged(self, server_id: str, device: DeviceAddress) -> None:
        """Keep nothing."""

    def unplugged(self, server_id: str, name: str) -> None:
        """There is nothing."""

    def remove(self, server_id: str) -> None:
        """There is nothing."""

    def password(self, server_id: str) -> str:
        """There is none."""
        return ""

    def set_password(self, server_id: str, password: str) -> bool:
        """Keep nothing."""
        return False

    def clear_password(self, server_id: str) -> None:
        """There is none."""


@dataclass
class Work:
    """One order being performed. ``order`` is the latest send of it; ``aborted``: somebody newer wants the guest."""

    order: Order
    began: float  # monotonic
    aborted: bool = False
    progress: str | None = None
    payload: Any = None
    ports_ready: bool = False
    waits_since: float | None = None
    down_since: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Note how far it is. Raises Aborted when the order was overtaken."""
        self.progress = text
        if self.aborted:
            raise Aborted("The request was superseded by a newer one.")


Verbs = Mapping[tuple[str, Direction], Callable[[Work], Versioned]]


class Part(Protocol):
    """The orders of one kind: a file of its own each (guest_disks.py …), given to Guests when it is built."""

    def verbs(self) -> Verbs:
        """Return (verb, direction) -> what performs it; it raises as ``Guests.perform``."""
        ...


class KnownStates:
    """The power states as the agent last told or was told; what differs from it is news."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, int] = {}

    def set(self, server_id: str, power_state: int) -> bool:
        """Keep a state; tell whether it is another than before."""
        with self._lock:
            before = self._states.get(server_id)
            self._states[server_id] = power_state
            return before != power_state

    def drop(self, server_id: str) -> bool:
        """Forget a guest; tell whether it was known."""
        with self._lock:
            return self._states.pop(server_id, None) is not None

    def replace(self, states: dict[str, int]) -> None:
        """Take over a whole list."""
        with self._lock:
            self._states = dict(states)


@dataclass(frozen=True)
class Bench:
    """What orders are performed with, on one host."""

    driver: HostDriver
    network: PortGate
    metadata: MetadataStore
    clock: Clock
    known: KnownStates
    volumes: VolumeStore | None = None
    files: HostFiles | None = None


class Plugs:
    """The ports of guests on one host, as orders need them: waited for, plugged, taken away again."""

    def __init__(self, network: PortGate, driver: Driver, clock: Clock) -> None:
        self._network = network
        self._driver = driver
        self._clock = clock

    @contextmanager
    def plugged(self, server_id: str, ports: tuple[str, ...]) -> Iterator[None]:
        """Plug ports; if what follows fails, remove the taps of those that the guest does not have."""
        try:
            for port in ports:
                self.plug(port)
            yield
        except KilonovaError:
            has = self._driver.ports(server_id)
            for port in ports:
                if port not in has:
                    self._network.unplug(port)
            raise

    def plug(self, port_id: str) -> None:
        """Make a port's tap. Raises Again when its state is not here yet, DriverError when the host refuses."""
        try:
            self._network.plug(port_id)
        except Unavailable as exc:  # its state came and went again
            raise Again(PORT_POLL_S) from exc
        except DriverError:
            raise
        except KilonovaError as exc:
            raise DriverError(
                "The network of the server could not be connected.",
                elsewhere=True,
                port=port_id,
                why=exc.message,
                facts=str(exc.facts),
            ) from exc

    def wait(self, work: Work, ports: tuple[str, ...], timeout_s: float) -> None:
        """Raise Again: the network is not plugged; DriverError after ``timeout_s``."""
        work.say("waiting for the network")
        now = self._clock.monotonic()
        if work.waits_since is None:
            work.waits_since = now
        elif now - work.waits_since > timeout_s:
            raise DriverError(
                "The network of the server was not ready in time.", elsewhere=True, ports=ports
            )
        raise Again(PORT_POLL_S)


class Guests:
    """Performs orders on one host."""

    def __init__(self, bench: Bench, parts: Iterable[Part] = ()) -> None:
        """parts: what else this host can do; no two of them may know one verb."""
        self._driver = bench.driver
        self._network = bench.network
        self._metadata = bench.metadata
        self._taps = Plugs(bench.network, bench.driver, bench.clock)
        self._known = bench.known
        self._verbs: dict[tuple[str, Direction], Callable[[Work], Versioned]] = {
            ("guest_build", Direction.DO): self._build,
            ("guest_build", Direction.UNDO): self._delete,
            ("guest_delete", Direction.DO): self._delete,
            ("guest_power", Direction.DO): self._power,
            ("guest_power", Direction.UNDO): self._power,
        }
        for part in parts:
            more = part.verbs()
            if more.keys() & self._verbs.keys():
                raise ValueError(f"two parts know one verb: {sorted(more)}")
            self._verbs.update(more)

    @property
    def verbs(self) -> tuple[str, ...]:
        """Return the names of the orders that can be performed."""
        return tuple(sorted({verb for verb, _ in self._verbs}))

    def perform(self, work: Work) -> Versioned:
        """Do what the order says; return the answer's payload.

        Raises Again when it waits, Aborted when overtaken, DriverError (and what payloads raise) when it cannot.
        """
        order = work.order
        handler = self._verbs.get((order.verb, order.direction))
        if handler is None:
            raise DriverError(
                f"This host does not know how to {order.direction} {order.verb}.", elsewhere=True
            )
        return handler(work)

    def start_after_boot(self, server_id: str) -> int:
        """Start a guest that ran before the host went down; return its power state. Raises as ``perform``."""
        ports = self._driver.ports(server_id)
        if not all(self._network.wait_port(port, 0) for port in ports):
            raise Again(PORT_POLL_S)
        for port in ports:
            self._taps.plug(port)
        state = self._driver.power(server_id, PowerAction.START, 60.0, None, _silent)
        self._known.set(server_id, state)
        return state

    # -- verbs

    def _build(self, work: Work) -> Versioned:
        build = payload_of(work, GuestBuild)
        refused = self._driver.refuses(build)
        if refused is not None:
            raise DriverError(refused, elsewhere=True)
        if not work.notes:
            self._metadata.put(public(build.metadata), None)
            brought(self._metadata, build)
            work.notes["metadata"] = True
        if build.start and not self._ports_ready(work, build):
            if "defined" not in work.notes:
                self._driver.build(build.replace(start=False), work.say)
                work.notes["defined"] = True
            self._taps.wait(work, _ports(build), build.vif_timeout_s)
        ports = _ports(build) if build.start else ()
        with self._taps.plugged(build.server_id, ports):
            state, hardware, devices = self._driver.build(build, work.say)
        if devices:
            self._metadata.put(public(build.metadata), devices)
        self._known.set(build.server_id, state)
        return GuestBuilt(power_state=state, hardware=hardware, devices=devices)

    def _power(self, work: Work) -> Versioned:
        power = payload_of(work, GuestPower)
        build = power.build
        if power.action in _STARTS and build is not None:
            if not work.notes:
                self._metadata.put(public(build.metadata), None)
                work.notes["metadata"] = True
            if not self._ports_ready(work, build):
                self._taps.wait(work, _ports(build), build.vif_timeout_s)
        if power.action in _STARTS and "plugged" not in work.notes:
            # the taps of a guest that was off did not survive a boot of the host
            known = self._driver.ports(power.server_id)
            for port in known if build is None else [n.port_id for n in build.nics]:
                self._taps.plug(port)
            work.notes["plugged"] = True
        state = self._driver.power(power.server_id, power.action, power.timeout_s, build, work.say)
        self._known.set(power.server_id, state)
        return GuestState(power_state=state)

    def _delete(self, work: Work) -> Versioned:
        gone = payload_of(work, GuestDelete)
        if not gone.delete_disks:
            raise DriverError("This host cannot remove a server and keep its disks.")
        ports = work.notes.setdefault("ports", self._driver.ports(gone.server_id))
        existed = self._driver.delete(gone.server_id, work.say)
        for port in ports:
            self._network.unplug(port)
        self._metadata.remove(gone.server_id)
        self._known.drop(gone.server_id)
        return GuestGone(existed=existed)

    def _ports_ready(self, work: Work, build: GuestBuild) -> bool:
        if not work.ports_ready:
            work.ports_ready = all(self._network.wait_port(n.port_id, 0) for n in build.nics)
        return work.ports_ready


def payload_of(work: Work, cls: Any) -> Any:
    """Return an order's payload, read once. Raises DriverError when it is about another server, volume or backup."""
    if work.payload is None:
        payload = unpack(work.order.body, cls)
        about = next((found for n in _ABOUT if (found := getattr(payload, n, None))), None)
        if about != work.order.server_id:
            raise DriverError("The order and what is in it name two servers.")
        work.payload = payload
    return work.payload


def _ports(build: GuestBuild) -> tuple[str, ...]:
    return tuple(n.port_id for n in build.nics)


def brought(metadata: MetadataStore, build: GuestBuild) -> None:
    """Keep the password that a guest posted on the host from which it comes."""
    if build.belongings is not None and build.belongings.password:
        metadata.set_password(build.server_id, build.belongings.password)


def public(document: MetadataDocument) -> MetadataDocument:
    """Return the document without what only the first config drive may carry."""
    return document.replace(admin_password=None) if document.admin_password else document


def _silent(text: str) -> None:
    """Nobody waits for progress."""
