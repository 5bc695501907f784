"""Orders that give a guest another size, make that final, or take it back."""

from kilonova.agent.guests import Bench, Verbs, Work, payload_of, public
from kilonova.objects.base import Versioned
from kilonova.objects.guest import (
    GuestBuild,
    GuestBuilt,
    GuestGone,
    GuestResize,
    GuestResizeConfirm,
    GuestResizeRevert,
)
from kilonova.objects.order import Direction
from kilonova.virt.driver import DriverError
from kilonova.virt.resize import Made, ResizeDriver


class GuestResizes:
    """Resizes on one host. The taps of a guest stay plugged all the time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def verbs(self) -> Verbs:
        """Return what performs each verb."""
        return {
            ("guest_resize", Direction.DO): self._resize,
            ("guest_resize", Direction.UNDO): self._unmake,
            ("guest_resize_confirm", Direction.DO): self._confirm,
            ("guest_resize_revert", Direction.DO): self._revert,
            ("guest_resize_revert", Direction.UNDO): self._resize,
        }

    def _resize(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestResize)
        refused = self._bench.driver.refuses(asked.build)
        if refused is not None:
            raise DriverError(refused)
        self._plug(asked.build)
        return self._made(
            asked.build, self._driver().resize(asked.build, asked.timeout_s, work.say)
        )

    def _revert(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestResizeRevert)
        self._plug(asked.build)
        return self._made(asked.build, self._driver().revert_resize(asked.build, work.say))

    def _unmake(self, work: Work) -> Versioned:
        made = self._revert(work)
        self._driver().confirm_resize(work.order.server_id)
        return made

    def _confirm(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestResizeConfirm)
        return GuestGone(existed=self._driver().confirm_resize(asked.server_id))

    def _driver(self) -> ResizeDriver:
        driver = self._bench.driver
        if not isinstance(driver, ResizeDriver):
            raise DriverError("This host cannot resize servers.", elsewhere=True)
        return driver

    def _plug(self, build: GuestBuild) -> None:
        for nic in build.nics:
            self._bench.network.plug(nic.port_id)

    def _made(self, build: GuestBuild, made: Made) -> GuestBuilt:
        state, hardware, devices = made
        self._bench.metadata.put(public(build.metadata), devices)
        self._bench.known.set(build.server_id, state)
        return GuestBuilt(power_state=state, hardware=hardware, devices=devices)
