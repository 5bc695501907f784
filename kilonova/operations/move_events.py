"""What is told of the parts of a move while they happen: events of its action, and notifications, as Nova has them.

    prepare     a host is chosen and claims the server        compute_prep_resize      instance.resize_prep.*
    leave       the source lets the server go                 compute_resize_instance  instance.resize.*
    finish      the destination makes it                      compute_finish_resize    instance.resize_finish.*

A part's event is there from its begin on, without a result until it ends. The action's own begin and end are told as
the begin of the first part and the end of the last one. source: Nova's compute manager, the names alone.
"""

from kilonova.db import actions, notifications
from kilonova.db.engine import Tx
from kilonova.saga.definition import Run

PREPARE, LEAVE, FINISH = "compute_prep_resize", "compute_resize_instance", "compute_finish_resize"


def prepared(tx: Tx, run: Run, host: str) -> None:
    """A host is chosen: the first part is over, which began with the operation; the source's begins."""
    now = run.services.now()
    actions.event(
        tx,
        operation=run.operation,
        step=PREPARE,
        name=PREPARE,
        started=run.accepted_at,
        finished=now,
        ok=True,
        host=host,
    )
    begin(tx, run, LEAVE, run.params.host)
    tell_left(tx, run)


def tell_left(tx: Tx, run: Run) -> None:
    """Tell subscribers that the source's part begins."""
    now = run.services.now()
    for event in ("resize_prep:end", "resize_leave:start"):
        notifications.part(tx, run.operation, event, now)


def left(tx: Tx, run: Run, host: str, *, first: bool) -> None:
    """The source has done its part; ``host`` begins its own. first: it is the first one that tries."""
    if first:
        actions.end_event(tx, run.operation, LEAVE, run.services.now())
        tell_arriving(tx, run)
    begin(tx, run, FINISH, host)


def tell_arriving(tx: Tx, run: Run) -> None:
    """Tell subscribers that the destination's part begins."""
    now = run.services.now()
    for event in ("resize_leave:end", "resize_finish:start"):
        notifications.part(tx, run.operation, event, now)


def arrived(tx: Tx, run: Run) -> None:
    """The destination has done its part."""
    actions.end_event(tx, run.operation, FINISH, run.services.now())


def failed(tx: Tx, run: Run) -> bool:
    """End the part that was under way as failed; False when none was."""
    return actions.fail_events(tx, run.operation, run.services.now(), run.error or "") > 0


def begin(tx: Tx, run: Run, name: str, host: str | None) -> None:
    """A part begins."""
    actions.event(
        tx,
        operation=run.operation,
        step=name,
        name=name,
        started=run.services.now(),
        finished=None,
        ok=None,
        host=host,
    )
