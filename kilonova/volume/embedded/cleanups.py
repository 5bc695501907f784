"""Cleanup records of volumes: removals that a host which is down must still perform; done when it returns.

A record is written in the transaction that goes on without the host's answer, and holds its GiB of the host's pool.
"""

import sqlalchemy as sa

from kilonova.common.log import get_logger
from kilonova.db.engine import Row, Tx
from kilonova.db.sql import P, Q, insert
from kilonova.objects.base import decode, encode
from kilonova.objects.order import Answer, AnswerState, Order
from kilonova.volume.embedded.schema import cleanup as c
from kilonova.volume.embedded.store import volumes

log = get_logger(__name__)
ANSWERS = "volume-cleanup"  # as if it were a home database: answers to these orders come here
GONE = 1 << 40  # above every epoch that a volume ever had
_ADD = insert(c)
_FIND = Q(sa.select(c).where(c.c.id == P("id")))
_ALL = Q(sa.select(c).order_by(c.c.created_at).limit(1000))
_OF_OPERATION = Q(sa.select(c.c.id).where(c.c.id >= P("first"), c.c.id < P("after")).limit(1))
_AT_HOST = Q(sa.select(c.c.id).where(c.c.host == P("host"), c.c.volume_id == P("volume")).limit(1))
_DONE = Q(sa.delete(c).where(c.c.id == P("id")))
_TRIED = Q(
    sa.update(c).where(c.c.id == P("the_id")).values(tries=c.c.tries + 1, last_error=P("why"))
)


def put(tx: Tx, order: Order, size_gib: int, now: float) -> None:
    """Keep an order for later; repeating it keeps one."""
    record = f"{order.operation}:{order.step}"
    if tx.one(_FIND, id=record) is None:
        tx.run(
            _ADD,
            id=record,
            host=order.host,
            volume_id=order.server_id,
            size_gib=size_gib,
            order=encode(order),
            created_at=now,
            tries=0,
            last_error=None,
        )


def all_records(tx: Tx) -> list[Row]:
    """Return at most 1000 records, oldest first."""
    return tx.all(_ALL)


def of_operation(tx: Tx, operation: str) -> bool:
    """Tell whether a host still owes anything of an operation."""
    return tx.one(_OF_OPERATION, first=f"{operation}:", after=f"{operation};") is not None


def owed(tx: Tx, host: str, volume_id: str) -> bool:
    """Tell whether a host still has to remove something of a volume."""
    return tx.one(_AT_HOST, host=host, volume=volume_id) is not None


def renewed(tx: Tx, row: Row) -> Order:
    """Return a parked order as it is sent now: a new seq after each failure, an epoch that is not over."""
    order = decode(row["order"], Order)
    volume = volumes.find(tx, row["volume_id"])
    epoch = order.epoch + GONE if volume is None else max(order.epoch, volume["epoch"])
    return order.replace(seq=order.seq + 1 + row["tries"], epoch=epoch, answer_to=ANSWERS)


def answered(tx: Tx, answer: Answer) -> None:
    """Take a host's answer; one that belongs to no record means nothing."""
    record = f"{answer.operation}:{answer.step}"
    row = tx.one(_FIND, id=record)
    if row is None or row["host"] != answer.host or answer.state == AnswerState.RUNNING:
        return
    if answer.state == AnswerState.DONE:
        tx.run(_DONE, id=record)
    else:
        tx.run(_TRIED, the_id=record, why=answer.message or answer.details or str(answer.state))
