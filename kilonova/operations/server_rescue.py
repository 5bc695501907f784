"""Boot a server from another image, its own disks behind that one: rescue.

guest    the host makes the rescue disk, turns the guest off and starts it from there; its own disks are not touched

Undone, the guest is what it was: it runs if it ran, and the rescue disk is gone.
"""

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import secrets
from kilonova.db.engine import Tx
from kilonova.objects.guest import PowerState
from kilonova.objects.order import Order
from kilonova.objects.server import RescueParams
from kilonova.operations import accept, guest_orders, images, remakes, settling, snapshots, states
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, Output, Run, Saga, register

TRANSITION = states.TRANSITIONS["server_rescue"]
SHUTDOWN_S = 60.0


def start(
    services: Services,
    ctx: Context,
    found: Found,
    image_ref: str | None,
    password: str,
    *,
    volume_backed: bool = True,
) -> str:
    """Accept a rescue from an image, the server's own when none is named. Raises Conflict, BadRequest.

    password: what the rescued guest's administrator gets, by its config drive.
    volume_backed: whether a server that boots from a volume may be rescued (2.87), which takes a stable rescue.
    """
    check_lock(ctx, found)
    row = accept.startable(found, TRANSITION)
    backed = snapshots.is_volume_backed(row)
    if backed and not volume_backed:
        raise BadRequest(
            f"Instance {found.id} cannot be rescued: Cannot rescue a volume-backed instance"
        )
    wanted = image_ref or row["image_id"]
    if not wanted:
        raise BadRequest(
            "A server without an image of its own is rescued from an image that is named."
        )
    image = images.record(images.usable(services, ctx, wanted, images.trusted_of(row)))
    if backed and not remakes.is_stable(image):
        raise BadRequest(
            f"Instance {found.id} cannot be rescued: Cannot rescue a volume-backed instance with an image "
            "that has neither hw_rescue_device nor hw_rescue_bus"
        )
    ref = new_uuid()

    def keep(tx: Tx, operation: str) -> None:
        value, now = Secret(password), services.now()
        services.vault.put(tx, owner=operation, kind="password", value=value, now=now, id_=ref)

    return accept.on_server(
        services, ctx, SAGA, found, TRANSITION, Also(home=keep), image=image, password=ref
    )


def order_rescue(run: Run) -> Order:
    """Have the host start the guest from the rescue disk."""
    services: Services = run.services
    row, ref, password = remakes.row_of(run), run.params.password, None
    if ref:
        home = services.home(run.home)
        password = home.read(lambda tx: services.vault.get(tx, ref)).reveal()
    build = remakes.rescued(services, row, run.params.image, password)
    return remakes.remake(run, row, build, timeout_s=SHUTDOWN_S)


def order_restore(run: Run) -> Order:
    """Have the host make the guest what it was."""
    row = remakes.row_of(run)
    ran = row["power_state"] == PowerState.RUNNING
    build = guest_orders.build_of(run.services, row, start=ran)
    return remakes.restore(run, row, build, drop=(remakes.RESCUE,))


def finish(tx: Tx, run: Run, output: Output) -> None:
    """Show the server as rescued, and from what; the password is told."""
    row = guest_orders.row_in(tx, run.resource)
    secrets.drop(tx, run.operation)
    settling.succeed(
        tx,
        run,
        TRANSITION,
        vm_state=states.RESCUED,
        power_state=output["power_state"],
        devices=output["devices"],
        system_metadata=remakes.with_rescue(row, run.params.image),
    )


def fail(tx: Tx, run: Run) -> None:
    """The server is what it was."""
    secrets.drop(tx, run.operation)
    settling.fail(tx, run, TRANSITION)


SAGA = register(
    Saga(
        kind="server_rescue",
        version=1,
        params=RescueParams,
        steps=(
            Ask(
                "guest",
                order_rescue,
                remakes.made,
                order_restore,
                remakes.DEADLINE_S,
                record=finish,
                park_outside=park,
            ),
        ),
        unwound_record=fail,
    )
)
