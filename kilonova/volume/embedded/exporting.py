"""Tell hosts which volumes to export over NBD, hear what is in force.

Desired state per host with a generation that grows in the transaction that changes what is exported. A lost message
costs seconds: what a host did not report is sent again, and an agent that (re)connects asks for everything. Reading and
publishing happen under one lock, so that what is sent last is newest.
"""

import secrets
import threading
from collections.abc import Callable
from functools import partial

import msgspec
import sqlalchemy as sa

from kilonova.bus.interface import Bus, Subscription
from kilonova.common.clock import Clock
from kilonova.common.host_certificates import HostAuthority
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Row, Tx
from kilonova.db.sql import P, Q
from kilonova.objects.base import decode, encode
from kilonova.objects.volume_orders import (
    ExportsApplied,
    ExportsRequest,
    VolumeExport,
    VolumeExports,
)
from kilonova.volume.embedded.schema import TARGET, attachment, export_host, volume

log = get_logger(__name__)
RESEND_EVERY_S = 5.0

e = export_host
_FIND = Q(sa.select(e).where(e.c.host == P("host")))
_ADD = Q(
    sa.insert(e).values(
        host=P("host"),
        generation=1,
        applied=0,
        address="",
        port=0,
        failed="[]",
        tls_name="",
        ports="[]",
    )
)
_NEXT = Q(sa.update(e).where(e.c.host == P("the_host")).values(generation=e.c.generation + 1))
_MARK = Q(
    sa.update(volume).where(volume.c.id == P("the_id")).values(export_generation=P("generation"))
)
_APPLIED = Q(
    sa.update(e)
    .where(e.c.host == P("the_host"), e.c.generation >= P("applied_"))
    .values(
        applied=P("applied_"),
        address=P("address_"),
        port=P("port_"),
        failed=P("failed_"),
        tls_name=P("tls_name_"),
        ports=P("ports_"),
    )
)
_BEHIND = Q(sa.select(e.c.host).where(e.c.applied < e.c.generation))
_EXPORTS = Q(
    sa.select(
        attachment.c.id,
        attachment.c.volume_id,
        attachment.c.export_name,
        attachment.c.mode,
        attachment.c.host,
        volume.c.readonly,
        volume.c.multiattach,
        volume.c.migration_status,
    )
    .select_from(attachment.join(volume, volume.c.id == attachment.c.volume_id))
    .where(volume.c.host == P("host"), attachment.c.export_name != "")
    .order_by(attachment.c.id)
)


def _data_of(row: Row) -> str:
    """Return the volume by whose id the host knows the data."""
    return str((row["migration_status"] or "").partition(TARGET)[2] or row["volume_id"])


def new_name() -> str:
    """Return an export's name: 128 random bits."""
    return secrets.token_hex(16)


def state_of(tx: Tx, host: str) -> Row | None:
    """Return what is known of a host's exports: generation, applied, address, port, failed, tls_name, ports."""
    return tx.one(_FIND, host=host)


class Exports:
    """The volume service's side of ``agent.<host>.state``, ``volume.state.<host>`` and ``volume.report.<host>``.

    chore: called at every pass of the thread that repeats what was lost (cleanup records are sent there).
    """

    authority: HostAuthority | None = None
    """Signs for hosts that ask; without one they get no certificates."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, chore: Callable[[], None] = lambda: None
    ) -> None:
        self.database = database
        self.bus = bus
        self.clock = clock
        self.chore = chore
        self._order = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._subscriptions: list[Subscription] = []

    def listen(self) -> None:
        """Listen to hosts; no thread."""
        self._subscriptions = [
            self.bus.subscribe("volume.state.*", self._asked, queue="volume"),
            self.bus.subscribe("volume.report.*", self._reported, queue="volume"),
        ]

    def start(self) -> None:
        """Listen, and repeat what was lost until ``stop``."""
        self.listen()
        self._thread = threading.Thread(target=self._loop, name="volume-exports", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; safe to repeat."""
        for s in self._subscriptions:
            s.close()
        self._subscriptions = []
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def touch(self, tx: Tx, host: str, volume_id: str) -> None:
        """What a host exports of a volume changes in this transaction; it is published after the commit."""
        if not host:
            return
        if tx.run(_NEXT, the_host=host) == 0:
            tx.run(_ADD, host=host)
        row = tx.one(_FIND, host=host)
        assert row is not None  # noqa: S101 - inserted just now
        tx.run(_MARK, the_id=volume_id, generation=row["generation"])
        tx.after_commit(partial(self.publish, host))

    def wanted(self, host: str) -> VolumeExports:
        """Return all that a host is to export."""

        def read(tx: Tx) -> VolumeExports:
            row = tx.one(_FIND, host=host)
            exports = tuple(
                VolumeExport(
                    attachment_id=r["id"],
                    volume_id=_data_of(r),
                    name=r["export_name"],
                    readonly=r["mode"] == "ro" or bool(r["readonly"]),
                    shareable=bool(r["multiattach"]),
                    host=r["host"],
                )
                for r in tx.all(_EXPORTS, host=host)
            )
            generation = 0 if row is None else int(row["generation"])
            return VolumeExports(host=host, generation=generation, exports=exports)

        return self.database.read(read)

    def publish(self, host: str) -> None:
        """Send a host all that it is to export."""
        with self._order:
            self.bus.publish(f"agent.{host}.state", encode(self.wanted(host)))

    def resend(self) -> int:
        """Send again what hosts did not report; return to how many."""
        hosts = [r[0] for r in self.database.read(lambda tx: tx.all(_BEHIND))]
        for host in hosts:
            self.publish(host)
        return len(hosts)

    def _loop(self) -> None:
        while not self._stop.wait(RESEND_EVERY_S):
            try:
                self.resend()
                self.chore()
            except Exception:
                log.exception("exports of volumes could not be sent; trying again")

    def _asked(self, subject: str, body: bytes) -> bytes | None:
        request = decode(body, ExportsRequest)
        if subject != f"volume.state.{request.host}":
            log.warning("a host asked for another's exports", extra={"subject": subject})
            return None
        certificate, authority = self._signed(request)
        with self._order:
            wanted = self.wanted(request.host)
        return encode(wanted.replace(certificate=certificate, authority=authority))

    def _signed(self, request: ExportsRequest) -> tuple[str, str]:
        """Return (certificate, the authority's own) of a host that asks; the bus knows that it is that host."""
        if not request.certificate or self.authority is None:
            return "", ""
        try:
            signed = self.authority.sign(request.host, request.certificate)
        except ValueError as exc:
            log.warning("a host asked for a certificate wrongly", extra={"why": str(exc)})
            return "", ""
        return signed, self.authority.certificate

    def _reported(self, subject: str, body: bytes) -> None:
        report = decode(body, ExportsApplied)
        if subject != f"volume.report.{report.host}":
            log.warning(
                "a report on another host's subject was dropped", extra={"subject": subject}
            )
            return
        said = {
            "applied": report.generation,
            "address": report.address,
            "port": report.port,
            "failed": msgspec.json.encode(report.failed).decode(),
            "tls_name": report.tls_name,
            "ports": msgspec.json.encode(report.ports).decode(),
        }
        known = self.database.ask(lambda tx: tx.one(_FIND, host=report.host))
        if known is None or all(known[k] == v for k, v in said.items()):
            return  # a host of no exports, or nothing new
        self.database.write(
            lambda tx: tx.run(
                _APPLIED, the_host=report.host, **{f"{k}_": v for k, v in said.items()}
            )
        )
