"""From kilonova.toml to what a role starts with: its plan, its connection to the bus."""

from pathlib import Path
from typing import TYPE_CHECKING

from kilonova.common.config import Settings
from kilonova.common.deployment import Tables, needed
from kilonova.server.plan import JoinPlan, Plan

if TYPE_CHECKING:
    from kilonova.bus.nats import NatsBus


def plan_of(path: Path, role: str, settings: Settings, tables: Tables) -> Plan:
    """Return the plan of a role. Raises BadConfig for what it needs and has not."""
    needed(path, tables, role)
    top = tables.deployment
    agent = role == "agent"
    return Plan(
        state_dir=Path(top.state_dir),
        driver=tables.agent.driver if agent else "fake" if top.simulated else "libvirt",
        listen=tables.api.listen,
        port=tables.api.port,
        public_url=top.public_url.rstrip("/"),
        internal_url=top.internal_url,
        tls=(tables.api.cert, tables.api.key) if tables.api.cert and tables.api.key else None,
        settings=settings,
        shares=True,
        databases=tables.databases,
        cell_names=tables.cells,
        secret_key=path_of(top.secret_key),
        images_dir=path_of(top.images_dir),
        join=_join(tables) if role == "api" else None,
    )


def _join(tables: Tables) -> JoinPlan | None:
    seed = path_of(tables.bus.account_seed)
    return None if seed is None else JoinPlan(seed, tables.bus.url, path_of(tables.bus.ca))


def path_of(text: str | None) -> Path | None:
    """Return a path that may be left out."""
    return None if text is None else Path(text)


def connect(tables: Tables, name: str, credentials: Path | None = None) -> "NatsBus":
    """Connect to the bus, now or once it is there. name: of the client; a host's own inbox is named after it."""
    from kilonova.bus.nats import Address, NatsBus  # an extra: a cloud in one process goes without

    own = credentials or path_of(tables.bus.credentials)
    return NatsBus(Address(tables.bus.url, name, own, path_of(tables.bus.ca)))
