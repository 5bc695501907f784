"""An operation as the engine holds it while it works: what never changes, and the State that moves."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova.common.context import Context
from kilonova.objects.base import Versioned
from kilonova.saga.definition import Ask, Run, Saga, Step

READY, RUNNING, WAITING = "ready", "running", "waiting"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
DO, UNDO = "do", "undo"
ANSWER, NOT_YET, RETRY, QUEUE, TURN = "answer", "not_yet", "retry", "queue", "turn"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of ``operation`` that change; a new one for every transition (schema.py says what each means)."""

    state: str
    direction: str
    step: str
    seq: int
    attempt: int = 1
    tries: int = 0
    sends: int = 0
    heard: int = 0
    wake_at: float | None = None
    started_at: float = 0.0
    deadline: float | None = None
    waits_for: str | None = None
    host: str | None = None
    last_error: str | None = None
    retreat_to: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_details: str | None = None
    ended_at: float | None = None
    outputs: dict[str, Any]

    def but(self, **changes: Any) -> "State":
        """Return a changed copy."""
        return msgspec.structs.replace(self, **changes)


STATE_COLUMNS = State.__struct_fields__


class Live:
    """One operation in the hands of one thread. ``state`` is what the database holds, as far as we know."""

    __slots__ = (
        "accepted_at",
        "cancelled",
        "context",
        "database",
        "ends_by",
        "epoch",
        "fence",
        "fresh",
        "id",
        "kind",
        "memo",
        "owner",
        "params",
        "resource",
        "saga",
        "state",
        "unowned",
    )

    def __init__(
        self, database: str, row: Mapping[str, Any], saga: Saga, params: Versioned, context: Context
    ) -> None:
        self.database = database
        self.id: str = row["id"]
        self.kind: str = row["kind"]
        self.resource: str = row["resource"]
        self.epoch: int = row["epoch"]
        self.fence: int = row["fence"]
        self.owner: str | None = row["owner"]
        self.ends_by: float | None = row["ends_by"]
        self.accepted_at: float = row["accepted_at"]
        self.cancelled = bool(row["cancel_requested"])
        self.saga = saga
        self.params = params
        self.context = context
        self.memo: dict[str, Any] = {}
        self.state: State
        self.unowned = False  # nobody's in the database: its first transition makes it ours
        self.fresh = False  # an Ask whose intent is journaled and whose order was not sent yet

    @property
    def key(self) -> tuple[str, str]:
        """Which operation, of all databases."""
        return (self.database, self.id)

    @property
    def index(self) -> int:
        """The place of the current step; -1 when only the last act of an unwind is left."""
        return self.saga.positions[self.state.step] if self.state.step else -1

    @property
    def current(self) -> Step | Ask:
        """The current step; an error in the last act of an unwind."""
        return self.saga.steps[self.saga.positions[self.state.step]]

    @property
    def ask(self) -> Ask:
        """The current step, which is an Ask."""
        step = self.current
        if not isinstance(step, Ask):
            raise TypeError(f"{self.kind}: {step.name} asks no host")
        return step

    @property
    def brief(self) -> Step:
        """The current step, which is a plain one."""
        step = self.current
        if not isinstance(step, Step):
            raise TypeError(f"{self.kind}: {step.name} asks a host")
        return step

    @property
    def only_decides(self) -> bool:
        """Tell whether it begins with a step that two conductors may run side by side."""
        s = self.state
        first = self.saga.steps[0]
        return s.state == READY and s.step == first.name and getattr(first, "decides", False)

    @property
    def ended(self) -> bool:
        return self.state.ended_at is not None

    def run(self, services: Any) -> Run:
        """Return what a step may see."""
        s = self.state
        return Run(
            services=services,
            operation=self.id,
            kind=self.kind,
            resource=self.resource,
            epoch=self.epoch,
            home=self.database,
            fence=self.fence,
            context=self.context,
            params=self.params,
            outputs=s.outputs.copy(),
            attempt=s.attempt,
            step=s.step,
            accepted_at=self.accepted_at,
            cancelled=self.cancelled,
            error=s.error_message,
            error_details=s.error_details,
            error_code=s.error_code or "internal",
            seq=s.seq,
            memo=self.memo,
        )
