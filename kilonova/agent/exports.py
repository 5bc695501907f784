"""Which volumes this host exports: desired state, asked for at the start, applied, watched, and reported.

source: objects/volume_orders.py for the messages.
"""

from pathlib import Path

from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.base import decode, encode
from kilonova.objects.volume_orders import ExportsApplied, ExportsRequest, VolumeExports
from kilonova.virt.libvirt import exporter
from kilonova.virt.volumes import VolumeStore

log = get_logger(__name__)
ASK_S = 5.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
WATCH_S = 5.0
RENEW_S = 30 * 86400.0
"""A certificate is asked for again so often, and at each start: it never comes near its end."""


class Exports:
    """One host's exports. Jobs of one key, so that none overtakes another."""

    def __init__(self, host: str, store: VolumeStore, bus: Bus, workers: Workers) -> None:
        self._host = host
        self._store = store
        self._bus = bus
        self._workers = workers
        self._retry_s = FIRST_RETRY_S
        self._watching = False
        self.stopped = False

    def ask(self) -> None:
        """Ask for all that is to be exported, again and again until somebody answers."""
        self._workers.submit((self._host, "exports"), self._ask)

    def take(self, body: bytes) -> None:
        """Apply what was published, soon; a message that cannot be read raises."""
        wanted = decode(body, VolumeExports)
        if wanted.host == self._host:
            self._workers.submit((self._host, "exports"), lambda: self._apply(wanted))

    def _ask(self) -> None:
        if self.stopped:
            return
        try:
            asked = self._store.certificate_request()
            request = encode(ExportsRequest(host=self._host, certificate=asked))
            reply = self._bus.request(f"volume.state.{self._host}", request, ASK_S)
            wanted = decode(reply, VolumeExports)
            if wanted.certificate:
                self._store.take_certificate(wanted.certificate, wanted.authority)
        except KilonovaError as exc:
            log.debug("exports not received", extra={"host": self._host, "why": exc.message})
            self._ask_later()
            return
        self._apply(wanted)
        if asked and not wanted.certificate:
            log.warning("this host got no certificate", extra={"host": self._host})
            self._ask_later()
            return
        self._retry_s = FIRST_RETRY_S
        if asked:
            self._workers.after(RENEW_S, (self._host, "exports"), self._ask)

    def _ask_later(self) -> None:
        self._workers.after(self._retry_s, (self._host, "exports"), self._ask)
        self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)

    def _apply(self, wanted: VolumeExports) -> None:
        if self.stopped:
            return
        try:
            applied = self._store.apply(wanted)
        except KilonovaError as exc:
            log.error(
                "volumes cannot be exported",
                extra={"host": self._host, "why": exc.message, "facts": str(exc.facts)},
            )
            why = tuple((e.attachment_id, exc.message) for e in wanted.exports)
            applied = ExportsApplied(host=self._host, generation=wanted.generation, failed=why)
        self._report(applied)
        if wanted.exports and not self._watching:
            self._watching = True
            self._workers.after(WATCH_S, (self._host, "exports"), self._watch)

    def _watch(self) -> None:
        """Look whether what exports is alive; say so when it was not."""
        if self.stopped:
            return
        try:
            anew = self._store.check()
        except KilonovaError as exc:
            log.error("exports cannot be made anew", extra={"host": self._host, "why": exc.message})
            anew = None
        if anew is not None:
            log.warning("exports were made anew", extra={"host": self._host})
            self._report(anew)
        self._workers.after(WATCH_S, (self._host, "exports"), self._watch)

    def _report(self, applied: ExportsApplied) -> None:
        self._bus.publish(f"volume.report.{self._host}", encode(applied))


def end_exports(agent_directory: Path) -> bool:
    """End the processes that export a real host's volumes, by their ids; tell whether there was one. Repeatable."""
    return exporter.end_all(agent_directory / "volumes")
