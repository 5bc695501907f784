"""Orders that make a guest another one in place, take that back, or make it final."""

from kilonova.agent.guests import Bench, Plugs, Verbs, Work, payload_of, public
from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestBuild, GuestBuilt, GuestGone
from kilonova.objects.order import Direction
from kilonova.objects.remake_orders import GuestForget, GuestRemake, GuestRestore
from kilonova.virt.driver import DriverError
from kilonova.virt.remaking import Change, Made, RemakeDriver


class GuestRemakes:
    """Rebuilds and rescues on one host."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._taps = Plugs(bench.network, bench.driver, bench.clock)

    def verbs(self) -> Verbs:
        """Return what performs each verb."""
        return {
            ("guest_remake", Direction.DO): self._remake,
            ("guest_remake", Direction.UNDO): self._restore,
            ("guest_forget", Direction.DO): self._forget,
        }

    def _remake(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestRemake)
        refused = self._bench.driver.refuses(asked.build)
        if refused is not None:
            raise DriverError(refused)
        self._plug(work, asked.build)
        change = Change(asked.anew, asked.mark, asked.timeout_s, asked.drive)
        return self._made(asked.build, self._driver().remake(asked.build, change, work.say))

    def _restore(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestRestore)
        self._plug(work, asked.build)
        return self._made(asked.build, self._driver().restore(asked.build, asked.drop, work.say))

    def _forget(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestForget)
        return GuestGone(existed=self._driver().forget_aside(asked.server_id))

    def _driver(self) -> RemakeDriver:
        driver = self._bench.driver
        if not isinstance(driver, RemakeDriver):
            raise DriverError("This host cannot rebuild or rescue servers.")
        return driver

    def _plug(self, work: Work, build: GuestBuild) -> None:
        """The taps of a guest that was off did not survive a boot of the host."""
        if not build.start or "plugged" in work.notes:
            return
        ports = tuple(n.port_id for n in build.nics)
        if not all(self._bench.network.wait_port(port, 0) for port in ports):
            self._taps.wait(work, ports, build.vif_timeout_s)
        for port in ports:
            self._taps.plug(port)
        work.notes["plugged"] = True

    def _made(self, build: GuestBuild, made: Made) -> GuestBuilt:
        state, hardware, devices = made
        self._bench.metadata.put(public(build.metadata), devices)
        self._bench.known.set(build.server_id, state)
        return GuestBuilt(power_state=state, hardware=hardware, devices=devices)
