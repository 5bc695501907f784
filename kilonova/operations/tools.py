"""What the operations on the system inside a guest share: one order, after which the server is as before."""

from collections.abc import Callable

from kilonova.db import secrets
from kilonova.db.engine import Tx
from kilonova.objects.order import Answer, Order
from kilonova.objects.server import ServerParams
from kilonova.operations import settling, states
from kilonova.saga.definition import Ask, NoUndo, Output, Run, Saga, register

DEADLINE_S = 60.0


def tool_saga(
    kind: str, order: Callable[[Run], Order], params: type[ServerParams] = ServerParams
) -> Saga:
    """Register the saga of one order to a guest; its secrets end with it."""
    transition = states.TRANSITIONS[kind]

    def told(run: Run, answer: Answer) -> Output:
        return {}

    def finish(tx: Tx, run: Run, output: Output) -> None:
        secrets.drop(tx, run.operation)
        settling.succeed(tx, run, transition)

    def fail(tx: Tx, run: Run) -> None:
        secrets.drop(tx, run.operation)
        settling.fail(tx, run, transition)

    return register(
        Saga(
            kind=kind,
            version=1,
            params=params,
            steps=(
                Ask(
                    "guest",
                    order,
                    told,
                    NoUndo("what the guest was told is not taken back"),
                    DEADLINE_S,
                    record=finish,
                ),
            ),
            unwound_record=fail,
        )
    )
