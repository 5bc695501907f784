"""Orders that put a NIC into a guest that is there and take it out: its port plugged first, unplugged last."""

from kilonova.agent.guests import Bench, Plugs, Verbs, Work, payload_of, public
from kilonova.objects.base import Versioned
from kilonova.objects.guest import GuestAttachNic, GuestDetachNic, NicAttached, NicDetached
from kilonova.objects.order import Direction


class GuestNics:
    """The NICs of one host's guests. Each order is undone by the other's payload."""

    def __init__(self, bench: Bench) -> None:
        self._driver = bench.driver
        self._network = bench.network
        self._metadata = bench.metadata
        self._taps = Plugs(bench.network, bench.driver, bench.clock)

    def verbs(self) -> Verbs:
        """Return what performs each verb."""
        return {
            ("guest_attach_nic", Direction.DO): self._attach,
            ("guest_attach_nic", Direction.UNDO): self._detach,
            ("guest_detach_nic", Direction.DO): self._detach,
            ("guest_detach_nic", Direction.UNDO): self._attach,
        }

    def _attach(self, work: Work) -> Versioned:
        attach = payload_of(work, GuestAttachNic)
        server, port = attach.server_id, attach.nic.port_id
        if attach.metadata is not None and not work.notes:
            self._metadata.put(public(attach.metadata), None)
            work.notes["metadata"] = True
        if not self._network.wait_port(port, 0):
            self._taps.wait(work, (port,), attach.vif_timeout_s)
        with self._taps.plugged(server, (port,)):
            device = self._driver.attach_nic(server, attach.nic, work.say)
        self._metadata.plugged(server, device)
        return NicAttached(device=device)

    def _detach(self, work: Work) -> Versioned:
        detach = payload_of(work, GuestDetachNic)
        existed = self._driver.detach_nic(detach.server_id, detach.port_id, work.say)
        self._network.unplug(detach.port_id)
        self._metadata.unplugged(detach.server_id, detach.mac)
        if detach.metadata is not None:
            self._metadata.put(public(detach.metadata), None)
        return NicDetached(existed=existed)
