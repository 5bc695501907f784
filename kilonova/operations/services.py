"""The services of a process: what operations, reconcilers and the API work with. Built by server.py, never changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kilonova.bus.interface import Bus
from kilonova.cells.asking import CellDown
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.errors import Unavailable
from kilonova.db.engine import Database, Tx
from kilonova.db.secrets import Vault

if TYPE_CHECKING:
    from kilonova.cells.listing import Lists
    from kilonova.identity.interface import Identity
    from kilonova.image.interface import ImageService
    from kilonova.network.interface import NetworkService
    from kilonova.operations.cell_table import CellTable
    from kilonova.operations.consoles import Consoles
    from kilonova.operations.hosts import Hosts
    from kilonova.operations.scheduling import Scheduling
    from kilonova.operations.version_pin import VersionPin
    from kilonova.saga.engine import Engine
    from kilonova.volume.interface import VolumeService

CELL0 = "cell0"
T = TypeVar("T")


@dataclass
class Services:
    """Everything a request or an operation may use.

    world: the global database. cells: name -> database, with ``cell0`` for servers that never got a host.
    """

    world: Database
    cells: Mapping[str, Database]
    bus: Bus
    vault: Vault
    images: "ImageService"
    network: "NetworkService"
    identity: "Identity"
    state_dir: Path
    public_url: str
    clock: Clock = SYSTEM
    simulated: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    _late: dict[str, Any] = field(default_factory=dict)

    def install(self, **late: Any) -> None:
        """Add what is built from the services themselves (engine, scheduling, hosts, lists); once each, at start."""
        self._late.update(late)

    @property
    def engine(self) -> "Engine":
        engine: Engine = self._late["engine"]
        return engine

    @property
    def scheduling(self) -> "Scheduling":
        scheduling: Scheduling = self._late["scheduling"]
        return scheduling

    @property
    def hosts(self) -> "Hosts":
        hosts: Hosts = self._late["hosts"]
        return hosts

    @property
    def lists(self) -> "Lists":
        lists: Lists = self._late["lists"]
        return lists

    @property
    def has_lists(self) -> bool:
        """Tell whether this process asks cells together."""
        return "lists" in self._late

    @property
    def consoles(self) -> "Consoles":
        """Remote consoles. Raises Unavailable until the hosts are there."""
        if "consoles" not in self._late:
            raise Unavailable("Consoles are not ready yet.")
        consoles: Consoles = self._late["consoles"]
        return consoles

    @property
    def volumes(self) -> "VolumeService":
        """The block storage service. Raises Unavailable where there is none."""
        if "volumes" not in self._late:
            raise Unavailable("This cloud has no block storage service.")
        volumes: VolumeService = self._late["volumes"]
        return volumes

    @property
    def versions(self) -> "VersionPin | None":
        """What the services of the deployment read and write; None in a process that keeps no account of it."""
        versions: VersionPin | None = self._late.get("versions")
        return versions

    @property
    def has_volumes(self) -> bool:
        """Tell whether there is a block storage service."""
        return "volumes" in self._late

    def image_url(self, image_id: str, host: str, method: str) -> str:
        """Return where a host gets an image's bytes (GET) or brings them (PUT): in one process ``image:<id>``."""
        signed = self._late.get("image_url")
        return f"image:{image_id}" if signed is None else str(signed(image_id, host, method))

    def setting(self, name: str, default: Any) -> Any:
        """Return a value of the configuration (common/config.py), ``default`` in a process that was given none."""
        return getattr(self.settings.get("settings"), name, default)

    def host_is_down(self, host: str) -> bool:
        """Tell whether a host is down, or silent for 60 s; the engine asks before it waits on."""
        return "hosts" in self._late and not self.hosts.is_up(host)

    def host_is_back(self, host: str, cell: str) -> None:
        """A host of a cell registered: the engine sends again what it may have missed."""
        if "engine" in self._late:
            self.engine.hurry(host, {cell, *self.homes()} - (self.cells.keys() - {cell}))

    def cell_came(self, name: str, database: Database) -> None:
        """A cell's database was opened while this process runs: its operations and hosts are looked after here."""
        if "engine" in self._late:
            self.engine.add_database(database)
        if "hosts" in self._late:
            self.hosts.cell_came(name)

    def cell_went(self, name: str) -> None:
        """A cell was deleted: nobody here looks at it any more."""
        if "engine" in self._late:
            self.engine.remove_database(name)
        if "hosts" in self._late:
            self.hosts.cell_went(name)

    def look_at_cells(self) -> bool:
        """Read the table of cells now, where this process follows it; tell whether a cell came or went."""
        table: CellTable | None = self._late.get("cell_table")
        return table is not None and table.refresh()

    @property
    def absent_cells(self) -> Mapping[str, str]:
        """Cell -> why it cannot be opened here, in words for an admin."""
        absent: Mapping[str, str] = self._late.get("absent_cells", {})
        return absent

    def leads(self) -> bool:
        """Tell whether this process does what only one conductor may do; without an engine nobody else is there."""
        return "engine" not in self._late or self.engine.leads(self.world.name)

    def cell(self, name: str) -> Database:
        """Return a cell's database. Raises CellDown when it is not configured here."""
        try:
            return self.cells[name]
        except KeyError:
            raise CellDown(name) from None

    def ask_cell(self, name: str, question: Callable[[Tx], T]) -> T:
        """Ask a cell one question; one that is not a local file for at most 1 s. Raises CellDown."""
        database = self.cell(name)
        if not self.has_lists or getattr(database, "is_local", True):
            return database.ask(question)
        answer: T = self.lists.ask(name, question)
        return answer

    def home(self, name: str) -> Database:
        """Return the database that ``Run.home`` names."""
        return self.homes().get(name) or self.cell(name)

    def homes(self) -> dict[str, Database]:
        """Return every home of operations: the global database, the cells, and those installed beside them."""
        more: Mapping[str, Database] = self._late.get("homes", {})
        return {self.world.name: self.world, **dict(self.cells.items()), **more}

    def real_cells(self) -> list[str]:
        """Return the names of the cells that have hosts."""
        return [c for c in self.cells if c != CELL0]

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.clock.now()
