"""Orders about a guest that moves to another host: it leaves this one, or comes back; its disks are sent.

A copy is named by its order, complete when it has its name, and removed by the sending that takes it or by an undo.
"""

from kilonova.agent.guest_images import CopyFiles
from kilonova.agent.guests import Bench, Plugs, Verbs, Work, payload_of, public
from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestBuilt, GuestState, PowerAction, PowerState
from kilonova.objects.image_orders import GuestSnapshot
from kilonova.objects.move_orders import (
    CopiedDisk,
    DisksCopied,
    DisksSent,
    GuestCopyDisks,
    GuestLeave,
    GuestReturn,
    GuestSendDisks,
)
from kilonova.objects.order import Direction
from kilonova.virt.driver import DriverError, GuestMissing
from kilonova.virt.resize import ResizeDriver


class GuestMoves:
    """Moves from and back to one host."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._plugs = Plugs(bench.network, bench.driver, bench.clock)

    def verbs(self) -> Verbs:
        """Return what this part performs."""
        return {
            ("guest_leave", Direction.DO): self._leave,
            ("guest_leave", Direction.UNDO): self._stay,
            ("guest_return", Direction.DO): self._return,
            ("guest_return", Direction.UNDO): self._leave,
        }

    def _leave(self, work: Work) -> Versioned:
        asked = payload_of(work, GuestLeave)
        driver, server = self._bench.driver, asked.server_id
        state = driver.power(server, PowerAction.STOP, asked.timeout_s, None, work.say)
        for port in driver.ports(server):
            self._bench.network.unplug(port)
        self._bench.known.set(server, state)
        return GuestState(power_state=state)

    def _stay(self, work: Work) -> Versioned:
        """A guest that vanished meanwhile cannot be had back: the record follows what the host reports."""
        build = payload_of(work, GuestReturn).build
        try:
            return self._return(work)
        except GuestMissing:
            return GuestBuilt(power_state=int(PowerState.NOSTATE), hardware=build.hardware)

    def _return(self, work: Work) -> Versioned:
        build = payload_of(work, GuestReturn).build
        driver = self._bench.driver
        if not isinstance(driver, ResizeDriver):
            raise DriverError("This host cannot take a server back.")
        ports = tuple(n.port_id for n in build.nics) if build.start else ()
        if not work.ports_ready:
            work.ports_ready = all(self._bench.network.wait_port(p, 0) for p in ports)
        if not work.ports_ready:
            self._plugs.wait(work, ports, build.vif_timeout_s)
        with self._plugs.plugged(build.server_id, ports):
            state, hardware, devices = driver.revert_resize(build, work.say)
        self._bench.metadata.put(public(build.metadata), devices)
        self._bench.known.set(build.server_id, state)
        return GuestBuilt(power_state=state, hardware=hardware, devices=devices)


class DiskMoves:
    """Copies of the disks of guests that left, and where they go."""

    def __init__(self, files: CopyFiles) -> None:
        self._files = files

    def verbs(self) -> Verbs:
        """Return what this part performs."""
        return {
            ("guest_copy_disks", Direction.DO): self._copy,
            ("guest_copy_disks", Direction.UNDO): self._drop,
            ("guest_send_disks", Direction.DO): self._send,
        }

    def _copy(self, work: Work) -> Versioned:
        what = payload_of(work, GuestCopyDisks)
        made: dict[str, CopiedDisk] = work.notes.setdefault("made", {})
        begun: set[str] = work.notes.setdefault("begun", set())
        for serial, file in what.disks:
            if serial in made:
                continue
            asked = GuestSnapshot(server_id=what.server_id, file=file, serial=serial)
            taken = self._files.copy(asked, work.say, first=serial not in begun, begun=begun)
            made[serial] = CopiedDisk(
                serial=serial,
                disk_format=taken.disk_format,
                container_format=taken.container_format,
                size=taken.size,
                virtual_size=taken.virtual_size,
            )
        return DisksCopied(copies=tuple(made[serial] for serial, _ in what.disks))

    def _drop(self, work: Work) -> Versioned:
        what = payload_of(work, GuestCopyDisks)
        for _, file in what.disks:
            self._files.drop(what.server_id, file)
        return DisksSent(size=0)

    def _send(self, work: Work) -> Versioned:
        what = payload_of(work, GuestSendDisks)
        size = sum(self._files.send(file, url, work.say) for file, url in what.files)
        return DisksSent(size=size)
