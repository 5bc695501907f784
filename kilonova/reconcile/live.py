"""Operations and what they own: every transitional state belongs to one live operation, and none is late unnoticed."""

import collections

from kilonova.common.log import get_logger
from kilonova.db import actions
from kilonova.db.engine import Tx
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture
from kilonova.saga import history, journal
from kilonova.saga.definition import find
from kilonova.saga.state import NOT_YET, TURN

log = get_logger(__name__)
EVERY_S = 10.0
SILENT_S = 120.0
"""A live operation that nobody touched so long, though it was due, is stuck: the sweep should have found it."""
_told: set[str] = set()


def look(picture: Picture) -> list[Finding]:
    """Compare states with operations, both ways."""
    found = _overdue(picture.services) + _stuck(picture)
    for name, cell in picture.cells.items():
        for server, row in cell["servers"].items():
            if row["task_state"] is not None:
                found.append(
                    Finding(
                        kind="task_without_operation",
                        subject=server,
                        where=name,
                        message=f"Server {server} shows {row['task_state']}, and no operation works on it.",
                        about=(server,),
                        since=row["updated_at"] or 0.0,
                    )
                )
        for action in cell["open_actions"]:
            found.append(
                Finding(
                    kind="action_open",
                    subject=action["operation"],
                    where=name,
                    message=f"The action {action['action']} of server {action['server']} never ended.",
                    repair="It is closed as its operation ended, or as failed.",
                    about=(action["operation"],),
                    since=action["started_at"],
                )
            )
    return found


def _overdue(services: Services) -> list[Finding]:
    found = []
    for name, db in services.homes().items():
        for operation in db.read(lambda tx: history.overdue(tx, services.now())):
            found.append(
                Finding(
                    kind="operation_overdue",
                    subject=operation,
                    where=name,
                    message=f"Operation {operation} is over its deadline.",
                )
            )
    return found


def _stuck(picture: Picture) -> list[Finding]:
    found = []
    owners: dict[str, list[str]] = collections.defaultdict(list)
    for name, op in picture.live:
        waits = op["waits_for"] in (NOT_YET, TURN)  # behind another
        if op["kind"] != "server_delete" and op["direction"] == "do" and not waits:
            owners[op["resource"]].append(op["id"])
        if find(op["kind"], op["version"]) is None:
            text = f"This release does not know how to go on with {op['kind']} {op['version']}."
            found.append(
                Finding(kind="operation_unknown", subject=op["id"], where=name, message=text)
            )
        elif op["wake_at"] is None or op["wake_at"] < picture.at - SILENT_S:
            text = f"Operation {op['id']} ({op['kind']}) is due since long, and nobody goes on with it."
            found.append(
                Finding(kind="operation_stuck", subject=op["id"], where=name, message=text)
            )
    for resource, operations in owners.items():
        if len(operations) > 1:
            text = f"{len(operations)} operations own server {resource} at once: {', '.join(operations)}."
            found.append(
                Finding(kind="operations_doubled", subject=resource, where="global", message=text)
            )
    return found


def mend(services: Services, finding: Finding) -> bool:
    """Close an action whose operation is over."""
    operation = finding.subject
    ended_well = False
    for db in (services.world, *services.cells.values()):
        row = db.read(lambda tx: journal.find_row(tx, operation))
        if row is not None:
            if row["ended_at"] is None:
                return False
            ended_well = row["state"] == "done"

    def close(tx: Tx) -> bool:
        actions.finish(tx, operation, services.now(), error=not ended_well)
        return True

    return services.cell(finding.where).write(close)


def run(services: Services) -> list[Finding]:
    """Say once of each operation that it is late. Light: two indexed queries per database."""
    late = _overdue(services)
    for f in late:
        if f.subject not in _told:
            log.error("an operation is overdue", extra={"operation": f.subject, "where": f.where})
    _told.intersection_update({f.subject for f in late})
    _told.update(f.subject for f in late)
    return late


def run_actions(services: Services) -> list[Finding]:
    """Look at everything and close what is open."""
    return repaired(services, look, mend)
