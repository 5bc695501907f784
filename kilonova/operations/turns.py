"""The first step of an operation that may be accepted while others work on the server (states.QUEUED).

The engine starts operations on one server in the order of their epochs (Saga.in_turn). This step asks no host: one that
is cancelled before its turn undoes nothing there, where the operation before it still works.
"""

from kilonova.saga.definition import NoUndo, Output, Run, Step

DEADLINE_S = 60.0


def turn(run: Run) -> Output:
    """It is this operation's turn."""
    return {}


TURN = Step("turn", turn, NoUndo("makes nothing"), DEADLINE_S)
