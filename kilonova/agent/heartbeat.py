"""Signs of life: a digest every 10 s with jitter, the full list of guests only when it changed or is asked for."""

import hashlib
import random
from collections.abc import Callable

import msgspec

from kilonova.agent.guests import KnownStates
from kilonova.agent.workers import Key, Workers
from kilonova.common.clock import Clock
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.base import encode
from kilonova.objects.guest import PowerState
from kilonova.objects.host import GuestEvent, GuestList, Heartbeat, Report
from kilonova.virt.driver import Driver

log = get_logger(__name__)
Publish = Callable[[str, bytes], None]


class Pulse:
    """One host's heartbeat and news."""

    def __init__(
        self,
        host: str,
        boot_id: str,
        driver: Driver,
        known: KnownStates,
        workers: Workers,
        publish: Publish,
        clock: Clock,
        interval_s: float = 10.0,
    ) -> None:
        self._host = host
        self._boot = boot_id
        self._driver = driver
        self._known = known
        self._workers = workers
        self._publish = publish
        self._clock = clock
        self._interval_s = interval_s
        self._told: str | None = None  # digest of the list that was sent last
        self._seen: tuple[object, str] | None = None  # what was looked at last, and its digest
        self.generation: Callable[[], int] = lambda: 0  # of the desired network state in force
        self.starting: Callable[[], bool] = lambda: (
            False
        )  # after a boot: lists would show guests off
        self.stopped = False

    def beat(self) -> float | None:
        """Send one heartbeat, and the list when it differs from the one sent last. Returns as Workers' jobs do."""
        if self.stopped:
            return None
        try:
            guests, digest = self._look()
            beat = Heartbeat(host=self._host, boot_id=self._boot, digest=digest)
            self._publish(f"report.{self._host}", encode(Report(host=self._host, body=beat)))
            if digest != self._told and not self.starting():
                self._send_list(guests, digest)
        except KilonovaError as exc:
            log.warning("no heartbeat", extra={"host": self._host, "why": exc.message})
        return self._interval_s * random.uniform(0.85, 1.15)  # noqa: S311 - jitter

    def send_list(self) -> None:
        """Send the full list of guests and the inventory now, or with the next heartbeat that may carry it."""
        if self.starting():
            self._told = None
        else:
            self._send_list(*self._look())

    def changed(self, server_id: str, power_state: int) -> None:
        """The driver saw a guest change: report it, once no order for it runs and if it is news."""
        key: Key = (self._host, server_id)
        self._workers.submit(key, lambda: self._report(server_id))

    def _report(self, server_id: str) -> None:
        state = self._driver.guests().get(server_id)
        if state is None:
            news, state = self._known.drop(server_id), int(PowerState.NOSTATE)
        else:
            news = self._known.set(server_id, state)
        if news and not self.stopped:
            event = GuestEvent(
                host=self._host, server_id=server_id, power_state=state, at=self._clock.now()
            )
            self._publish(f"report.{self._host}", encode(Report(host=self._host, body=event)))

    def _look(self) -> tuple[tuple[tuple[str, int, bool], ...], str]:
        guests = list_guests(self._driver)
        what = (guests, self._driver.inventory(), self.generation())
        if self._seen is None or self._seen[0] != what:
            digest = hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:24]
            self._seen = (what, digest)
        return guests, self._seen[1]

    def _send_list(self, guests: tuple[tuple[str, int, bool], ...], digest: str) -> None:
        body = GuestList(host=self._host, guests=guests, inventory=self._driver.inventory())
        self._publish(f"report.{self._host}", encode(Report(host=self._host, body=body)))
        self._told = digest


def list_guests(driver: Driver) -> tuple[tuple[str, int, bool], ...]:
    """Return every domain of a host: ours by server id, then strangers by name."""
    ours = [(server_id, state, True) for server_id, state in sorted(driver.guests().items())]
    return (*ours, *((name, 0, False) for name in sorted(driver.strangers())))
