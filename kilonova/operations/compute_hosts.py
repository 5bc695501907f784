"""Hosts as services and hypervisors: their numbers and ids, what is used of them, and taking one out of the cloud."""

from dataclasses import dataclass

from kilonova.common.errors import BadRequest, Conflict, NotFound
from kilonova.db import aggregates, host_usage, mappings, migrations
from kilonova.db import hosts as db
from kilonova.db.engine import Row, Tx
from kilonova.objects.query import Capabilities, CapabilitiesQuery
from kilonova.operations import notices
from kilonova.operations.aggregates import take_out
from kilonova.operations.ask import HostSilent, ask
from kilonova.operations.hosts_elsewhere import HostState
from kilonova.operations.services import CELL0, Services
from kilonova.placement import providers, reported

UPTIME_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class ComputeHost:
    """One host: what is known now, and its number for microversions before 2.53 (None: its cell does not answer)."""

    state: HostState
    number: int | None

    @property
    def host(self) -> str:
        return self.state.host

    @property
    def uuid(self) -> str:
        return self.state.uuid


@dataclass(frozen=True)
class Usage:
    """What is used of a host. Units: cores, MiB, GiB. busy: servers that an operation works on."""

    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0
    servers: int = 0
    busy: int = 0


def list_all(services: Services) -> list[ComputeHost]:
    """Return every host, by cell and name; those of a silent cell have no number, and stand where they stood."""
    answers, _ = services.lists.ask_cells(db.all_hosts)
    numbers = {row["host"]: row["id"] for rows in answers.values() for row in rows}
    known = sorted(services.hosts.all(), key=lambda s: (s.cell, s.host))
    return [ComputeHost(s, numbers.get(s.host)) for s in known]


def by_uuid(services: Services, uuid: str) -> ComputeHost | None:
    """Return the host of this id, or None."""
    return next((h for h in list_all(services) if h.uuid == uuid), None)


def by_number(services: Services, number: int, what: str) -> ComputeHost | None:
    """Return the host of this number, or None. BadRequest: hosts of several cells have it."""
    found = [h for h in list_all(services) if h.number == number]
    if len(found) > 1:
        raise BadRequest(f"{what} id {number} refers to multiple {what.lower()}s.")
    return found[0] if found else None


def usage(services: Services) -> dict[str, Usage]:
    """Return host -> what is used of it."""
    used, count = services.world.read(lambda tx: (host_usage.used(tx), host_usage.servers(tx)))
    answers, _ = services.lists.ask_cells(host_usage.busy)
    busy: dict[str, int] = {}
    for part in answers.values():
        busy.update(part)
    return {
        host: Usage(
            vcpus=amounts.get("VCPU", 0) + amounts.get("PCPU", 0),
            memory_mib=amounts.get("MEMORY_MB", 0),
            disk_gib=amounts.get("DISK_GB", 0),
            servers=count.get(host, 0),
            busy=busy.get(host, 0),
        )
        for host in {*used, *count, *busy}
        for amounts in [used.get(host, {})]
    }


def servers_on(services: Services, host: str) -> list[str]:
    """Return the ids of the servers on a host."""
    rows: list[Row] = services.world.read(lambda tx: mappings.on_host(tx, host))
    return [r["server"] for r in rows]


def uptime_s(services: Services, host: str) -> float | None:
    """Return for how many seconds a host runs; None: a simulated one. Raises HostSilent."""
    answer = ask(services, host, CapabilitiesQuery(), UPTIME_TIMEOUT_S)
    if not isinstance(answer, Capabilities):
        raise HostSilent("The host could not say for how long it runs.", host=host)
    return answer.uptime_s


def remove(services: Services, found: ComputeHost) -> None:
    """Take a host out of the cloud: its aggregates, provider, mapping and record. Safe to repeat.

    Raises Conflict while servers are on it. An agent that still runs there is a new host when it registers again.
    """
    host, now = found.host, services.now()
    for name in services.real_cells():
        moves = services.cell(name).read(migrations.holding)
        if any(host in (m["source_host"], m["dest_host"]) for m in moves):
            raise Conflict(
                "Unable to delete compute service that has in-progress migrations. Complete the migrations first."
            )

    def drop_world(tx: Tx) -> None:
        if mappings.on_host(tx, host):
            raise Conflict(
                "Unable to delete compute service that is hosting instances. Migrate or delete "
                "the instances first."
            )
        for row in aggregates.of_host(tx, host):
            take_out(tx, row, host, now)
        provider = providers.find(tx, found.uuid)
        if provider is not None:
            reported.remove_parts(tx, provider, now)
            providers.delete(tx, provider, now)
        db.unmap(tx, host)

    if found.state.cell == CELL0:
        raise NotFound(f"Compute host {host} could not be found.")
    services.world.write(drop_world)

    def remove(tx: Tx) -> None:
        notices.service(tx, "service.delete", db.find(tx, host), services.now())
        db.remove(tx, host)

    services.cell(found.state.cell).write(remove)
    services.hosts.forget(host)
    services.scheduling.aggregates_changed()
