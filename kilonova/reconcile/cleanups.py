"""Cleanup records: what a host that was down must still remove is sent to it when it is back.

Done, the record goes, and with it what it held: claim and volumes of a server that is gone.
"""

import msgspec

from kilonova.bus import answers
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.db import mappings
from kilonova.db.engine import Database, Row, Tx
from kilonova.objects.base import decode, encode
from kilonova.objects.order import Answer, AnswerState, Order
from kilonova.operations import cleanup, server_volumes
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.picture import Picture

log = get_logger(__name__)
EVERY_S = 5.0
GONE = 1000
ANSWERS = "cleanup"
"""Answers come on ``answer.cleanup``."""


def look(picture: Picture) -> list[Finding]:
    """List every record."""
    found = []
    for cell, what in picture.cells.items():
        for r in what["cleanups"]:
            why = f" It said: {r['last_error']}" if r["last_error"] else ""
            found.append(
                Finding(
                    kind="cleanup_waiting",
                    subject=r["id"],
                    where=cell,
                    message=f"Host {r['host']} must still remove what it has of server {r['server']}.{why}",
                    repair="The order is sent until the host confirms; forget the host if it never returns.",
                    since=r["created_at"],
                )
            )
    return found + _volumes(picture.services)


def _volumes(services: Services) -> list[Finding]:
    """List what the volume service keeps for hosts that were down; it sends that itself."""
    return [
        Finding(
            kind="cleanup_waiting",
            subject=volume,
            where="volume",
            message=f"Host {host} must still remove what it has of volume {volume}.",
            repair="The order is sent until the host confirms.",
            about=(volume,),
            since=since,
        )
        for host, volume, since in (services.volumes.waiting() if services.has_volumes else ())
    ]


def run(services: Services) -> list[Finding]:
    """Send every record's order to its host, if that is up. Light: it reads the records alone."""
    for name in services.real_cells():
        for r in services.cell(name).read(cleanup.all_records):
            if not services.hosts.is_up(r["host"]):
                continue
            parked = decode(r["order"], Order)
            wanted = cleanup.still_wanted(services, parked)
            if wanted is False:
                _done(services, services.cell(name), r)
            if not wanted:
                continue
            order = renewed(services, parked, r["tries"])
            services.bus.publish(f"agent.{order.host}.order", encode(order))
    return []


def renewed(services: Services, order: Order, tries: int) -> Order:
    """Return a parked order as it is sent now.

    A new seq after each failure: a host answers an old one from its memory. The epoch is the server's newest, above
    all that it ever had once it is gone: the host may have heard of later operations since.
    """
    mapping = services.world.read(lambda tx: mappings.find(tx, order.server_id))
    epoch = order.epoch + GONE if mapping is None else max(order.epoch, mapping["epoch"])
    return order.replace(seq=order.seq + 1 + tries, epoch=epoch, answer_to=ANSWERS)


def answered(services: Services, subject: str, body: bytes) -> None:
    """Take a host's answer; one that belongs to no record means nothing."""
    answer = answers.read(subject, body)
    if answer is None or answer.state == AnswerState.RUNNING:
        return
    try:
        cell = services.cell(services.hosts.cell_of(answer.host))
    except KilonovaError:
        return
    record = cleanup.record_id(answer.operation, answer.step, answer.host)
    rows = cell.read(lambda tx: cleanup.of_host(tx, answer.host))
    for r in rows:
        if r["id"] != record:
            continue
        if answer.state == AnswerState.DONE or _overtaken(answer, r):
            _done(services, cell, r)
        else:
            _tried(cell, record, answer.message or answer.details or str(answer.state))


def _overtaken(answer: Answer, record: Row) -> bool:
    """Tell whether a newer operation has taken the guest over on that host: nothing of a live migration is left."""
    verb = decode(record["order"], Order).verb
    return answer.state == AnswerState.REFUSED and verb.startswith("guest_live_")


def _tried(cell: Database, record: str, why: str) -> None:
    cell.write(lambda tx: cleanup.tried(tx, record, why))


def _done(services: Services, cell: Database, found: Row) -> None:
    """Release what the record held, then forget it: a record disappears last.

    What an unwound create had claimed of this host is free now. The server's own claim stays while the server lives (it
    is of where it is now), or another host has not cleaned up yet.
    """
    record, server = found["id"], found["server"]
    own = cleanup.hold_of(found["operation"], found["host"]) if found["operation"] else ""
    cells = [services.cell(name) for name in services.real_cells()]
    last = not any(
        r["server"] == server and r["id"] != record
        for c in cells
        for r in c.read(cleanup.all_records)
    )

    def release(tx: Tx) -> None:
        freed = {own} if own else set()
        if last and mappings.find(tx, server) is None:
            freed |= {server, *msgspec.json.decode(found["holds"])}
        for consumer in sorted(freed):
            services.scheduling.release(tx, consumer)

    services.world.write(release)
    if last:
        server_volumes.settle_held(services, server, found["operation"])
    cell.write(lambda tx: cleanup.done(tx, record))
    log.info("a cleanup is done", extra={"server": server})
