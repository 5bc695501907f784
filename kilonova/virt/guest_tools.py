"""The part of a driver that speaks with what runs in a guest. Errors as in driver.py."""

from typing import Protocol, runtime_checkable

from kilonova.common.secret import Secret


@runtime_checkable
class GuestToolsDriver(Protocol):
    """What is done to the system inside a guest."""

    def set_password(self, server_id: str, user: str, password: Secret) -> None:
        """Set a user's password through the guest's agent. DriverError: it has none, or it refused. GuestMissing."""
        ...

    def inject_nmi(self, server_id: str) -> None:
        """Give a guest an NMI, for which it may write a crash dump. DriverError: it does not run. GuestMissing."""
        ...
