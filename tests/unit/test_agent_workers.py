"""Few threads for many hosts: one job at a time per key, waiting without a thread."""

import threading
from collections.abc import Iterator

import pytest

from kilonova.agent.workers import Workers
from tests.unit.agent_kit import eventually


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    yield workers
    workers.close()


def test_jobs_of_a_key_run_one_by_one_in_order(workers: Workers) -> None:
    seen: list[tuple[int, int]] = []
    busy: set[int] = set()
    overlap: list[int] = []

    def job(key: int, n: int) -> None:
        if key in busy:
            overlap.append(key)
        busy.add(key)
        seen.append((key, n))
        busy.discard(key)

    for n in range(200):
        for key in range(3):
            workers.submit(("h", str(key)), lambda key=key, n=n: job(key, n))
    eventually(lambda: len(seen) == 600)
    assert not overlap
    for key in range(3):
        assert [n for k, n in seen if k == key] == list(range(200))


def test_waiting_jobs_hold_no_thread_but_their_key(workers: Workers) -> None:
    gate = threading.Event()
    events: list[str] = []

    def waits() -> float | None:
        if gate.is_set():
            events.append("ended")
            return None
        return 0.01

    for n in range(50):
        workers.submit(("h", str(n)), waits)
    workers.submit(("h", "0"), lambda: events.append("after"))
    workers.submit(("h", "other"), lambda: events.append("other"))
    eventually(lambda: "other" in events)
    assert "after" not in events
    gate.set()
    eventually(lambda: len(events) == 52)
    assert events.index("ended") < events.index("after")


def test_wake_calls_at_once(workers: Workers) -> None:
    calls: list[int] = []

    def job() -> float | None:
        calls.append(1)
        return None if len(calls) > 1 else 3600.0

    workers.submit(("h", "k"), job)
    eventually(lambda: calls)
    eventually(lambda: (workers.wake(("h", "k")), len(calls) == 2)[1])
    workers.wake(("h", "nobody"))


def test_after_and_a_job_that_fails(workers: Workers) -> None:
    done = threading.Event()
    workers.submit(("h", "k"), lambda: 1 / 0 and None)
    workers.after(0.01, ("h", "k"), done.set)  # type: ignore[arg-type]
    assert done.wait(30)


def test_closed_takes_nothing() -> None:
    workers = Workers(1)
    workers.submit(("h", "k"), lambda: 3600.0)
    workers.close()
    workers.close()
    workers.submit(("h", "x"), lambda: pytest.fail("ran"))
