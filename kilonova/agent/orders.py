"""The desk where a host's orders come in: repeated ones join or are answered, stale ones are refused."""

import threading
from collections.abc import Callable

from kilonova.agent.guests import Guests, Work
from kilonova.agent.journal import Journal
from kilonova.agent.workers import Workers
from kilonova.bus import answers
from kilonova.common.clock import Clock
from kilonova.common.errors import KilonovaError
from kilonova.common.log import get_logger
from kilonova.objects.base import decode, encode
from kilonova.objects.order import Answer, AnswerState, Direction, Order, pack
from kilonova.virt.driver import Aborted, Again, DriverError, HypervisorDown

log = get_logger(__name__)
DOWN_S = 30.0
DOWN_POLL_S = 0.5
Publish = Callable[[str, bytes], None]


class Orders:
    """One host's desk. ``receive`` may be called from any thread and never waits for a guest."""

    def __init__(
        self,
        host: str,
        boot_id: str,
        guests: Guests,
        journal: Journal,
        workers: Workers,
        publish: Publish,
        clock: Clock,
    ) -> None:
        self._host = host
        self._boot = boot_id
        self._guests = guests
        self._journal = journal
        self._workers = workers
        self._publish = publish
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str, str], Work] = {}
        self.refuse_all: str | None = (
            None  # why this host takes no orders (its registration was refused)
        )

    @property
    def busy(self) -> frozenset[str]:
        """Return the servers for which an order runs or waits."""
        with self._lock:
            return frozenset(w.order.server_id for w in self._running.values())

    def receive(self, body: bytes) -> None:
        """Take an order. One that cannot be read, or is another host's, is dropped: its sender goes by its own time."""
        try:
            order = decode(body, Order)
        except KilonovaError as exc:
            log.warning(
                "an order that cannot be read", extra={"host": self._host, "why": exc.message}
            )
            return
        if order.host != self._host:
            log.warning(
                "an order for another host", extra={"host": self._host, "named": order.host}
            )
            return
        answer = self._take(order)
        if answer is not None:
            self._send(order, answer)

    def _take(self, order: Order) -> Answer | None:
        """Start performing an order; return what can be answered at once."""
        with self._lock:
            work = self._running.get(order.key)
            if work is not None and (order.fence, order.seq) >= (work.order.fence, work.order.seq):
                work.order = order
                self._journal.begin(order, self._clock.now())
                return self._answer(order, AnswerState.RUNNING, progress=work.progress)
            if self.refuse_all is not None:
                return self._answer(
                    order, AnswerState.FAILED, message=self.refuse_all, elsewhere=True
                )
            verdict = self._journal.judge(order)
            if verdict.refused is not None:
                return self._answer(order, AnswerState.REFUSED, details=verdict.refused)
            if verdict.stored is not None:
                return verdict.stored
            self._journal.begin(order, self._clock.now())
            self._overtake(order)
            work = Work(order, self._clock.monotonic())
            self._running[order.key] = work
        mine = work
        self._workers.submit((self._host, order.server_id), lambda: self._run(mine))
        return None

    def _overtake(self, order: Order) -> None:
        """Abort what runs for the guest and is older: of the same operation, or of a lower epoch."""
        for work in self._running.values():
            old = work.order
            if old.server_id != order.server_id or work.aborted:
                continue
            if old.operation == order.operation:
                older = (old.fence, old.seq) < (order.fence, order.seq)
            else:
                older = old.epoch < order.epoch
            if older:
                work.aborted = True
                self._workers.wake((self._host, order.server_id))

    def _run(self, work: Work) -> float | None:
        """Perform an order as far as it goes: the loop that runs drivers. Returns as Workers' jobs do."""
        try:
            work.say(work.progress or "began")
            payload = self._guests.perform(work)
            answer = self._answer(work.order, AnswerState.DONE, body=pack(payload))
        except Again as again:
            late = self._clock.monotonic() - work.began > work.order.deadline_s
            if not late or work.order.direction == Direction.UNDO:
                return again.after_s
            answer = self._failed(
                work, DriverError("The host did not finish in time.", elsewhere=True)
            )
        except HypervisorDown as exc:
            if self._may_wait(work):
                return DOWN_POLL_S
            answer = self._failed(work, exc)
        except KilonovaError as exc:
            answer = self._failed(work, exc)
        except Exception as exc:
            log.exception(
                "an order failed by a bug", extra={"host": self._host, "verb": work.order.verb}
            )
            answer = self._answer(
                work.order,
                AnswerState.FAILED,
                message="The host failed by an internal error.",
                details=f"{type(exc).__name__}: {exc}",
                elsewhere=True,
            )
        self._end(work, answer)
        return None

    def _may_wait(self, work: Work) -> bool:
        """Tell whether an order may wait for a hypervisor that was started anew, say: for DOWN_S in all."""
        now = self._clock.monotonic()
        if work.down_since is None:
            work.down_since = now
        work.progress = "waiting for the hypervisor"
        return not work.aborted and now - work.down_since < DOWN_S

    def _end(self, work: Work, answer: Answer) -> None:
        with self._lock:
            order = work.order
            if order.seq != answer.seq:
                answer = answer.replace(seq=order.seq)
            self._running.pop(order.key, None)
            self._journal.end(order, answer)
        self._send(order, answer)

    def _failed(self, work: Work, exc: KilonovaError) -> Answer:
        if not isinstance(exc, Aborted):
            log.warning(
                "an order failed",
                extra={
                    "host": self._host,
                    "verb": work.order.verb,
                    "server": work.order.server_id,
                    "why": exc.message,
                    **{f"fact_{k}": str(v) for k, v in exc.facts.items()},
                },
            )
        facts = ", ".join(f"{k}={v}" for k, v in exc.facts.items())
        return self._answer(
            work.order,
            AnswerState.FAILED,
            message=exc.message,
            details=f"{exc.code}: {facts}" if facts else exc.code,
            elsewhere=isinstance(exc, DriverError) and exc.elsewhere,
        )

    def _answer(self, order: Order, state: AnswerState, **more: object) -> Answer:
        return Answer(
            host=self._host,
            operation=order.operation,
            step=order.step,
            direction=order.direction,
            seq=order.seq,
            state=state,
            boot=self._boot,
            **more,  # type: ignore[arg-type]
        )

    def _send(self, order: Order, answer: Answer) -> None:
        self._publish(answers.subject(self._host, order.answer_to), encode(answer))
