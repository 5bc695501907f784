"""Disks and NICs of guests against the records: what a guest really has, whatever both services say of it.

Listed only: a hard reboot makes a guest of its record, and whoever runs the cloud decides when.
"""

from dataclasses import replace
from typing import Any

import msgspec

from kilonova.operations import server_disks
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding
from kilonova.reconcile.guests import HAVE_A_GUEST
from kilonova.reconcile.picture import Parts, Picture

EVERY_S = 600.0


def look(picture: Picture) -> list[Finding]:
    """Compare each guest with its server's record, where the record says that the guest is there."""
    parts = picture.parts  # asked before the records are read
    found: list[Finding] = []
    for cell in picture.cells.values():
        for row in cell["servers"].values():
            have = parts.get(row["host"] or "", {}).get(row["uuid"])
            if have is not None and not row["hidden"] and row["vm_state"] in HAVE_A_GUEST:
                found += plan(row, have)
    return found


def plan(row: Any, have: Parts) -> list[Finding]:
    """Decide what of one guest differs from its row."""
    disks = [d for d in server_disks.of_row(row) if d.attachment_id is not None]
    volumes = frozenset(str(d.volume_id) for d in disks)
    ports = frozenset(n["port_id"] for n in msgspec.json.decode(row["nics"]))
    out = []
    if volumes != have.volumes:
        text = _differ("volumes", volumes, have.volumes)
        out.append(_finding(row, Finding(kind="guest_disks", subject="", where="", message=text)))
    if ports != have.ports:
        text = _differ("ports", ports, have.ports)
        out.append(_finding(row, Finding(kind="guest_nics", subject="", where="", message=text)))
    return out


def _differ(noun: str, wanted: frozenset[str], there: frozenset[str]) -> str:
    missing, more = ", ".join(sorted(wanted - there)), ", ".join(sorted(there - wanted))
    lacks = f"; it lacks {missing}" if missing else ""
    has = f"; it has {more} besides" if more else ""
    return f"The guest has other {noun} than its record{lacks}{has}. A hard reboot makes it of its record."


def _finding(row: Any, found: Finding) -> Finding:
    server = row["uuid"]
    since = row["updated_at"] or 0.0
    return replace(found, subject=server, where=row["host"], about=(server,), since=since)


def run(services: Services) -> list[Finding]:
    """It is for audits only: nothing of it is mended, so nothing is looked at by itself."""
    return []
