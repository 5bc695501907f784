"""Orders about the system inside a guest. Doing one twice is harmless."""

from kilonova.agent.guests import Bench, Verbs, Work, payload_of
from kilonova.common.secret import Secret
from kilonova.objects.base import Versioned
from kilonova.objects.order import Direction
from kilonova.objects.tool_orders import GuestClearPassword, GuestNmi, GuestPassword, Told
from kilonova.virt.driver import DriverError
from kilonova.virt.guest_tools import GuestToolsDriver


class GuestTools:
    """Passwords and NMIs on one host."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def verbs(self) -> Verbs:
        """Return what performs each verb."""
        return {
            ("guest_password", Direction.DO): self._password,
            ("guest_nmi", Direction.DO): self._nmi,
            ("guest_clear_password", Direction.DO): self._clear,
        }

    def _password(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestPassword)
        self._driver().set_password(asked.server_id, asked.user, Secret(asked.password))
        return Told(server_id=asked.server_id)

    def _clear(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestClearPassword)
        self._bench.metadata.clear_password(asked.server_id)
        return Told(server_id=asked.server_id)

    def _nmi(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestNmi)
        self._driver().inject_nmi(asked.server_id)
        return Told(server_id=asked.server_id)

    def _driver(self) -> GuestToolsDriver:
        driver = self._bench.driver
        if not isinstance(driver, GuestToolsDriver):
            raise DriverError("This host cannot speak with guests.")
        return driver
