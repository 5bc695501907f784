"""First content of a cloud: an external network, a private one of the demo project, a router between them."""

import ipaddress
from collections.abc import Sequence

from kilonova.db.engine import Tx
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.store import groups, networks, routers, subnets
from kilonova.network.embedded.store.work import Work


def seed(
    service: EmbeddedNetwork,
    admin_project: str,
    demo_project: str,
    *,
    public_cidr: str = "172.24.4.0/24",
    private_cidr: str = "10.10.0.0/24",
    dns_nameservers: tuple[str, ...] = (),
    public_pool: tuple[str, str] | None = None,
    public_gateway: str | None = None,
) -> None:
    """Make what is missing of it; safe to repeat, and what the user changed or renamed since is left alone.

    public_pool: first and last floating address; None: all of public_cidr but its gateway. public_gateway: None: the
    first address. CIDRs must not meet the host's routes, but for a public network on a real interface: the caller
    chooses free ones.
    """
    live = service.hosts()

    def body(work: Work) -> None:
        groups.ensure_default(work, admin_project)
        groups.ensure_default(work, demo_project)
        if work.tx.one(networks.DEFAULT_EXTERNAL) is not None:
            return
        public = networks.make(
            work,
            networks.NewNetwork(
                project_id=admin_project, name="public", external=True, is_default=True
            ),
        )
        subnet = _public_subnet(public, admin_project, public_cidr, public_pool, public_gateway)
        subnets.make(work, subnet)
        _private(work, demo_project, private_cidr, dns_nameservers, public, live)

    service.write(body)


def _public_subnet(
    network_id: str,
    project_id: str,
    cidr: str,
    pool: tuple[str, str] | None,
    gateway: str | None,
) -> subnets.NewSubnet:
    first = ipaddress.ip_network(cidr).network_address + 1
    return subnets.NewSubnet(
        network_id=network_id,
        project_id=project_id,
        name="public-subnet",
        cidr=cidr,
        gateway_ip=gateway or str(first),
        enable_dhcp=False,
        allocation_pools=None if pool is None else [{"start": pool[0], "end": pool[1]}],
    )


def _private(
    work: Work,
    project_id: str,
    cidr: str,
    dns: tuple[str, ...],
    public: str,
    live: Sequence[str],
) -> None:
    private = networks.make(work, networks.NewNetwork(project_id=project_id, name="private"))
    subnet_id = subnets.make(
        work,
        subnets.NewSubnet(
            network_id=private,
            project_id=project_id,
            name="private-subnet",
            cidr=cidr,
            dns_nameservers=list(dns),
        ),
    )
    router_id = routers.make(work, routers.NewRouter(project_id=project_id, name="router"))
    routers.set_gateway(work, router_id, live, public)
    row = routers.get(work.tx, router_id)
    routers.add_subnet(work, row, live, subnets.get(work.tx, subnet_id))


def public_network(tx: Tx) -> str | None:
    """Return the id of the default external network, or None."""
    row = tx.one(networks.DEFAULT_EXTERNAL)
    return None if row is None else str(row["id"])
