"""Orders to a host agent and its answers: the only way in which a conductor makes a host act."""

import enum

import msgspec

from kilonova.objects.base import Versioned, decode, encode


class Direction(enum.StrEnum):
    DO = "do"
    UNDO = "undo"


class AnswerState(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"  # a lower fence, epoch or a tombstone: somebody newer owns this


class Order(Versioned, frozen=True, kw_only=True):
    """One thing to do, self-contained and repeatable.

    The receiver keeps the highest (fence, seq) per operation and refuses lower ones; the same (operation, step,
    direction) while it runs joins it, after it ended gets the stored answer; an undo leaves a tombstone, so a late do
    is refused; an epoch lower than the highest seen for the server is refused.
    """

    host: str
    verb: str  # e.g. guest_build, guest_delete, guest_power, see kilonova/objects/guest.py
    server_id: str
    epoch: int
    operation: str
    step: str
    direction: Direction
    fence: int
    seq: int
    answer_to: str  # name of the operation's home database
    deadline_s: float
    body: msgspec.Raw  # the encoded payload, a Versioned

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.operation, self.step, self.direction)


class Answer(Versioned, frozen=True, kw_only=True):
    """What became of an order. ``message`` is safe for the tenant; ``details`` are for admins."""

    host: str
    operation: str
    step: str
    direction: Direction
    seq: int
    state: AnswerState
    progress: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    message: str | None = None
    details: str | None = None
    elsewhere: bool = False  # the fault is this host's: another host may do better
    boot: str | None = None


class OperationEnded(Versioned, frozen=True, kw_only=True):
    """Tells a host on ``agent.<host>.state`` that an operation is closed: its answers need not be kept any longer."""

    host: str
    operation: str
    server_id: str
    epoch: int


def pack(obj: Versioned) -> msgspec.Raw:
    """Encode a payload for the ``body`` of an Order or Answer."""
    return msgspec.Raw(encode(obj))


unpack = decode
