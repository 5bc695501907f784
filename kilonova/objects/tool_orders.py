"""What a host agent is told to do to the system inside a guest. Payloads of Order; the answer is Told.

guest_password         GuestPassword    through the guest's agent
guest_clear_password   GuestClearPassword
guest_nmi              GuestNmi         an NMI, for which a guest may write a crash dump
"""

from kilonova.objects.base import Versioned


class GuestPassword(Versioned, frozen=True, kw_only=True):
    """Set a user's password."""

    server_id: str
    user: str
    password: str


class GuestClearPassword(Versioned, frozen=True, kw_only=True):
    """Forget the password that a guest posted."""

    server_id: str


class GuestNmi(Versioned, frozen=True, kw_only=True):
    server_id: str


class Told(Versioned, frozen=True, kw_only=True):
    """It was done."""

    server_id: str
