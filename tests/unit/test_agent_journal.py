"""What an agent remembers of its orders over its own death, and which boot it is in."""

import os
import sqlite3
from pathlib import Path

import pytest

from kilonova.agent.bootid import boot_id, runs
from kilonova.agent.journal import GO, KEEP_S, Journal, JournalFile
from kilonova.objects import guest as g
from kilonova.objects.order import Answer, AnswerState, Direction, Order
from tests.unit.agent_kit import build_of, order_of, undo_of


def answer_of(order: Order, state: AnswerState = AnswerState.DONE) -> Answer:
    return Answer(
        host=order.host,
        operation=order.operation,
        step=order.step,
        direction=order.direction,
        seq=order.seq,
        state=state,
    )


def did(journal: Journal, order: Order, state: AnswerState = AnswerState.DONE) -> None:
    journal.begin(order, 1000.0)
    journal.end(order, answer_of(order, state))


@pytest.fixture(params=["memory", "file", "shared file"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path):
    """Return a function that gives the journal as the next process sees it."""
    path = tmp_path / "journal.sqlite"
    kept = [_open(request.param, path)]

    def again() -> Journal:
        if request.param != "memory":
            _shut(*kept[-1])
            kept.append(_open(request.param, path))
        return kept[-1][0]

    yield again
    _shut(*kept[-1])


def _open(kind: str, path: Path) -> tuple[Journal, JournalFile | None]:
    if kind == "memory":
        return Journal(), None
    if kind == "file":
        return Journal(path), None
    file = JournalFile(path, full=False)
    return Journal(file, host="host1"), file


def _shut(journal: Journal, file: JournalFile | None) -> None:
    journal.close()
    if file is not None:
        file.close()


def test_hosts_that_share_a_file_have_a_memory_each(tmp_path: Path) -> None:
    """Names that begin alike, an operation with orders for both: each knows its own only."""
    file = JournalFile(tmp_path / "j", full=False)
    names = ("host1", "host10", "host")
    journals = {name: Journal(file, host=name) for name in names}
    order, other = order_of(build_of()), order_of(build_of())
    did(journals["host1"], order)
    did(journals["host10"], order, AnswerState.FAILED)
    did(journals["host10"], other)
    journals["host1"].booted("boot-1")
    file.close()

    file = JournalFile(tmp_path / "j", full=False)
    again = {name: Journal(file, host=name) for name in names}
    assert {n: j.id for n, j in again.items()} == {n: j.id for n, j in journals.items()}
    assert len({j.id for j in again.values()}) == 3
    assert [again[n].boot_id for n in names] == ["boot-1", None, None]
    states = [again[n].judge(order).stored for n in names]
    assert [s and s.state for s in states] == [AnswerState.DONE, AnswerState.FAILED, None]
    assert [again[n].epoch(other.server_id) for n in names] == [0, other.epoch, 0]
    assert again["host10"].purge(1001.0 + KEEP_S, frozenset()) == 2
    assert again["host1"].judge(order).stored, "a neighbour's purge takes nothing"
    file.close()


def test_answers_and_tombstones_survive(reopened) -> None:
    """B2 (9), R7"""
    order = order_of(build_of())
    did(reopened(), order)
    stored = reopened().judge(order.replace(seq=5)).stored
    assert stored is not None
    assert (stored.state, stored.seq) == (AnswerState.DONE, 5)
    did(reopened(), undo_of(order, 6))
    assert reopened().judge(order).refused
    assert reopened().judge(order.replace(seq=7)) == GO
    assert reopened().judge(order.replace(fence=0, seq=9)).refused


def test_failed_is_tried_again_by_a_newer_seq_only(reopened) -> None:
    order = order_of(build_of())
    did(reopened(), order, AnswerState.FAILED)
    assert reopened().judge(order).stored is not None
    assert reopened().judge(order.replace(seq=2)) == GO


def test_overtaken_answer_is_not_kept(reopened) -> None:
    order = order_of(build_of())
    journal = reopened()
    journal.begin(order, 1.0)
    journal.begin(undo_of(order, 2), 1.0)
    journal.end(undo_of(order, 2), answer_of(undo_of(order, 2)))
    journal.end(order, answer_of(order))
    assert reopened().judge(order.replace(seq=3)) == GO


def test_higher_epoch_makes_the_older_needless(reopened) -> None:
    order = order_of(build_of())
    did(reopened(), order)
    gone = order_of(g.GuestDelete(server_id=order.server_id), "guest_delete", epoch=2)
    did(reopened(), gone)
    assert reopened().judge(order.replace(seq=99)).refused
    assert reopened().judge(undo_of(order, 99)).refused
    assert set(reopened()._operations) == {gone.operation}


def test_ended_operation_takes_a_late_undo_but_no_do(reopened) -> None:
    order = order_of(build_of(), epoch=3)
    did(reopened(), order)
    reopened().operation_ended(order.operation, order.server_id, 3, 5.0)
    assert reopened().judge(order.replace(seq=2)).refused
    assert reopened().judge(undo_of(order, 2)) == GO
    assert reopened().judge(order_of(build_of(order.server_id), epoch=4)) == GO


def test_what_an_ended_operation_made_is_not_removed_by_an_older_order(reopened) -> None:
    """R7, R8: a conductor slept before it sent the removal, or the bus was late; others had made it anew meanwhile."""
    made = order_of(build_of(), epoch=3, fence=6, seq=3)
    did(reopened(), made)
    reopened().operation_ended(made.operation, made.server_id, 3, 5.0)
    late = made.replace(verb="guest_delete", step="clear", fence=4, seq=2)
    assert "anew" in (reopened().judge(late).refused or "")
    assert reopened().judge(late.replace(fence=6, seq=4)) == GO
    assert reopened().judge(late.replace(operation="another", fence=0, seq=0)) == GO


def test_a_file_of_the_first_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    first = sqlite3.connect(path)
    first.executescript(
        "CREATE TABLE server (server TEXT PRIMARY KEY, epoch INTEGER NOT NULL, closed INTEGER NOT NULL,"
        " touched REAL NOT NULL);"
        "CREATE TABLE operation (operation TEXT PRIMARY KEY, server TEXT NOT NULL, fence INTEGER NOT NULL,"
        " seq INTEGER NOT NULL);"
        "INSERT INTO server VALUES ('s', 7, 6, 1.0);"
    )
    first.close()
    for _ in range(2):
        journal = Journal(path)
        assert journal.epoch("s") == 7
        journal.close()


def test_epochs_are_taken_from_the_registration() -> None:
    """R14: a wiped journal learns what is over."""
    journal = Journal()
    order = order_of(build_of(), epoch=3)
    journal.own(order.server_id, 4, 1.0)
    assert journal.judge(order).refused


def test_purge_forgets_the_gone_after_seven_days(reopened) -> None:
    order, alive = order_of(build_of()), order_of(build_of())
    did(reopened(), order)
    did(reopened(), alive)
    journal = reopened()
    assert journal.purge(1000.0 + KEEP_S - 1, frozenset()) == 0
    assert journal.purge(1000.0 + KEEP_S + 1, frozenset({alive.server_id})) == 1
    assert reopened().judge(order) == GO
    assert reopened().judge(alive).stored is not None


def test_identity_of_a_file_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert journal.boot_id is None
    journal.booted("b1")
    known = journal.id
    journal.close()
    journal = Journal(tmp_path / "j")
    assert (journal.id, journal.boot_id) == (known, "b1")
    journal.close()
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0


def test_direction_is_part_of_the_key() -> None:
    journal = Journal()
    order = order_of(build_of())
    did(journal, order)
    undo = undo_of(order, 2)
    assert journal.judge(undo) == GO
    assert undo.direction == Direction.UNDO


def test_boot_id_changes_when_nothing_of_ours_is_alive(tmp_path: Path) -> None:
    token = tmp_path / "boot"
    first = boot_id(token, lambda: False)
    assert boot_id(token, lambda: True) == first
    second = boot_id(token, lambda: False)
    assert second != first
    token.unlink()  # the runtime directory does not outlive a boot
    assert boot_id(token, lambda: True) != second
    (tmp_path / "a.pid").write_text("not a number")
    assert not runs(tmp_path)
    (tmp_path / "b.pid").write_text(str(os.getpid()))
    assert runs(tmp_path)
