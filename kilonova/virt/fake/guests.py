"""What becomes of simulated guests: pure functions that the parts of the driver share."""

import msgspec

from kilonova.objects.guest import PowerState
from kilonova.virt.fake.world import FakeGuest, logged


def booted(guest: FakeGuest) -> FakeGuest:
    """Return a guest that has just booted."""
    boots = guest.boots + 1
    lines = [
        f"GUEST START simulated boot={boots}",
        *(f"GUEST NIC name=eth{n} mac={mac}" for n, (_, mac) in enumerate(guest.nics)),
        f"GUEST READY uuid={guest.server} hostname={guest.name}",
    ]
    return msgspec.structs.replace(
        logged(guest, *lines), power=int(PowerState.RUNNING), boots=boots
    )
