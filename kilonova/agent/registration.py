"""An agent's first words: who it is; and what it does with the reply. Nothing is started before it."""

import functools
import random
from collections.abc import Callable

from kilonova.agent.guests import Guests, KnownStates
from kilonova.agent.journal import Journal
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.common.clock import Clock
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.base import decode, encode
from kilonova.objects.guest import PowerState
from kilonova.objects.host import HostRegister, OwnedServer, Registered, Report
from kilonova.virt.driver import Again, Driver

log = get_logger(__name__)
FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 10.0
REFUSED_RETRY_S = 10.0
REPLY_S = 5.0
START_WITHIN_S = 300.0


class Registration:
    """Registers one host, again and again until a conductor takes it; who was refused asks again later."""

    def __init__(
        self,
        make: Callable[[], HostRegister],
        bus: Bus,
        driver: Driver,
        guests: Guests,
        journal: Journal,
        known: KnownStates,
        workers: Workers,
        clock: Clock,
        done: Callable[[Registered], None],
    ) -> None:
        """make: builds the message. done: told of each reply, once the starts that it causes are lined up."""
        self._make = make
        self._bus = bus
        self._driver = driver
        self._guests = guests
        self._journal = journal
        self._known = known
        self._workers = workers
        self._clock = clock
        self._done = done
        self._retry_s = FIRST_RETRY_S
        self._oldest = False
        self._refused: str | None = None
        self._asked = float("-inf")
        self._starting: set[str] = set()
        self.stopped = False

    @property
    def starting(self) -> bool:
        """Tell whether guests are still being started after a boot: what is off now may be on in a moment."""
        return bool(self._starting)

    def attempt(self) -> float | None:
        """Ask once; returns as Workers' jobs do: None when replied, else the seconds until the next try."""
        now = self._clock.monotonic()
        if self.stopped or (self._refused and now - self._asked < REFUSED_RETRY_S * 0.7):
            return None
        self._asked = now
        try:
            message = self._make()
            body = encode(Report(host=message.host, body=message), {} if self._oldest else None)
            answer = self._bus.request(f"report.{message.host}", body, REPLY_S)
            reply = decode(answer, Registered)
            self._accept(message, reply)
        except KilonovaError as exc:
            # A conductor of an older release cannot read ours, and says nothing: the oldest form it can.
            self._oldest = not self._oldest
            wait = self._retry_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)
            log.info("not registered yet", extra={"why": exc.message, "facts": str(exc.facts)})
            return wait
        self._retry_s = FIRST_RETRY_S
        return None if reply.accepted else REFUSED_RETRY_S

    def _accept(self, message: HostRegister, reply: Registered) -> None:
        now = self._clock.now()
        for owned in reply.servers:
            self._journal.own(owned.server_id, owned.epoch, now)
        self._known.replace(self._driver.guests())
        before, boot = self._journal.boot_id, message.boot_id
        if not reply.accepted:
            if reply.reason != self._refused:
                log.error(
                    "the registration was refused",
                    extra={"host": message.host, "why": reply.reason},
                )
        elif (
            before is None
        ):  # never here before, or the state was wiped: adopt what runs, start nothing
            self._journal.booted(boot)
        elif before != boot:
            self._start_wanted(message.host, boot, reply.servers)
        self._refused = None if reply.accepted else reply.reason
        self._done(reply)

    def _start_wanted(self, host: str, boot: str, servers: tuple[OwnedServer, ...]) -> None:
        """After a boot of the host: start what should run; what an operation or an order is for is left to it.

        The boot counts as handled once all were tried: an agent killed on the way does the rest in its next life.
        """
        states = self._driver.guests()
        wanted = [
            o
            for o in servers
            if o.wanted_power == PowerState.RUNNING
            and not o.busy
            and states.get(o.server_id, PowerState.RUNNING)
            not in (PowerState.RUNNING, PowerState.PAUSED)
        ]
        self._starting.update(o.server_id for o in wanted)
        if not wanted:
            self._journal.booted(boot)
        until = self._clock.monotonic() + START_WITHIN_S
        for owned in wanted:
            self._workers.submit(
                (host, owned.server_id),
                functools.partial(self._try, host, boot, owned, until, True),
            )

    def _try(
        self, host: str, boot: str, owned: OwnedServer, until: float, first: bool = False
    ) -> None:
        """Start one guest; one that must wait stands in line again behind the orders that came meanwhile."""
        server_id = owned.server_id
        if self.stopped:
            return
        overtaken = not first and self._journal.epoch(server_id) > owned.epoch
        over = overtaken or self._clock.monotonic() > until
        wait = None if over else self._start(host, server_id)
        if wait is not None:
            again = functools.partial(self._try, host, boot, owned, until)
            self._workers.after(wait, (host, server_id), again)
            return
        self._starting.discard(server_id)
        if not self._starting:
            self._journal.booted(boot)

    def _start(self, host: str, server_id: str) -> float | None:
        try:
            self._guests.start_after_boot(server_id)
        except Again as again:
            return again.after_s
        except KilonovaError as exc:
            log.error(
                "a server could not be started after the host's boot",
                extra={
                    "host": host,
                    "server": server_id,
                    "why": exc.message,
                    "facts": str(exc.facts),
                },
            )
        return None
