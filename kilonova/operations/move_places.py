"""Where a server that moves goes: decided outside of every transaction, claimed in one with its mapping."""

from collections.abc import Mapping, Set
from typing import Any

from kilonova.common.errors import NotFound
from kilonova.db import mappings
from kilonova.db.engine import Row, Tx
from kilonova.objects.base import decode
from kilonova.objects.server import FlavorRecord, RequestedServer, ResizeParams
from kilonova.operations import guest_orders, resizing
from kilonova.operations.services import Services
from kilonova.placement import allocations
from kilonova.saga import journal
from kilonova.saga.definition import Output, Run


def claim(run: Run) -> Output:
    """Decide on a host and move the claims, in one global transaction with the mapping.

    The migration takes over what the server held, the server claims the new size. Done again, it decides anew.
    """
    params: ResizeParams = run.params
    source = str(params.host)
    where = decide(run, avoid={source} if params.elsewhere else frozenset())
    take(run, where)
    return {**where, "moves": where["host"] != source}


def decide(run: Run, avoid: Set[str]) -> dict[str, Any]:
    """Choose a host of the server's cell for its new size. Raises NoValidHost."""
    row = guest_orders.server_row(run.services, run.home, run.resource)
    params: ResizeParams = run.params
    return choose(run.services, run.home, row, resizing.new_flavor(params), avoid, params.to_host)


def choose(
    services: Services,
    cell: str,
    row: Row,
    flavor: FlavorRecord,
    avoid: Set[str],
    to_host: str | None = None,
) -> dict[str, Any]:
    """Decide where a server of a cell would go with a flavor; nothing is claimed. Raises NoValidHost."""
    server = row["uuid"]
    mapping = services.world.read(lambda tx: mappings.find(tx, server))
    if mapping is None:
        raise NotFound(f"Instance {server} could not be found.")
    asked = decode(mapping["requested"], RequestedServer).replace(
        flavor=flavor,
        image=guest_orders.system_of(row).image,
        availability_zone=row["requested_zone"],
        requested_host=to_host,
        requested_node=None,
        force_host=False,
    )
    return services.scheduling.place_again(asked, cell, avoid=avoid)


def take(run: Run, where: Mapping[str, Any]) -> None:
    """Claim what was decided; the migration keeps what the server held. Done again, it replaces the claim."""
    services: Services = run.services
    params: ResizeParams = run.params

    def put(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        if not allocations.held_by(tx, params.migration):
            services.scheduling.hand_over(tx, run.resource, params.migration, "MIGRATION")
        services.scheduling.claim(tx, run.resource, where)
        if not mappings.place(
            tx, run.resource, cell=run.home, host=where["host"], now=services.now()
        ):
            raise NotFound(f"Instance {run.resource} could not be found.")

    services.world.write(put)
