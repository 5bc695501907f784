"""Speaking with the system inside a real guest: its agent (channel org.qemu.guest_agent.0) and an NMI."""

from typing import Any

import libvirt

from kilonova.common.log import get_logger
from kilonova.common.secret import Secret
from kilonova.virt.driver import DriverError
from kilonova.virt.libvirt.connection import telling
from kilonova.virt.libvirt.domains import Domains, is_active

log = get_logger(__name__)
AGENT_S = 10


class GuestTools(Domains):
    """The GuestToolsDriver part."""

    def set_password(self, server_id: str, user: str, password: Secret) -> None:
        """Ask the guest's agent; it has 10 s."""
        domain = self._running(server_id)
        with telling("The password could not be set in the guest."):
            domain.agentSetResponseTimeout(AGENT_S, 0)
            domain.setUserPassword(user, password.reveal(), 0)

    def inject_nmi(self, server_id: str) -> None:
        """Give the guest an NMI."""
        domain = self._running(server_id)
        with telling("The guest could not be given an NMI."):
            domain.injectNMI(0)

    def _running(self, server_id: str) -> Any:
        domain = self._found(server_id)
        if not is_active(domain):
            raise DriverError("The server is not running.")
        return domain


def freeze(domain: Any) -> None:
    """Have the guest's agent hold its file systems. DriverError when it cannot."""
    with telling("The guest's file systems cannot be held."):
        domain.agentSetResponseTimeout(AGENT_S, 0)
        domain.fsFreeze(None, 0)


def thaw(domain: Any) -> None:
    """Let the file systems go on; a guest that does not answer is named in the log: it thaws when its agent is back."""
    try:
        domain.fsThaw(None, 0)
    except libvirt.libvirtError as exc:
        log.error("a guest's file systems stay held", extra={"error": str(exc)})
