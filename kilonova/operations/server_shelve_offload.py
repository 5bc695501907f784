"""Take a shelved server off its host: shelveOffload.

remove     the host removes the guest and its disks; the image keeps the root disk
release    ports, claim and host are let go: SHELVED_OFFLOADED
"""

from kilonova.common.context import Context
from kilonova.db.engine import Tx
from kilonova.objects.server import ServerParams
from kilonova.operations import accept, shelving, states
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

TRANSITION = states.TRANSITIONS["server_shelve_offload"]
_ONLY_ON = NoUndo("the image keeps what the host had: it only goes forward")


def start(services: Services, ctx: Context, found: Found) -> str:
    """Accept it. Raises Conflict."""
    check_lock(ctx, found)
    return accept.on_server(services, ctx, SAGA, found, TRANSITION)


def finish(tx: Tx, run: Run, output: Output) -> None:
    """SHELVED_OFFLOADED."""
    shelving.show_offloaded(tx, run, TRANSITION, "release")


SAGA = register(
    Saga(
        kind="server_shelve_offload",
        version=1,
        params=ServerParams,
        steps=(
            Ask(
                "remove",
                shelving.order_remove,
                shelving.removed,
                _ONLY_ON,
                shelving.REMOVE_S,
                park_outside=park,
            ),
            Step("release", shelving.off_the_host, _ONLY_ON, 60.0, record=finish),
        ),
        forward_only=True,
        cancellable=False,
    )
)
