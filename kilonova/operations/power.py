"""What the power operations share: one order to the host, final states, and what a failure leaves.

Each operation is a file of its own (server_start.py …) that names its saga; this file holds their common steps.
"""

from collections.abc import Callable

from kilonova.common.context import Context
from kilonova.common.errors import Conflict
from kilonova.db.engine import Tx
from kilonova.objects.guest import GuestPower, GuestState, PowerAction, PowerState
from kilonova.objects.order import Answer, Direction, Order, unpack
from kilonova.objects.server import ServerParams
from kilonova.operations import accept, guest_orders, settling, states
from kilonova.operations.accept import Found, check_lock
from kilonova.operations.cleanup import park
from kilonova.operations.services import Services
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, Step, register

DEADLINE_S = 300.0
REBUILDS = (PowerAction.START, PowerAction.REBOOT_HARD, PowerAction.RESUME, PowerAction.REBOOT_SOFT)
_FOLLOWS = NoUndo("the host reports what state the guest is in; the record follows it")
POWER_OF = {
    states.ACTIVE: PowerState.RUNNING,
    states.STOPPED: PowerState.SHUTDOWN,
    states.PAUSED: PowerState.PAUSED,
    states.SUSPENDED: PowerState.SUSPENDED,
}


def power_saga(
    kind: str, action: PowerAction, back: PowerAction | None = None, *before: Step
) -> Saga:
    """Register the saga of one power action: a single order, whose result is recorded with its end.

    before: steps that come first.

    back: the action that undoes it (START only for a guest that ran before); None: the record follows the guest.
    """
    transition = states.TRANSITIONS[kind]

    def undo_order(run: Run) -> Order | None:
        was = run.params.previous_vm_state
        if back is None or (back == PowerAction.START and was != states.ACTIVE):
            return None
        row = guest_orders.server_row(run.services, run.home, run.resource)
        build = guest_orders.build_of(run.services, row) if back in REBUILDS else None
        payload = GuestPower(server_id=run.resource, action=back, timeout_s=0.0, build=build)
        return guest_orders.order(
            run, row["host"], "guest_power", payload, DEADLINE_S, Direction.UNDO
        )

    def order(run: Run) -> Order:
        services: Services = run.services
        row = guest_orders.server_row(services, run.home, run.resource)
        if row["host"] is None:
            raise Conflict(f"Instance {run.resource} has no host.")
        build = guest_orders.build_of(services, row) if action in REBUILDS else None
        payload = GuestPower(
            server_id=run.resource, action=action, timeout_s=run.params.timeout_s, build=build
        )
        return guest_orders.order(run, row["host"], "guest_power", payload, DEADLINE_S)

    return register(
        Saga(
            kind=kind,
            version=1,
            params=ServerParams,
            steps=(
                *before,
                Ask(
                    "guest",
                    order,
                    _received,
                    _FOLLOWS if back is None else undo_order,
                    DEADLINE_S,
                    record=_recorder(transition),
                    park_outside=None if back is None else park,
                ),
            ),
            unwound_record=_restore(transition),
        )
    )


def _received(run: Run, answer: Answer) -> Output:
    return {"power_state": unpack(answer.body, GuestState).power_state}


def _recorder(transition: states.Transition) -> Callable[[Tx, Run, Output], None]:
    end = transition.end or states.ACTIVE

    def record(tx: Tx, run: Run, output: Output) -> None:
        power_state = output["power_state"]
        settling.succeed(tx, run, transition, vm_state=end, power_state=power_state)

    return record


def _restore(transition: states.Transition) -> Callable[[Tx, Run], None]:
    def restore(tx: Tx, run: Run) -> None:
        """Put the previous state back; say why it failed. What the guest became is asked of its host."""
        settling.fail(tx, run, transition)

    return restore


def start(
    services: Services, ctx: Context, saga: Saga, found: Found, timeout_s: float = 60.0
) -> str:
    """Accept a power operation; return its id. Raises Conflict when locked or in a state that does not allow it."""
    check_lock(ctx, found)
    return accept.on_server(
        services, ctx, saga, found, states.TRANSITIONS[saga.kind], timeout_s=timeout_s
    )
