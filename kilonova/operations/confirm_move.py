"""Confirm a move to another host: what the source kept and the old claim go; from then on there is no way back.

kept     the source removes the guest and its disks; when it is down it owes that, and what was held of it stays held
claim    the migration gives the old claim back; the quota counts the new size
"""

from kilonova.objects.guest import GuestDelete
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import ResizeParams
from kilonova.operations import cleanup, confirm_resize, guest_orders
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

NO_UNDO = NoUndo("a confirm is the point of no return of its move")


def order_remove(run: Run) -> Order:
    """Have the source remove what it kept."""
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, run.params.from_host, "guest_delete", payload, 300.0)


def removed(run: Run, answer: Answer) -> Output:
    """Nothing of it is needed."""
    return {}


SAGA = register(
    Saga(
        kind="confirm_move",
        version=1,
        params=ResizeParams,
        steps=(
            Ask(cleanup.KEPT, order_remove, removed, NO_UNDO, 300.0, park_outside=cleanup.park),
            Step("claim", confirm_resize.release, NO_UNDO, 60.0, record=confirm_resize.settle),
        ),
        cancellable=False,
        forward_only=True,
    )
)
