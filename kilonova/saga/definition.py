"""What an operation is made of: a Saga is a tuple of steps, each with a do and an undo.

This file is the whole vocabulary that an operation uses; the engine (engine.py) runs it, journal.py stores it.

- ``do`` may run twice. ``undo`` may run twice, may run when ``do`` never finished, and runs for the failing step too.
- A plain step runs briefly (<= 1 s). Waiting for a host is an Ask: ``order`` makes the Order, the engine journals the
  wait, sends, sends again with growing delay, and calls ``receive`` with the answer: no thread waits.
- ``record`` runs inside the transaction that journals the step's result, on the operation's home database:
  home effects happen exactly once, outside effects at least once.
- Steps are named, never numbered. (kind, version) names a definition; old definitions stay one release.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kilonova.common.context import Context
from kilonova.common.errors import KilonovaError
from kilonova.db.engine import Tx
from kilonova.objects.base import Versioned
from kilonova.objects.order import Answer, Order

Output = Mapping[str, Any]  # JSON values only; kept in the journal under the step's name
Skip = Callable[[Any, Mapping[str, Output]], bool]


@dataclass(frozen=True)
class Run:
    """What a step sees of its operation; immutable, made anew for each call.

    services: the process's databases, bus, neighbours, scheduler (``kilonova.operations.services.Services``);
        the engine only passes it through.
    params: the operation's parameters as accepted. outputs: results of completed steps by step name.
    fence, seq: go into every Order (the engine fills them in) and every foreign transaction.
    attempt: how often the saga has gone forward from a Retreat, 1 at first.
    seq: number of this try of this step; grows with every intent of the operation.
    memo: what a step has read and a later one may use again, in the memory of this process; empty at any time.
    cancelled: somebody asked the operation to end (delete during create); the engine unwinds at the next boundary.
    error: when unwinding, why (tenant-safe message); details for admins.
    """

    services: Any
    operation: str
    kind: str
    resource: str
    epoch: int
    home: str
    fence: int
    context: Context
    params: Any
    outputs: Mapping[str, Output]
    attempt: int = 1
    step: str = ""
    accepted_at: float = 0.0
    cancelled: bool = False
    error: str | None = None
    error_details: str | None = None
    error_code: str = "internal"
    seq: int = 0
    memo: dict[str, Any] = field(default_factory=dict, compare=False)


class Retreat(KilonovaError):
    """Raised by a step: undo back to and including ``to``, then go forward again (another host, say).

    ``note`` is added to the outputs under ``retreats`` (a list), so that ``to`` can see what to avoid.
    After ``limit`` attempts in all, it is an ordinary failure.
    """

    code = "retreat"

    def __init__(
        self, message: str, *, to: str, note: Mapping[str, Any], limit: int = 3, **facts: object
    ) -> None:
        super().__init__(message, **facts)
        self.to = to
        self.note = dict(note)
        self.limit = limit


class NotYet(KilonovaError):
    """Raised by a step that must be called again later without counting as a failure (a port is not ACTIVE yet)."""

    code, retryable = "not_yet", True

    def __init__(self, message: str, *, after_s: float = 0.5, **facts: object) -> None:
        super().__init__(message, **facts)
        self.after_s = after_s


@dataclass(frozen=True)
class NoUndo:
    """States why a step needs no undo."""

    reason: str


@dataclass(frozen=True)
class Retry:
    """How often a retryable KilonovaError (or a bug) of ``do`` is tried again before the saga unwinds."""

    times: int = 3
    first_s: float = 0.2
    factor: float = 2.0


@dataclass(frozen=True)
class Step:
    """A brief step.

    do(run) -> Output: the outside effect (or a decision); no database transaction is open.
    record(tx, run, output): home effects, in the transaction that stores the result. It may raise Retreat,
        GenerationMismatch (do is run again) or any KilonovaError (the step failed).
    undo(run): takes the outside effect back. unrecord(tx, run): takes the home effect back, in the transaction that
        journals the undo as done.
    deadline_s: after it the step counts as failed. point_of_no_return: from its result on, forward only.
    skip(params, outputs): a pure function that leaves the step out, at no cost; not for the first step.
    guarded: ``record`` relies on nothing but rows that it changes by compare-and-swap or locks first
        (``Database.write``).
    decides: of a first step: ``do`` reads and decides, and nothing else. Two conductors may run it side by side; the
        one that journals its result first owns the operation, so that taking it costs no commit of its own.
    """

    name: str
    do: Callable[[Run], Output | None]
    undo: Callable[[Run], None] | NoUndo
    deadline_s: float
    record: Callable[[Tx, Run, Output], None] | None = None
    unrecord: Callable[[Tx, Run], None] | None = None
    retry: Retry = field(default_factory=Retry)
    point_of_no_return: bool = False
    skip: Skip | None = None
    guarded: bool = False
    decides: bool = False


@dataclass(frozen=True)
class Ask:
    """A step that orders a host to do something and waits for the answer without holding a thread.

    order(run) -> Order with direction DO (None: nothing to ask, the step is done with an empty output).
    receive(run, answer) -> Output of a DONE answer; for FAILED the engine raises StepFailed, unless
        ``failed`` is given: failed(run, answer) raises what fits (Retreat, say).
    undo_order(run) -> the Order with direction UNDO (None: nothing to undo). The undo waits for its answer too; after
        3 tries, or when the host is down, ``park(run)`` is asked for a cleanup record and the unwind goes on.
    park_outside(run, order): the half of parking that is not in the home database (the host's cell, say): called
        before the transaction of ``park``, repeatable, may run although the host answers after all.
    skip, guarded: as of a Step. queue: name of a per-host limit ("build") or None.
    seen(run): asked when the step is about to be unwound, whatever the reason (a failure, a cancel, its time): an
        Output when a look shows that it did its work all the same (the saga goes on), None when it did not and will
        not. Raises NotYet while nobody can tell: then it is asked again, and nothing is unwound. Repeatable.
    """

    name: str
    order: Callable[[Run], Order | None]
    receive: Callable[[Run, Answer], Output | None]
    undo_order: Callable[[Run], Order | None] | NoUndo
    deadline_s: float
    record: Callable[[Tx, Run, Output], None] | None = None
    unrecord: Callable[[Tx, Run], None] | None = None
    failed: Callable[[Run, Answer], None] | None = None
    park: Callable[[Tx, Run, Order], None] | None = None
    queue: str | None = None
    point_of_no_return: bool = False
    park_outside: Callable[[Run, Order], None] | None = None
    skip: Skip | None = None
    seen: Callable[[Run], Output | None] | None = None
    guarded: bool = False

    @property
    def parks(self) -> bool:
        """Tell whether somebody keeps the order when its host does not answer."""
        return self.park is not None or self.park_outside is not None


class StepFailed(KilonovaError):
    """An order was answered with FAILED, or a deadline passed."""

    code = "step_failed"


@dataclass(frozen=True)
class Saga:
    """An operation's definition.

    params: the Versioned type of its parameters. unwound(run): the last act of an unwind (marks the server ERROR or
    restores its state), repeatable, retried until it works; unwound_record(tx, run): its home half.
    forward_only: it is never unwound (a delete): every step is retried until it works; an Ask with ``park`` whose
    host is down, or silent for three sends, is parked: its output is ``{"parked": true}``.
    cancellable: a cancel request makes it unwind at the next step boundary (before the point of no return).
    in_turn: it begins when every operation of a lower epoch on the same resource (and home) has ended.
    """

    kind: str
    version: int
    params: type[Versioned]
    steps: tuple[Step | Ask, ...]
    unwound: Callable[[Run], None] | None = None
    unwound_record: Callable[[Tx, Run], None] | None = None
    cancellable: bool = True
    forward_only: bool = False
    in_turn: bool = True

    def __post_init__(self) -> None:
        names = [s.name for s in self.steps]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.kind}: two steps have one name")
        if not names or not all(names) or "retreats" in names:
            raise ValueError(f"{self.kind}: needs steps, each with a name, none called 'retreats'")
        if self.steps[0].skip is not None:
            raise ValueError(f"{self.kind}: the first step cannot be left out")

    @functools.cached_property
    def asks(self) -> bool:
        """Tell whether any step orders a host to do something."""
        return any(isinstance(s, Ask) for s in self.steps)

    @functools.cached_property
    def positions(self) -> Mapping[str, int]:
        """Step name -> its place."""
        return {s.name: i for i, s in enumerate(self.steps)}


_KINDS: dict[tuple[str, int], Saga] = {}


def register(saga: Saga) -> Saga:
    """Make a definition known to the engine; two of one (kind, version) are refused."""
    if (saga.kind, saga.version) in _KINDS:
        raise ValueError(f"saga {saga.kind} {saga.version} is registered twice")
    _KINDS[saga.kind, saga.version] = saga
    return saga


def find(kind: str, version: int) -> Saga | None:
    """Return a definition, or None when this release does not know it."""
    return _KINDS.get((kind, version))


def of_kind(kind: str, version: int = 1) -> Saga:
    """Return a definition of this release. KeyError when there is none, which is a bug."""
    return _KINDS[kind, version]


def known() -> Mapping[tuple[str, int], Saga]:
    """Return every definition."""
    return dict(_KINDS)
