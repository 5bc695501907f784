"""How an operation on a placed server ends in its record: its states, its action's event, and what a failure leaves."""

from typing import Any

from kilonova.common.ids import new_uuid
from kilonova.db import actions, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import encode
from kilonova.objects.host import HostAsk
from kilonova.operations import states
from kilonova.saga.definition import Run

# action -> how Nova's compute manager calls it in an event, where that is not the action's own name
_EVENTS = {
    "changePassword": "set_admin_password",
    "shelveOffload": "shelve_offload",
    "createImage": "snapshot",
    "createBackup": "backup",
    "migrate": "resize",
}
_WHOLE = {
    "confirmResize": "compute_confirm_resize",
    "revertResize": "compute_revert_resize",
    "live-migration": "compute_live_migration",
}


def succeed(
    tx: Tx,
    run: Run,
    transition: states.Transition,
    *,
    vm_state: str | None = None,
    power_state: int | None = None,
    step: str = "guest",
    told: bool = False,
    **columns: Any,
) -> None:
    """End an operation that worked. vm_state None: the one before it; power_state None: as it is. columns: set too.

    told: its steps wrote their events themselves.
    """
    now = run.services.now()
    row = servers.find(tx, run.resource)
    if not told:
        event(tx, run, transition, step=step, ok=True)
    if row is None or row["deleted"]:
        actions.finish(tx, run.operation, now)
        return
    if columns:
        servers.set_columns(tx, run.resource, **columns, updated_at=now)
    servers.settle(
        tx,
        run.resource,
        vm_state=vm_state or run.params.previous_vm_state,
        power_state=row["power_state"] if power_state is None else power_state,
        now=now,
    )
    actions.finish(tx, run.operation, now)
    if power_state is None:
        ask_for_guests(tx, run, row)


def fail(
    tx: Tx,
    run: Run,
    transition: states.Transition,
    *,
    vm_state: str | None = None,
    step: str = "guest",
    told: bool = False,
    **columns: Any,
) -> None:
    """End an operation that was unwound: the previous state (or ``vm_state``), one fault unless it was cancelled.

    What the guest became meanwhile is asked of its host. told: its event says already that it failed.
    """
    now = run.services.now()
    if not told:
        event(tx, run, transition, step=step, ok=False)
    row = servers.find(tx, run.resource)
    if row is None or row["deleted"]:
        actions.finish(tx, run.operation, now, error=True)
        return
    if columns:
        servers.set_columns(tx, run.resource, **columns, updated_at=now)
    servers.settle(
        tx,
        run.resource,
        vm_state=vm_state or run.params.previous_vm_state,
        power_state=row["power_state"],
        now=now,
    )
    actions.finish(tx, run.operation, now, error=True)
    ask_for_guests(tx, run, row)
    if not run.cancelled:
        actions.add_fault(
            tx,
            id_=new_uuid(),
            server=run.resource,
            code=500,
            message=run.error or "The operation failed.",
            details=run.error_details or "",
            host=row["host"],
            now=now,
        )


def keep(tx: Tx, run: Run, **columns: Any) -> None:
    """Write columns of the server in the middle of its operation."""
    servers.set_columns(tx, run.resource, **columns, updated_at=run.services.now())


def task(tx: Tx, run: Run, task_state: str) -> None:
    """Show what the operation does now; a delete that waits keeps showing."""
    row = servers.find(tx, run.resource)
    if row is not None and not row["deleted"] and row["task_state"] != "deleting":
        servers.set_columns(tx, run.resource, task_state=task_state)


def event(tx: Tx, run: Run, transition: states.Transition, *, step: str, ok: bool) -> None:
    """Record what became of the operation under its instance action."""
    usual = _EVENTS.get(transition.action, transition.action)
    actions.event(
        tx,
        operation=run.operation,
        step=step,
        name=_WHOLE.get(transition.action, f"compute_{usual}_instance"),
        started=run.accepted_at,
        finished=run.services.now(),
        ok=ok,
        host=run.params.host,
        details=None if ok else run.error,
    )


def ask_for_guests(tx: Tx, run: Run, row: Row) -> None:
    """Once this is committed, ask the server's host how its guests are; the record follows them."""
    if row["host"] is None:
        return
    ask = HostAsk(host=row["host"], what="guests")
    bus = run.services.bus
    tx.after_commit(lambda: bus.publish(f"agent.{ask.host}.state", encode(ask)))
