"""Let a volume grow while a server of another host has it over NBD: nothing that the guest asks for fails meanwhile.

    hold     the guest's host lets requests to the volume wait when its export ends
    grow     the volume's host ends the export, lets the file grow, exports it again
    show     the guest's connection is as it was, and the guest sees the new size
    record   the new size holds; from here on only forward
    tell     compute hears ``volume-extended``

Unwound, the guest's connection is as it was, and a file that grew serves the old size too. A guest that is off, or
gone, has nothing that could wait, and sees the new size when it starts. One server has the volume, and stays where it
is meanwhile.
"""

from collections.abc import Sequence

from kilonova.db.engine import Row
from kilonova.objects.order import Answer, Direction, Order
from kilonova.objects.volume_orders import VolumeExtend, VolumeHold
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, StepFailed, register
from kilonova.volume.embedded.faults import invalid_volume
from kilonova.volume.embedded.operations.asking import order, park, row_of, service
from kilonova.volume.embedded.operations.volume_extend import DEADLINE_S, SETTLED, put_back
from kilonova.volume.embedded.store import attachments

HOLD_S = 60.0


def attachment_of(volume_id: str, held: Sequence[Row]) -> str | None:
    """Return the attachment by which one server has a volume over NBD, None when nobody reaches it so.

    BadRequest: more than one does, or one that is no server.
    """
    if not any(a["export_name"] for a in held):
        return None
    if len(held) > 1 or not held[0]["server_id"] or held[0]["status"] != "attached":
        raise invalid_volume(
            f"Volume {volume_id} cannot be extended while it is attached more than once, or not by a server: "
            "detach it first."
        )
    return str(held[0]["id"])


def _held(run: Run) -> Row | None:
    """Return the attachment, None when it has ended. StepFailed: others reach the volume too."""
    held = service(run).db.read(lambda tx: attachments.of_volume(tx, run.resource))
    if any(a["id"] != run.params.attachment_id for a in held):
        raise StepFailed("The volume is attached more than once.")
    return held[0] if held else None


def order_hold(run: Run) -> Order | None:
    """Have the guest's host let requests wait."""
    return _hold(run, _held(run), Direction.DO)


def order_let_go(run: Run) -> Order | None:
    """Have it put back what was."""
    found = service(run).db.read(lambda tx: attachments.find(tx, str(run.params.attachment_id)))
    return _hold(run, found, Direction.UNDO)


def _hold(run: Run, held: Row | None, direction: Direction) -> Order | None:
    if held is None:
        return None
    payload = VolumeHold(volume_id=run.resource, attached_to=held["server_id"])
    return order(run, held["host"], "volume_hold", payload, HOLD_S, direction)


def order_grow(run: Run) -> Order:
    """Have the volume's host let the file grow."""
    payload = VolumeExtend(
        volume_id=run.resource,
        size_gib=int(run.params.size_gib),
        exported=_held(run) is not None,
    )
    return order(run, row_of(run)["host"], "volume_extend", payload, DEADLINE_S)


def order_show(run: Run) -> Order | None:
    """Have the guest see it."""
    held = _held(run)
    if held is None:
        return None
    payload = VolumeExtend(
        volume_id=run.resource,
        size_gib=int(run.params.size_gib),
        attached_to=held["server_id"],
    )
    return order(run, held["host"], "volume_show", payload, HOLD_S)


def done(run: Run, answer: Answer) -> Output:
    """The host did it."""
    return {}


SAGA = register(
    Saga(
        kind="volume_extend_online",
        version=1,
        params=VolumeParams,
        steps=(
            Ask("hold", order_hold, done, order_let_go, HOLD_S, park=park),
            Ask("grow", order_grow, done, NoUndo("a file never shrinks"), DEADLINE_S),
            Ask("show", order_show, done, NoUndo("the undo of hold does it"), HOLD_S),
            *SETTLED,
        ),
        unwound_record=put_back,
    )
)
