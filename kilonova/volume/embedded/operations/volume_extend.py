"""Let a volume grow, also while a guest of its own host has it.

    grow     the host lets the file grow (and the guest that has it see that)
    record   the new size holds
    tell     compute hears ``volume-extended`` for every server that has the volume

A file never shrinks: an unwound extend leaves a file that is larger than its record, which serves the old size too.
"""

from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Order
from kilonova.objects.volume import VolumeEvent, VolumeEventKind
from kilonova.objects.volume_orders import VolumeExtend
from kilonova.objects.volume_params import VolumeParams
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register
from kilonova.volume.embedded import attaching
from kilonova.volume.embedded.operations.asking import (
    order,
    row_of,
    service,
    tell_project,
    writer_of,
)
from kilonova.volume.embedded.store import attachments

DEADLINE_S = 300.0


def order_grow(run: Run) -> Order:
    """Have the host let the file grow."""
    row = row_of(run)
    payload = VolumeExtend(
        volume_id=run.resource,
        size_gib=int(run.params.size_gib),
        attached_to=writer_of(run, run.resource),
    )
    return order(run, row["host"], "volume_extend", payload, DEADLINE_S)


def grown(run: Run, answer: Answer) -> Output:
    """The file has the new size."""
    return {}


def nothing(run: Run) -> Output:
    """Nothing is left to do outside."""
    return {}


def put_size(tx: Tx, run: Run, output: Output) -> None:
    """The new size holds."""
    values = {"size_gib": int(run.params.size_gib), "new_size_gib": None}
    attaching.rest(tx, run.resource, service(run).clock.now(), "extending", **values)


def put_back(tx: Tx, run: Run) -> None:
    """The old size holds; a message says why."""
    tell_project(tx, run, "VOLUME", run.resource)
    attaching.rest(tx, run.resource, service(run).clock.now(), "extending", new_size_gib=None)


def tell(run: Run) -> Output:
    """Tell compute, for each server that has the volume."""
    of = service(run)
    held = of.db.read(lambda tx: attachments.of_volume(tx, run.resource))
    for server_id in sorted({a["server_id"] for a in held if a["server_id"] and a["host"]}):
        of.emit(
            VolumeEvent(kind=VolumeEventKind.EXTENDED, server_id=server_id, volume_id=run.resource)
        )
    return {}


SETTLED = (
    Step(
        "record",
        nothing,
        NoUndo("forward only from here"),
        10.0,
        record=put_size,
        point_of_no_return=True,
    ),
    Step("tell", tell, NoUndo("an event is not taken back"), 10.0),
)
"""What ends every extend."""

SAGA = register(
    Saga(
        kind="volume_extend",
        version=1,
        params=VolumeParams,
        steps=(
            Ask("grow", order_grow, grown, NoUndo("a file never shrinks"), DEADLINE_S),
            *SETTLED,
        ),
        unwound_record=put_back,
    )
)
