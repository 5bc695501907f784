"""Operations that follow one another on a server instead of being refused: each waits until the ones before have ended.

Nova shows no task_state while a device is attached or detached, so clients send the next request at once; it is
accepted (states.QUEUED) and runs in its turn. Epochs give the order, so a host never sees them the other way round.
"""

from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import NotYet, NoUndo, Output, Run, Step

POLL_S = 0.05
DEADLINE_S = 900.0


def wait(run: Run) -> None:
    """Raise NotYet while an operation that was accepted before on the same server has not ended."""
    if run.params.previous_task_state is None:
        return
    services: Services = run.services
    live = services.home(run.home).read(lambda tx: journal.live_of(tx, run.resource))
    if any(op["epoch"] < run.epoch and op["id"] != run.operation for op in live):
        raise NotYet("an operation on the server has not ended yet", after_s=POLL_S)


def turn(run: Run) -> Output:
    """Wait; for the first step of an operation, called TURN.name."""
    wait(run)
    return {}


TURN = Step("turn", turn, NoUndo("waits, and makes nothing"), DEADLINE_S)
