"""What the processes of a cloud are put together from: databases, neighbours, the picture of hosts, engine, HTTP.

Each role (roles.py) and the whole cloud in one process (cloud.py) opens the parts that it needs, in one order; there is
no second way to make a part.
"""

import gc
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kilonova.api import observability
from kilonova.api.compute import service as compute
from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.api.operations.joins import JoinRoutes
from kilonova.bus.memory import MemoryBus
from kilonova.cells.listing import Lists
from kilonova.cells.opened import OpenCells
from kilonova.common.host_certificates import HostAuthority
from kilonova.common.log import get_logger
from kilonova.db import versions
from kilonova.db.engine import Database
from kilonova.db.opening import check, file_url, open_database
from kilonova.db.secrets import Vault
from kilonova.http.app import Application
from kilonova.http.service import Service
from kilonova.http.serving import HttpServer
from kilonova.identity.embedded import service as identity_api
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.image.embedded import service as image_api
from kilonova.image.embedded.routes.hosts import HostRoutes
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.image.signing import UrlSigner
from kilonova.network.embedded import service as network_api
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.operations import image_signatures, registry, stores, volume_events, webhooks
from kilonova.operations.cell_table import CellTable
from kilonova.operations.hosts import Hosts
from kilonova.operations.hosts_elsewhere import HostState
from kilonova.operations.joins import Joins
from kilonova.operations.network_events import NetworkEvents
from kilonova.operations.nudges import Nudges
from kilonova.operations.scheduling import Scheduling
from kilonova.operations.services import CELL0, Services
from kilonova.operations.version_pin import VersionPin
from kilonova.operations.webhooks import Webhooks
from kilonova.reconcile.loop import Reconcilers
from kilonova.saga.engine import Engine
from kilonova.saga.lease import Place, StateLock
from kilonova.saga.leases import LeaseOwner
from kilonova.server.bus_keys import authority_of
from kilonova.server.plan import JoinPlan, Plan
from kilonova.volume.embedded import service as volume_api
from kilonova.volume.embedded.placing import HostRoom
from kilonova.volume.embedded.volumes import EmbeddedVolumes

log = get_logger(__name__)
GC_THRESHOLDS = (5000, 10, 20)  # rows of a long list are no garbage: look seldom


class Process:
    """One process of a cloud: parts that are opened in order, and closed in the reverse order."""

    role = "all"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._closers: list[Callable[[], object]] = []
        self._stopped = threading.Event()

    def later(self, closer: Callable[[], object]) -> None:
        """Have something closed by ``stop``."""
        self._closers.append(closer)

    def stop(self) -> None:
        """Stop in the reverse order of starting; safe to repeat."""
        while self._closers:
            closer = self._closers.pop()
            try:
                closer()
            except Exception:
                log.exception("a part did not close")
        self._stopped.set()

    def settle(self) -> None:
        """Everything is there: cells that come are used from now on, and what was made so far is no garbage."""
        self.cell_table.start()
        self.later(self.cell_table.stop)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    # -- parts

    def _database(self, name: str, metadata: Any = None) -> Database:
        db = open_store(self.plan, name)
        self.later(db.close)
        if metadata is not None:
            versions.ensure(db, metadata)
        return db

    def open_stores(self) -> None:
        """Open the global database, the cells and the key of secrets; say that the state directory is in use."""
        plan = self.plan
        lock = StateLock(plan.state_dir, shared=plan.shares)
        self.later(lock.close)
        self.world = self._database("global", stores.WORLD)
        names = [CELL0, *(plan.cell_names or (f"cell{n + 1}" for n in range(plan.cells)))]
        found = sorted(p.stem for p in (plan.state_dir / "db").glob("cell*.db"))
        names = list(dict.fromkeys([*names, *found]))
        self.vault = Vault.at(plan.secret_key or plan.state_dir / "secret.key")
        self.cells, self.absent = OpenCells(), dict[str, str]()
        self._elsewhere = {n: partial(open_cell, plan, n) for n in names if on_a_server(plan, n)}
        for name in names:
            if name not in self._elsewhere or name == CELL0:
                self.cells[name] = self._database(name, stores.CELL)
        self._elsewhere.pop(CELL0, None)
        # A simulated host never waits: more threads would only hand the interpreter's lock around.
        self.bus = plan.bus or MemoryBus(2 if plan.driver == "fake" else 4)
        self.later(self.bus.close)

    def open_services(self, url: str, *, uploads: bool = True) -> None:
        """Open the embedded neighbours. url: what clients are told. uploads: whether images' bytes come here."""
        plan = self.plan
        self.url = url.rstrip("/")
        self.identity = EmbeddedIdentity(
            self._database("identity"),
            plan.state_dir / "keys",
            plan.clock,
            catalog_of(self.url),
            plan.settings.token_life_s,
        )
        images_dir = plan.images_dir or plan.state_dir / "images"
        self.images = EmbeddedImages(self._database("image"), images_dir, plan.clock, keep=uploads)
        self.later(self.images.close)
        self.network = EmbeddedNetwork(
            self._database("network"), self.bus, plan.clock, hosts=self._live_hosts
        )
        self.services = Services(
            world=self.world,
            cells=self.cells,
            bus=self.bus,
            vault=self.vault,
            images=self.images,
            network=self.network,
            identity=self.identity,
            state_dir=plan.state_dir,
            public_url=self.url,
            clock=plan.clock,
            simulated=plan.driver == "fake",
            settings={"settings": plan.settings},
        )
        self.cell_table = CellTable(
            self.services, self.cells, self.absent, self._elsewhere, plan.settings.synchronous
        )
        self.later(self.cell_table.close)
        self.services.install(absent_cells=self.absent, cell_table=self.cell_table)
        self.cell_table.refresh()
        self.volumes = EmbeddedVolumes(
            self._database("volume"),
            self.bus,
            self.images,
            plan.clock,
            rooms=self._rooms,
            nudge=lambda database, operation: self.services.engine.nudge(database, operation),
        )
        self.volumes.exports.authority = HostAuthority(self.vault.derived(b"hosts' certificates"))
        self.volumes.target = self.volumes.targets[plan.settings.backup_target]
        self.volumes.verify = lambda image: image_signatures.for_volume(self.services, image)
        self.services.install(volumes=self.volumes, homes={"volume": self.volumes.db})
        self.signer = UrlSigner(self.vault.derived(b"image urls"), plan.internal_url or self.url)
        if plan.shares:
            self.services.install(image_url=self.signer.url)

    def _rooms(self) -> list[HostRoom]:
        hosts = getattr(self, "hosts", None)
        return [] if hosts is None else [_room(h, up=hosts.is_up(h.host)) for h in hosts.all()]

    def _live_hosts(self) -> list[str]:
        hosts = getattr(self, "hosts", None)
        return [] if hosts is None else hosts.alive()

    def open_picture(self, *, hears: bool = True) -> None:
        """Open what is known of hosts, the scheduler's view, lists, and what follows ports and volumes.

        hears: whether what hosts report comes here, or to another process that hears.
        """
        services = self.services
        registry.load()
        lists = Lists(self.world, self.cells, render_unplaced, self.absent)
        self.later(lists.close)
        scheduling = Scheduling(services)
        services.install(lists=lists, scheduling=scheduling)
        self.hosts = Hosts(services, shared=self.plan.shares, reports=hears)
        self.later(self.hosts.close)
        services.install(hosts=self.hosts)
        pin = VersionPin(services, self.role)
        self.later(pin.close)
        pin.start()
        services.install(versions=pin)
        self.network.start(hears=hears)
        self.later(self.network.stop)
        volume_events.listen(services)
        if hears:
            self.volumes.start()
        self.later(self.volumes.stop)
        events = NetworkEvents(services)
        self.later(events.close)
        scheduling.start()
        self.later(scheduling.close)
        self.metrics = observability.Metrics(services)

    def open_nudges(self) -> None:
        """Pass accepted operations on to the conductors: this process has no engine."""
        self.services.install(engine=Nudges(self.bus, self.services.homes))

    def open_engine(self) -> None:
        """Run operations, and compare records with each other and with the hosts."""
        plan, services = self.plan, self.services
        self.engine = Engine(
            services.homes(),
            self.bus,
            services,
            clock=plan.clock,
            workers=plan.settings.engine_threads,
            faults=plan.faults,
            observer=self.metrics.step,
            limits={"build": 10},
            ownership=self._ownership(),
        )
        services.install(engine=self.engine)
        self.engine.start()
        self.later(self.engine.stop)
        reconcilers = Reconcilers(services)
        reconcilers.start()
        self.later(reconcilers.close)
        if plan.settings.webhooks_file is not None:
            hooks = Webhooks(services, webhooks.parse(Path(plan.settings.webhooks_file)))
            self.later(hooks.close)
            hooks.start()

    def _ownership(self) -> LeaseOwner | None:
        """Return by what right this process owns operations: by lease beside others, or alone (None)."""
        if not self.plan.shares:
            return None
        place = Place(self.plan.state_dir)
        self.later(place.close)
        return LeaseOwner(self.plan.clock, place)

    def open_socket(self) -> str:
        """Take the port; return the URL that it has. Nothing is served before ``open_http``."""
        plan = self.plan
        self.http_socket = HttpServer(
            self._wsgi,
            plan.listen,
            plan.port,
            threads=plan.settings.api_threads,
            tls=plan.tls,
        )
        self.later(self.http_socket.stop)
        scheme = "https" if plan.tls else "http"
        return plan.public_url or f"{scheme}://{plan.listen}:{self.http_socket.port}"

    def open_http(self) -> None:
        """Serve every API on the one port."""
        mounts: list[Service] = [
            observability.service(self.metrics),
            identity_api.service(self.identity),
            compute.service(self._policy()),
            image_api.service(self.images),
            network_api.service(self.network, self.url),
            volume_api.service(self.volumes),
            *optional_services(self._policy()),
        ]
        if self.plan.shares:
            mounts.append(HostRoutes(self.images, self.signer).service())
        if self.plan.join is not None:
            mounts.append(JoinRoutes(self._joins(self.plan.join)).service())
        self.application = Application(
            mounts, self.services, self.identity.authenticate, self.url, self.metrics.request
        )
        self.http_socket.start()

    def _joins(self, plan: JoinPlan) -> Joins:
        ca = None if plan.ca is None else plan.ca.read_text()
        authority = authority_of(plan.account_seed)

        def tell(name: str) -> None:
            from kilonova.bus import accounts, nats  # an extra: a cloud in one process goes without

            accounts.revoke(nats.Address(plan.urls, ca=plan.ca), authority, name)

        return Joins(self.services, authority, plan.urls, ca, tell)

    def _policy(self) -> dict[str, str]:
        name = self.plan.settings.policy_file
        if name is None:
            return {}
        import tomllib

        rules = tomllib.loads(Path(name).read_text())
        return {str(k): str(v) for k, v in rules.items()}

    def _wsgi(self, environ: Any, start_response: Any) -> Any:
        return self.application.wsgi(environ, start_response)


def open_store(plan: Plan, name: str) -> Database:
    """Open a database of a plan: at its URL, else a file in the state directory."""
    folder = plan.state_dir / "db"
    folder.mkdir(mode=0o700, exist_ok=True)
    url = plan.databases.get(name, file_url(folder / f"{name}.db"))
    return open_database(url, name, plan.settings.synchronous)


def on_a_server(plan: Plan, name: str) -> bool:
    """Tell whether a database of a plan is on a server, which may be away when this process starts."""
    return name in plan.databases and check(plan.databases[name]) != "sqlite"


def open_cell(plan: Plan, name: str) -> Database:
    """Open a cell that the configuration names, with its tables. Raises Unavailable, Conflict."""
    database = open_store(plan, name)
    try:
        versions.ensure(database, stores.CELL)
    except BaseException:
        database.close()
        raise
    return database


def _room(host: HostState, *, up: bool) -> HostRoom:
    """Return a host as the volume service sees it."""
    return HostRoom(host.host, host.inventory.disk_gib, up, host.disabled)


def catalog_of(url: str) -> list[tuple[str, str, str]]:
    """Return the catalog: only what works."""
    return [
        ("identity", "keystone", f"{url}/identity/v3"),
        ("compute", "nova", f"{url}/compute/v2.1"),
        ("image", "glance", f"{url}/image"),
        ("network", "neutron", f"{url}/network"),
        ("placement", "placement", f"{url}/placement"),
        ("block-storage", "cinder", f"{url}/volume/v3/$(project_id)s"),
        ("volumev3", "cinderv3", f"{url}/volume/v3/$(project_id)s"),
    ]


def optional_services(overrides: dict[str, str]) -> list[Service]:
    """Return the APIs beside the big four: placement and our own. overrides: a policy file's content."""
    from kilonova.api import placement
    from kilonova.api.operations import service as operations

    return [placement.service(), operations.service(overrides)]
