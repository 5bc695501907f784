"""One process with everything: databases, services, engine, hosts and the HTTP port, started and stopped in order."""

import gc
import threading
from pathlib import Path
from typing import Any

from kilonova.api import observability
from kilonova.api.compute import service as compute
from kilonova.api.compute.servers.reading import render_unplaced
from kilonova.bus.memory import MemoryBus
from kilonova.cells.listing import Lists
from kilonova.common import memory
from kilonova.common.log import get_logger
from kilonova.db import versions
from kilonova.db.engine import Database
from kilonova.db.opening import file_url, open_database
from kilonova.db.secrets import Vault
from kilonova.http.app import Application, Service
from kilonova.http.serving import HttpServer
from kilonova.identity.embedded import service as identity_api
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.image.embedded import service as image_api
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.network.embedded import service as network_api
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.operations import registry, stores, volume_events
from kilonova.operations.cells import open_added
from kilonova.operations.hosts import Hosts
from kilonova.operations.hosts_elsewhere import HostState
from kilonova.operations.network_events import NetworkEvents
from kilonova.operations.scheduling import Scheduling
from kilonova.operations.services import CELL0, Services
from kilonova.operations.version_pin import VersionPin
from kilonova.reconcile.loop import Reconcilers
from kilonova.saga.engine import Engine
from kilonova.saga.lease import StateLock
from kilonova.server.plan import Plan
from kilonova.volume.embedded import service as volume_api
from kilonova.volume.embedded.placing import HostRoom
from kilonova.volume.embedded.volumes import EmbeddedVolumes

log = get_logger(__name__)
GC_THRESHOLDS = (5000, 10, 20)  # rows of a long list are no garbage: look seldom


class Cloud:
    """A whole cloud in this process. ``start`` returns when it answers; ``stop`` leaves guests running."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._closers: list[Any] = []
        self._stopped = threading.Event()

    def start(self) -> None:
        """Take the state directory, open everything, serve. Raises Conflict when another process has it."""
        memory.few_arenas()
        plan = self.plan
        plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open_stores()
            self._open_services()
            self._open_control()
            self._open_http()
            self._open_hosts()
        except BaseException:
            self.stop()
            raise
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)

    def _later(self, closer: Any) -> None:
        self._closers.append(closer)

    def _database(self, name: str, metadata: Any = None) -> Database:
        path = self.plan.state_dir / "db"
        path.mkdir(mode=0o700, exist_ok=True)
        url = self.plan.databases.get(name, file_url(path / f"{name}.db"))
        db = open_database(url, name, self.plan.settings.synchronous)
        self._later(db.close)
        if metadata is not None:
            versions.ensure(db, metadata)
        return db

    def _open_stores(self) -> None:
        plan = self.plan
        lock = StateLock(plan.state_dir)
        self._later(lock.close)
        self.world = self._database("global", stores.WORLD)
        names = [CELL0, *(f"cell{n + 1}" for n in range(plan.cells))]
        found = sorted(p.stem for p in (plan.state_dir / "db").glob("cell*.db"))
        names = list(dict.fromkeys([*names, *found]))
        self.cells: dict[str, Database] = {n: self._database(n, stores.CELL) for n in names}
        self.vault = Vault.at(plan.state_dir / "secret.key")
        added, self.absent = open_added(
            self.world, self.vault, self.cells, plan.settings.synchronous
        )
        for db in added.values():
            self._later(db.close)
        self.cells |= added
        # A simulated host never waits: more threads would only hand the interpreter's lock around.
        self.bus = plan.bus or MemoryBus(2 if plan.driver == "fake" else 4)
        self._later(self.bus.close)

    def _open_services(self) -> None:
        plan = self.plan
        self.http_socket = HttpServer(
            self._wsgi,
            plan.listen,
            plan.port,
            threads=plan.settings.api_threads,
            tls=plan.tls,
        )
        self._later(self.http_socket.stop)
        scheme = "https" if plan.tls else "http"
        self.url = (plan.public_url or f"{scheme}://{plan.listen}:{self.http_socket.port}").rstrip(
            "/"
        )
        self.identity = EmbeddedIdentity(
            self._database("identity"),
            plan.state_dir / "keys",
            plan.clock,
            catalog_of(self.url),
            plan.settings.token_life_s,
        )
        self.images = EmbeddedImages(self._database("image"), plan.state_dir / "images", plan.clock)
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

        self.volumes = EmbeddedVolumes(
            self._database("volume"),
            self.bus,
            self.images,
            plan.clock,
            rooms=self._rooms,
            nudge=lambda database, operation: self.engine.nudge(database, operation),
        )
        self.services.install(volumes=self.volumes, homes={"volume": self.volumes.db})

    def _rooms(self) -> list[HostRoom]:
        hosts = getattr(self, "hosts", None)
        return [] if hosts is None else [_room(h, up=hosts.is_up(h.host)) for h in hosts.all()]

    def _live_hosts(self) -> list[str]:
        hosts = getattr(self, "hosts", None)
        return [] if hosts is None else [h.host for h in hosts.all() if hosts.is_up(h.host)]

    def _open_control(self) -> None:
        plan, services = self.plan, self.services
        registry.load()
        lists = Lists(self.world, self.cells, render_unplaced, self.absent)
        self._later(lists.close)
        scheduling = Scheduling(services)
        services.install(lists=lists, scheduling=scheduling)
        self.hosts = Hosts(services)
        self._later(self.hosts.close)
        services.install(hosts=self.hosts)
        pin = VersionPin(services, "all")
        self._later(pin.close)
        pin.start()
        services.install(versions=pin)
        self.network.start()
        self._later(self.network.stop)
        volume_events.listen(services)
        self.volumes.start()
        self._later(self.volumes.stop)
        events = NetworkEvents(services)
        self._later(events.close)
        scheduling.start()
        self._later(scheduling.close)
        self.metrics = observability.Metrics(services)
        self.engine = Engine(
            services.homes(),
            self.bus,
            services,
            clock=plan.clock,
            workers=plan.settings.engine_threads,
            faults=plan.faults,
            observer=self.metrics.step,
            limits={"build": 10},
        )
        services.install(engine=self.engine)
        self.engine.start()
        self._later(self.engine.stop)
        reconcilers = Reconcilers(services)
        reconcilers.start()
        self._later(reconcilers.close)

    def _open_http(self) -> None:
        mounts: list[Service] = [
            observability.service(self.metrics),
            identity_api.service(self.identity),
            compute.service(self._policy()),
            image_api.service(self.images),
            network_api.service(self.network, self.url),
            volume_api.service(self.volumes),
            *optional_services(self.services),
        ]
        self.application = Application(
            mounts, self.services, self.identity.authenticate, self.url, self.metrics.request
        )
        self.http_socket.start()

    def _policy(self) -> dict[str, str]:
        name = self.plan.settings.policy_file
        if name is None:
            return {}
        import tomllib

        rules = tomllib.loads(Path(name).read_text())
        return {str(k): str(v) for k, v in rules.items()}

    def _wsgi(self, environ: Any, start_response: Any) -> Any:
        return self.application.wsgi(environ, start_response)

    def _open_hosts(self) -> None:
        if self.plan.driver == "fake":
            from kilonova.server.simulated import FakeHosts

            self.fleet: Any = FakeHosts(self.plan, self.bus, self.images, self.plan.clock)
        else:
            from kilonova.server.real_host import RealHosts

            self.fleet = RealHosts(self.plan, self.bus, self.images, self.plan.clock)
        self._later(self.fleet.close)
        self.fleet.start()
        self._later(self._start_consoles())

    def _start_consoles(self) -> Any:
        from kilonova.server import console_role

        return console_role.start(self.plan, self.services, self.fleet.driver_of)

    def stop(self) -> None:
        """Stop in the reverse order of starting; safe to repeat."""
        while self._closers:
            closer = self._closers.pop()
            try:
                closer()
            except Exception:
                log.exception("a part did not close")
        self._stopped.set()


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


def optional_services(services: Services) -> list[Service]:
    """Return the APIs beside the big four: placement and our own."""
    from kilonova.api import placement
    from kilonova.api.operations import service as operations

    return [placement.service(), operations.service()]
