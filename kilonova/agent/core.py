"""A host's agent: it registers, performs orders, answers questions, and says that it is alive. It decides nothing.

Unknown domains are reported, never touched; nothing is destroyed but by an explicit order for that very server.
"""

import functools
import random
import threading
from dataclasses import dataclass

from kilonova import __version__
from kilonova.agent.exports import Exports
from kilonova.agent.guests import (
    Bench,
    Guests,
    KnownStates,
    MetadataStore,
    NoMetadata,
    PortGate,
)
from kilonova.agent.heartbeat import Pulse
from kilonova.agent.journal import Journal
from kilonova.agent.orders import Orders
from kilonova.agent.parts import parts_of
from kilonova.agent.queries import Queries
from kilonova.agent.registration import Registration
from kilonova.agent.uploads import HostFiles
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus, Subscription
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.console.gate import ConsoleGate
from kilonova.objects.base import decode, manifest, speak, type_of
from kilonova.objects.guest import MetadataPush
from kilonova.objects.host import HostAsk, HostRegister, Registered
from kilonova.objects.live_orders import LiveSteering, LiveWish
from kilonova.objects.order import OperationEnded
from kilonova.virt.migration import MigrationDriver
from kilonova.virt.volumes import VolumeStore
from kilonova.virt.whole import HostDriver

log = get_logger(__name__)
PURGE_EVERY_S = 3600.0
ANSWER_WITHIN_S = 3.0


@dataclass(frozen=True)
class Identity:
    """Who a host is. host_id: made once and kept on the host. boot_id: another after each boot (agent/bootid.py)."""

    host: str
    host_id: str
    cell: str
    boot_id: str


class Agent:
    """One host. Many of them share the Workers of a process."""

    def __init__(
        self,
        identity: Identity,
        driver: HostDriver,
        network: PortGate,
        bus: Bus,
        journal: Journal,
        workers: Workers,
        *,
        metadata: MetadataStore | None = None,
        volumes: VolumeStore | None = None,
        clock: Clock = SYSTEM,
        heartbeat_s: float = 10.0,
        files: HostFiles | None = None,
        gate: ConsoleGate | None = None,
    ) -> None:
        self.identity = identity
        self.registered = threading.Event()
        self._driver = driver
        self._bus = bus
        self._journal = journal
        self._workers = workers
        self._clock = clock
        self._metadata = metadata or NoMetadata()
        self._subscriptions: list[Subscription] = []
        self._beating = False
        self._speaks_older = False
        host, boot = identity.host, identity.boot_id
        known = KnownStates()
        bench = Bench(driver, network, self._metadata, clock, known, volumes, files)
        guests = Guests(bench, parts_of(bench))
        self.orders = Orders(host, boot, guests, journal, workers, bus.publish, clock)
        self.pulse = Pulse(host, boot, driver, known, workers, bus.publish, clock, heartbeat_s)
        self._queries = Queries(
            host, boot, driver, guests.verbs, self._metadata.password, gate=gate, volumes=volumes
        )
        self._registration = Registration(
            self._introduction, bus, driver, guests, journal, known, workers, clock, self._replied
        )

        self._volumes = volumes
        self._exports = Exports(host, volumes, bus, workers) if volumes is not None else None
        self.pulse.starting = lambda: self._registration.starting

    def start(self) -> None:
        """Listen and register; returns at once. ``registered`` is set when a conductor replied."""
        host = self.identity.host
        self._driver.on_event(self.pulse.changed)
        self._subscriptions = [
            self._bus.subscribe(f"agent.{host}.query", lambda _, body: self._queries.reply(body)),
            self._bus.subscribe(f"agent.{host}.state", self._state),
            self._bus.subscribe(f"agent.{host}.order", self._order),
        ]
        self._workers.submit((host, "register"), self._registration.attempt)
        self._workers.after(PURGE_EVERY_S, (host, "purge"), self._purge)
        if self._exports is not None:
            self._exports.ask()

    def close(self) -> None:
        """Stop listening and let go of the driver; guests go on. The Workers are their owner's to close."""
        self.pulse.stopped = self._registration.stopped = True
        for chore in ("heartbeat", "register"):
            self._workers.wake((self.identity.host, chore))
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []
        if self._exports is not None:
            self._exports.stopped = True
        self._driver.close()
        if self._volumes is not None:
            self._volumes.close()
        self._journal.close()

    # -- the bus

    def _order(self, subject: str, body: bytes) -> None:
        if self.registered.is_set():  # else its sender sends it again
            self.orders.receive(body)

    def _state(self, subject: str, body: bytes) -> None:
        """Take a metadata document, exports, the end of an operation, a wish; network state is the network half's."""
        try:
            kind = type_of(body)
            if kind == "MetadataPush":
                push = decode(body, MetadataPush)
                server_id = push.document.server_id
                ours = server_id in self.orders.busy or server_id in self._driver.guests()
                if push.host == self.identity.host and ours:
                    self._metadata.put(push.document, None)
            elif kind == "OperationEnded":
                ended = decode(body, OperationEnded)
                self._journal.operation_ended(
                    ended.operation, ended.server_id, ended.epoch, self._clock.now()
                )
            elif kind == "VolumeExports" and self._exports is not None:
                self._exports.take(body)
            elif kind == "HostAsk":
                self._asked(decode(body, HostAsk).what)
            elif kind == "LiveSteering":
                self._steer(decode(body, LiveSteering))
        except KilonovaError as exc:
            log.warning(
                "a state that cannot be taken",
                extra={"host": self.identity.host, "why": exc.message},
            )

    def _asked(self, what: str) -> None:
        host = self.identity.host
        if what == "guests":
            self._workers.submit((host, "list"), self.pulse.send_list)
        elif what == "register":
            self._workers.submit((host, "register"), self._registration.attempt)
        elif what == "heartbeat":  # all hosts are asked at once
            delay_s = random.uniform(0.0, ANSWER_WITHIN_S)  # noqa: S311 - spreads answers
            wake = functools.partial(self._workers.wake, (host, "heartbeat"))
            self._workers.after(delay_s, (host, "wake"), wake)

    def _steer(self, steering: LiveSteering) -> None:
        """Pass on what somebody wants of a live migration; it only hastens what ends by itself."""
        driver = self._driver
        if steering.host != self.identity.host or not isinstance(driver, MigrationDriver):
            return
        act = {
            LiveWish.ABORT: driver.live_migration_abort,
            LiveWish.FORCE_COMPLETE: driver.live_migration_force_complete,
        }.get(steering.wish)
        if act is not None:
            act(steering.server_id)
            self._workers.wake((self.identity.host, steering.server_id))

    # -- registration

    def _introduction(self) -> HostRegister:
        who = self.identity
        return HostRegister(
            host=who.host,
            host_id=who.host_id,
            boot_id=who.boot_id,
            journal_id=self._journal.id,
            cell=who.cell,
            driver=self._driver.name,
            release=__version__,
            inventory=self._driver.inventory(),
            versions=manifest(),
        )

    def _replied(self, reply: Registered) -> None:
        self.orders.refuse_all = (
            None if reply.accepted else reply.reason or "The host is not registered."
        )
        if (
            reply.speak or self._speaks_older
        ):  # beside a conductor in one process it is the conductor's word
            speak({**manifest(), **reply.speak} if reply.speak else None)
            self._speaks_older = bool(reply.speak)
        self.registered.set()
        if not self._beating:
            self._beating = True
            self._workers.submit((self.identity.host, "heartbeat"), self.pulse.beat)

    def _purge(self) -> float | None:
        if self.pulse.stopped:
            return None
        self._journal.purge(self._clock.now(), frozenset(self._driver.guests()))
        return PURGE_EVERY_S
