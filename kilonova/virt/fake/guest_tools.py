"""Simulated guests that are spoken with: they say so on their console."""

from kilonova.common.secret import Secret
from kilonova.virt.driver import DriverError
from kilonova.virt.fake.host import FakeHost
from kilonova.virt.fake.world import RUNS, FakeGuest, logged


class FakeGuestTools(FakeHost):
    """The GuestToolsDriver part."""

    def set_password(self, server_id: str, user: str, password: Secret) -> None:
        """Let the guest say whose password it is."""
        guest = self._running(server_id, "set_password")
        if not guest.hardware.guest_agent:
            raise DriverError("The guest has no agent.")
        self._world.put(self._host, logged(guest, f"guest: password of {user} set"))

    def inject_nmi(self, server_id: str) -> None:
        """Let the guest say that it came."""
        guest = self._running(server_id, "inject_nmi")
        self._world.put(self._host, logged(guest, "guest: NMI received"))

    def _running(self, server_id: str, verb: str) -> FakeGuest:
        self._alive()
        guest = self._find(server_id)
        self._fail(verb, server_id, guest.faults, lambda _: None)
        if guest.power not in RUNS:
            raise DriverError("The server is not running.", power=guest.power)
        return guest
