"""What shelve, shelveOffload and unshelve share: taking a server off its host, and what a shelved server keeps."""

import msgspec

from kilonova.common.errors import NotFound
from kilonova.db import mappings, servers
from kilonova.db.engine import Row, Tx
from kilonova.objects.guest import Belongings, GuestDelete, PowerState
from kilonova.objects.order import Answer, Order
from kilonova.operations import guest_orders, settling, states
from kilonova.operations.guest_orders import SystemMetadata
from kilonova.operations.services import Services
from kilonova.saga import journal
from kilonova.saga.definition import Output, Run

REMOVE_S = 300.0


def shelved_image(row: Row) -> str | None:
    """Return the id of the image that keeps a shelved server's root disk."""
    return guest_orders.system_of(row).shelved_image


def with_shelved(row: Row, image_id: str | None, left: Belongings | None = None) -> str:
    """Return a row's system metadata with the image that keeps its root disk, or without one.

    left: what the guest had on its host besides disks.
    """
    system = msgspec.json.decode(row["system_metadata"], type=SystemMetadata)
    system = msgspec.structs.replace(system, shelved_image=image_id, belongings=left)
    return msgspec.json.encode(system).decode()


def order_remove(run: Run) -> Order | None:
    """Have the host remove the guest and its disks."""
    payload = GuestDelete(server_id=run.resource)
    return guest_orders.order(run, run.params.host, "guest_delete", payload, REMOVE_S)


def removed(run: Run, answer: Answer) -> Output:
    """The host has nothing of the server any more."""
    return {}


def off_the_host(run: Run) -> Output:
    """Let the ports go from the host, give the claim back, and say in the mapping that the server has no host."""
    services: Services = run.services
    services.network.bind_ports(run.resource, None)

    def release(tx: Tx) -> None:
        journal.fence_foreign(tx, run.operation, run.fence, run.seq)
        services.scheduling.release(tx, run.resource)
        if not mappings.place(tx, run.resource, cell=run.home, host=None, now=services.now()):
            raise NotFound(f"Instance {run.resource} could not be found.")

    services.world.write(release)
    return {}


def show_offloaded(tx: Tx, run: Run, transition: states.Transition, step: str) -> None:
    """Show the server as shelved and without a host."""
    settling.succeed(
        tx,
        run,
        transition,
        vm_state=states.SHELVED_OFFLOADED,
        power_state=int(PowerState.SHUTDOWN),
        step=step,
        host=None,
        node=None,
        devices="[]",
    )


def show_task(tx: Tx, run: Run, output: Output) -> None:
    """Show that the server leaves its host."""
    if servers.find(tx, run.resource) is not None:
        settling.task(tx, run, "shelving_offloading")
