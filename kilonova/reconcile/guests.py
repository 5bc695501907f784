"""Guests and records: what hosts run against what the cells say. Nothing is ever destroyed here (R14)."""

from collections.abc import Mapping
from typing import Any

from kilonova.objects.base import encode
from kilonova.objects.host import HostAsk
from kilonova.operations import states
from kilonova.operations.services import Services
from kilonova.reconcile.finding import Finding, repaired
from kilonova.reconcile.picture import Picture

EVERY_S = 60.0
HAVE_A_GUEST = (
    states.ACTIVE,
    states.STOPPED,
    states.PAUSED,
    states.SUSPENDED,
    states.RESIZED,
    states.RESCUED,
)


def look(picture: Picture) -> list[Finding]:
    """Compare each host that answers with the servers that are placed on it."""
    guests = picture.guests  # asked before the records are read
    placed, left = placed_on(picture), left_by_moves(picture)
    found: list[Finding] = []
    for host, domains in guests.items():
        found += plan(host, domains, placed.get(host, {}))
        for name, (_, ours) in domains.items():
            known = name in placed.get(host, {}) or is_owed(picture, host, name)
            if ours and not known and (host, name) not in left:
                found.append(_unknown(picture, host, name))
    return found


def placed_on(picture: Picture) -> dict[str, dict[str, Any]]:
    """Return host -> server -> row, of the servers that are on it by their record."""
    placed: dict[str, dict[str, Any]] = {}
    for cell in picture.cells.values():
        for row in cell["servers"].values():
            if row["host"] is not None and not row["hidden"]:
                placed.setdefault(row["host"], {})[row["uuid"]] = row
    return placed


def left_by_moves(picture: Picture) -> set[tuple[str, str]]:
    """Return (host, server) of what is off, and kept until the move is confirmed or reverted."""
    return {
        (move[end], move["server"])
        for cell in picture.cells.values()
        for move in cell["moves"].values()
        for end in ("source_host", "dest_host")
    }


def plan(
    host: str, domains: Mapping[str, tuple[int, bool]], placed: Mapping[str, Any]
) -> list[Finding]:
    """Decide, from one host's domains and the rows that say that they are on it, what differs."""
    found = []
    for server, row in placed.items():
        if server not in domains:
            if row["vm_state"] in HAVE_A_GUEST:
                found.append(
                    Finding(
                        kind="guest_missing",
                        subject=server,
                        where=host,
                        message=f"Server {server} is {row['vm_state']} by its record, and host {host} has no such "
                        "guest. Rebuild or delete the server.",
                        about=(server,),
                        since=row["updated_at"] or 0.0,
                    )
                )
        elif domains[server][0] != row["power_state"] and row["vm_state"] in HAVE_A_GUEST:
            found.append(
                Finding(
                    kind="guest_power",
                    subject=server,
                    where=host,
                    message=f"The guest's power state is {domains[server][0]}, its record says {row['power_state']}.",
                    repair="The host is asked for its list of guests; the record follows the guest.",
                    about=(server,),
                    since=row["updated_at"] or 0.0,
                )
            )
    return found


def is_owed(picture: Picture, host: str, server: str) -> bool:
    """Tell whether a host that was down still has to remove a server."""
    record = picture.held_back.get(server)
    return record is not None and record["host"] == host


def _unknown(picture: Picture, host: str, server: str) -> Finding:
    mapping = picture.mappings.get(server)
    if mapping is None:
        kind, why = (
            "guest_unknown",
            "and no server of this id is known. Remove it by hand if it is not needed.",
        )
    else:
        kind = "guest_elsewhere"
        why = f"and the server is {'on ' + mapping['host'] if mapping['host'] else 'on no host'}."
    return Finding(
        kind=kind,
        subject=server,
        where=host,
        message=f"Host {host} has a guest {server}, {why}",
        about=(server,),
    )


def mend(services: Services, finding: Finding) -> bool:
    """Ask the host for its list; Hosts writes what it says, if no operation owns the server."""
    body = encode(HostAsk(host=finding.where, what="guests"))
    services.bus.publish(f"agent.{finding.where}.state", body)
    return True


def run(services: Services) -> list[Finding]:
    """Look and repair."""
    return repaired(services, look, mend, young_s=30.0)
