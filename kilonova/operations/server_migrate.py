"""Cold migrate: a server, off meanwhile, gets to another host of its cell; confirmed or reverted as a resize is.

claim    a host is chosen, never the one where it is; the migration takes over the old claim, the server claims there
…        the steps of moving.py
"""

from kilonova.common.context import Context
from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Tx
from kilonova.objects.server import ResizeParams
from kilonova.operations import accept, moving, resizing, states
from kilonova.operations.accept import Also, Found, check_lock
from kilonova.operations.services import Services
from kilonova.saga.definition import Saga, register

SAGA = register(
    Saga(
        kind="server_migrate",
        version=1,
        params=ResizeParams,
        steps=(moving.CLAIM, *moving.STEPS),
        unwound=resizing.give_back,
        unwound_record=moving.unwound_record,
    )
)


def start(
    services: Services,
    ctx: Context,
    found: Found,
    *,
    host: str | None = None,
    timeout_s: float = 60.0,
) -> str:
    """Accept a cold migration; return the operation's id. host: exactly there, if its filters let it.

    Raises Conflict (locked, state, host down), BadRequest (host unknown, or the one where it is).
    """
    check_lock(ctx, found)
    transition = states.TRANSITIONS[SAGA.kind]
    row = accept.startable(found, transition)
    resizing.check_host(services, row)
    if host is not None:
        if host == row["host"]:
            raise BadRequest("Cannot migrate to the host where the server exists.")
        state = services.hosts.find(host)
        if state is None or state.cell != found.mapping["cell"]:
            raise BadRequest(f"Compute host {host[:80]} could not be found.")
    flavor = resizing.flavor_of(row["flavor"])
    migration, now = new_uuid(), services.now()

    def remember(tx: Tx, operation: str) -> None:
        move = resizing.Move(migration, "migration", flavor)
        resizing.remember(tx, found, row, move, operation=operation, now=now)

    return accept.on_server(
        services,
        ctx,
        SAGA,
        found,
        transition,
        Also(home=remember),
        timeout_s=timeout_s,
        migration=migration,
        new_flavor=flavor,
        old_flavor=flavor,
        to_host=host,
        elsewhere=True,
    )
