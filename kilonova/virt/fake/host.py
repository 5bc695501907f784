"""What every part of the driver of a simulated host stands on: its guests and its faults."""

from kilonova.objects.guest import DeviceAddress, PowerState
from kilonova.objects.host import Inventory
from kilonova.virt.driver import Again, DriverError, GuestMissing, HypervisorDown, OnEvent, Progress
from kilonova.virt.fake.world import FakeGuest, World

HANG_S = 0.25
FIRST_SLOT, LAST_SLOT = 3, 31


class FakeHost:
    """One simulated host. Every part of the driver inherits this."""

    def __init__(self, world: World, host: str, spec: Inventory) -> None:
        self._world = world
        self._host = host
        self.spec = spec
        self._ends: dict[
            str, float
        ] = {}  # builds under way: server id -> monotonic time of the end
        self._handler: OnEvent | None = None

    def _alive(self) -> None:
        faults = self._world.faults
        if faults.any and faults.strikes("hypervisor_down", self._host, ""):
            raise HypervisorDown("The hypervisor of the host does not answer.", elsewhere=True)

    def _find(self, server_id: str) -> FakeGuest:
        guest = self._world.guests(self._host).get(server_id)
        if guest is None or guest.power == PowerState.NOSTATE:
            raise GuestMissing("The server has no guest on this host.", host=self._host)
        return guest

    def _fail(self, verb: str, server: str, asked: tuple[str, ...], progress: Progress) -> None:
        faults = self._world.faults
        if faults.strikes(f"{verb}_hang", self._host, server, asked):
            progress("hanging")
            raise Again(HANG_S)
        for fault in (f"{verb}_fail", f"{verb}_fail_once"):
            if faults.strikes(fault, self._host, server, asked):
                raise DriverError(f"The {verb.replace('_', ' ')} of the guest failed.", fault=fault)


def free_address(devices: tuple[DeviceAddress, ...]) -> str:
    """Return where another device goes. DriverError when the bus is full."""
    used = {d.address for d in devices}
    for slot in range(FIRST_SLOT, LAST_SLOT + 1):
        if (address := f"0000:00:{slot:02x}.0") not in used:
            return address
    raise DriverError("The server has no room for another device.", devices=len(devices))
