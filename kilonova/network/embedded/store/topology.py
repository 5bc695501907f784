"""Get me a network: a project's automatic network, subnet and router to the default external network."""

import ipaddress
import os
from collections.abc import Sequence

from kilonova.db.engine import Row, Tx
from kilonova.network.embedded.faults import Clash, Missing
from kilonova.network.embedded.store import networks, ports, routers, subnets
from kilonova.network.embedded.store.work import Work

NAME = "auto_allocated"
_SPACE = ipaddress.ip_network("10.128.0.0/9")


def find(tx: Tx, project_id: str) -> Row | None:
    """Return the project's automatic network, or None."""
    return tx.one(networks.AUTO, project_id=project_id)


def external(tx: Tx) -> Row:
    """Return the default external network; AutoAllocationFailure without one."""
    row = tx.one(networks.DEFAULT_EXTERNAL)
    if row is None:
        raise Clash(
            "AutoAllocationFailure",
            "Deployment error: No default router:external network.",
        )
    return row


def ensure(work: Work, project_id: str, live: Sequence[str]) -> str:
    """Return the project's automatic network, made once."""
    found = find(work.tx, project_id)
    if found is not None:
        return str(found["id"])
    out = external(work.tx)
    network_id = networks.make(
        work,
        networks.NewNetwork(project_id=project_id, name=f"{NAME}_network", auto_for=project_id),
    )
    part = int.from_bytes(os.urandom(2), "big") % (1 << 15)
    cidr = f"{_SPACE.network_address + part * 256}/24"
    subnet_id = subnets.make(
        work,
        subnets.NewSubnet(
            network_id=network_id, project_id=project_id, name=f"{NAME}_subnet_v4", cidr=cidr
        ),
    )
    router_id = routers.make(work, routers.NewRouter(project_id=project_id, name=f"{NAME}_router"))
    routers.set_gateway(work, router_id, live, out["id"])
    row = routers.get(work.tx, router_id)
    routers.add_subnet(work, row, live, subnets.get(work.tx, subnet_id))
    return network_id


def delete(work: Work, project_id: str, live: Sequence[str]) -> None:
    """Remove the automatic network, subnet and router; refused while servers use it."""
    net = find(work.tx, project_id)
    if net is None:
        raise Missing(
            "AutoAllocatedTopologyNotFound",
            f"No auto-allocated topology found for tenant {project_id}.",
        )
    for leg in work.tx.all(ports.LEGS_ON, network_id=net["id"]):
        row = routers.get(work.tx, leg["device_id"])
        routers.remove_interface(work, row, live, leg["id"], None)
        if row["name"] == f"{NAME}_router":
            routers.delete(work, routers.get(work.tx, row["id"]))
    networks.delete(work, net)
