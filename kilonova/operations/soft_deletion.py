"""What a soft delete and a restore do to the quota: a server that only waits for its end is not counted.

source: Nova, quota counting leaves out vm_state SOFT_DELETED, and ``restore`` checks instances, cores and ram.
"""

from kilonova.db import mappings, quotas
from kilonova.db.engine import Row, Tx
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Output, Run, Step


def check_room(tx: Tx, mapping: Row) -> None:
    """Raise QuotaExceeded unless a soft-deleted server may count again."""
    if mapping["soft_deleted"]:
        quotas.check_growth(
            tx,
            mapping["project_id"],
            mapping["user_id"],
            vcpus=mapping["vcpus"],
            memory_mib=mapping["memory_mib"],
            servers=1,
        )


def _mark(run: Run, *, soft_deleted: bool, check: bool = False) -> Output:
    services: Services = run.services

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        mapping = mappings.find(tx, run.resource)
        if mapping is not None and check:
            check_room(tx, mapping)
        mappings.set_soft_deleted(tx, run.resource, services.now(), soft_deleted=soft_deleted)

    services.world.write(put)
    return {}


def leave(run: Run) -> Output:
    """Do not count the server any more."""
    return _mark(run, soft_deleted=True)


def come_back(run: Run) -> None:
    """Count it: the soft delete did not happen."""
    _mark(run, soft_deleted=False)


def enter(run: Run) -> Output:
    """Count it again. QuotaExceeded."""
    return _mark(run, soft_deleted=False, check=True)


def go_away(run: Run) -> None:
    """Do not count it: the restore did not happen."""
    _mark(run, soft_deleted=True)


LEAVE = Step("quota", leave, come_back, 30.0)
ENTER = Step("quota", enter, go_away, 30.0)
