"""A cloud for the fault tests of servers: real databases, the embedded network, simulated hosts; one thread, one clock.

Everything is the real thing but time and threads. A world is copied from a template (made once per kind of beginning),
so that each case has fresh state for a few milliseconds.
"""

import dataclasses
import functools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import sqlalchemy as sa

from kilonova.agent.core import Agent, Identity
from kilonova.agent.guests import NoMetadata
from kilonova.agent.journal import Journal
from kilonova.agent.network.fake import FakeHostNetwork
from kilonova.agent.uploads import HostFiles, ImageSender
from kilonova.agent.workers import Workers
from kilonova.common.clock import ManualClock
from kilonova.common.config import Settings
from kilonova.common.context import Context
from kilonova.common.ids import new_uuid
from kilonova.common.secret import Secret
from kilonova.db import flavors
from kilonova.db.engine import Tx
from kilonova.db.secrets import Vault
from kilonova.db.versions import ensure
from kilonova.image.embedded.store import EmbeddedImages
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.schema import network as network_table
from kilonova.network.embedded.seed import seed
from kilonova.network.embedded.store import ports as port_store
from kilonova.objects.host import Inventory
from kilonova.objects.image import Image
from kilonova.objects.port import NicPlan, RequestedNic
from kilonova.objects.server import DiskRequest, FlavorRecord, ImageRecord, RequestedServer
from kilonova.operations import (
    accept,
    confirm_resize,
    interface_attach,
    interface_detach,
    live_migrate,
    power,
    registry,
    revert_resize,
    server_clear_password,
    server_crash_dump,
    server_create,
    server_delete,
    server_disks,
    server_evacuate,
    server_migrate,
    server_password,
    server_rebuild,
    server_rescue,
    server_resize,
    server_shelve,
    server_shelve_offload,
    server_unrescue,
    server_unshelve,
    snapshots,
    stores,
    volume_attach,
    volume_detach,
)
from kilonova.operations.hosts import Hosts
from kilonova.operations.scheduling import Scheduling
from kilonova.operations.services import CELL0, Services
from kilonova.reconcile import cleanups
from kilonova.saga import definition, journal
from kilonova.saga.definition import Saga
from kilonova.saga.engine import Engine
from kilonova.saga.faults import Faults
from kilonova.saga.leases import LeaseOwner
from kilonova.virt.fake.world import SPEC, World
from kilonova.volume.embedded.creating import NewVolume
from kilonova.volume.embedded.placing import HostRoom
from kilonova.volume.embedded.volumes import EmbeddedVolumes
from tests import databases, places
from tests.ledger import Ledger, ledger
from tests.operations.single import SingleBus

registry.load()
PROJECT = "p" * 32
USER = "u" * 32
CONTEXT = Context(
    request_id="req-00000000-0000-0000-0000-000000000001",
    user_id=USER,
    project_id=PROJECT,
    roles=("member", "reader"),
)
BOOT = "00000000-0000-4000-8000-00000000b007"
SETUP = {  # operations that bring a new server into the state that an operation starts from
    "server_create": (),
    "server_delete": (),
    "server_start": ("server_stop",),
    "server_stop": (),
    "server_reboot_soft": (),
    "server_reboot_hard": (),
    "server_pause": (),
    "server_unpause": ("server_pause",),
    "server_suspend": (),
    "server_resume": ("server_suspend",),
    "volume_attach": (),
    "volume_detach": ("volume_attach",),
    "volume_swap": ("volume_attach",),
    "server_snapshot": (),
    "server_backup": ("server_backup", "server_backup"),
    "server_snapshot_volumes": (),
    "server_resize": (),
    "confirm_resize": ("server_resize",),
    "revert_resize": ("server_resize",),
    "server_migrate": (),
    "confirm_move": ("server_migrate",),
    "revert_move": ("server_migrate",),
    "interface_attach": (),
    "interface_detach": ("interface_attach",),
    "server_soft_delete": (),
    "server_restore": ("server_soft_delete",),
    "server_password": (),
    "server_clear_password": (),
    "server_crash_dump": (),
    "server_shelve": (),
    "server_shelve_offload": ("shelve_kept",),
    "server_unshelve": ("server_shelve",),
    "server_rebuild": (),
    "server_rescue": (),
    "server_unrescue": ("server_rescue",),
    "server_evacuate": (),
    "live_migrate": (),
}
Start = Callable[["ServerWorld", accept.Found], str]


def _image(kind: str, **more: Any) -> Start:
    """Return what accepts an operation that makes an image; it returns the operation's id."""

    def start(world: "ServerWorld", found: accept.Found) -> str:
        saga = saga_of(kind)
        snapshots.start(world.services, CONTEXT, saga, found, "copy", {"k": "v"}, **more)
        return world.latest(kind)

    return start


BIGGER = FlavorRecord(flavorid="2", name="m1.bigger", vcpus=2, memory_mib=1024, root_gib=2)


def _resize(world: "ServerWorld", found: accept.Found) -> str:
    def put(tx: Tx) -> None:
        if flavors.find(tx, BIGGER.flavorid) is None:
            flavors.add(tx, BIGGER, 0.0)

    world.services.world.write(put)
    return server_resize.start(world.services, CONTEXT, found, BIGGER.flavorid)


def _attach(world: "ServerWorld", found: accept.Found) -> str:
    """Attach a NIC; of the user's own port, when the shape says so."""
    made = msgspec.json.decode((world.path / "network.json").read_bytes())
    nic = RequestedNic(network_id=made["network"], tag="late")
    if world.shape.attach_user_port:
        nic = RequestedNic(port_id=made["port"], tag="late")
    interface_attach.start(world.services, CONTEXT, found, nic)
    return world.latest("interface_attach")


def _detach(world: "ServerWorld", found: accept.Found) -> str:
    """Detach the newest NIC."""
    nics = msgspec.json.decode(found.row["nics"]) if found.row is not None else []
    return interface_detach.start(world.services, CONTEXT, found, nics[-1]["port_id"])


def _attach_volume(world: "ServerWorld", found: accept.Found) -> str:
    wish = volume_attach.Wish(world.spare(), tag="data")
    volume_attach.start(world.services, CONTEXT, found, wish)
    return world.latest("volume_attach")


def _detach_volume(world: "ServerWorld", found: accept.Found) -> str:
    return volume_detach.start(world.services, CONTEXT, found, world.spare())


STARTS: dict[str, Start] = {  # how operations other than power actions are accepted
    "live_migrate": lambda w, found: live_migrate.start(w.services, CONTEXT, found),
    "server_evacuate": lambda w, found: server_evacuate.start(w.services, CONTEXT, found),
    "server_snapshot": _image("server_snapshot"),
    "server_backup": _image("server_backup", backup_type="daily", rotation=1),
    "server_snapshot_volumes": _image("server_snapshot_volumes"),
    "server_resize": _resize,
    "confirm_resize": lambda w, found: confirm_resize.start(w.services, CONTEXT, found),
    "revert_resize": lambda w, found: revert_resize.start(w.services, CONTEXT, found),
    "server_migrate": lambda w, found: server_migrate.start(w.services, CONTEXT, found),
    "resize_away": lambda w, found: w.resize_away(found),
    "confirm_move": lambda w, found: confirm_resize.start(w.services, CONTEXT, found),
    "revert_move": lambda w, found: revert_resize.start(w.services, CONTEXT, found),
    "interface_attach": _attach,
    "interface_detach": _detach,
    "server_password": lambda w, found: server_password.start(
        w.services, CONTEXT, found, "s3cret-2"
    ),
    "server_clear_password": lambda w, found: server_clear_password.start(
        w.services, CONTEXT, found
    ),
    "server_crash_dump": lambda w, found: server_crash_dump.start(w.services, CONTEXT, found),
    "server_shelve": lambda w, found: server_shelve.start(w.services, CONTEXT, found),
    "shelve_kept": lambda w, found: w.shelve_kept(found),
    "server_shelve_offload": lambda w, found: server_shelve_offload.start(
        w.services, CONTEXT, found
    ),
    "server_unshelve": lambda w, found: server_unshelve.start(w.services, CONTEXT, found),
    "server_rebuild": lambda w, found: w.rebuild(found, reimage=w.shape.boot),
    "server_rescue": lambda w, found: server_rescue.start(
        w.services, CONTEXT, found, w.image().id, "n3w"
    ),
    "server_unrescue": lambda w, found: server_unrescue.start(w.services, CONTEXT, found),
    "volume_attach": _attach_volume,
    "volume_detach": _detach_volume,
}
_templates: dict[tuple[Any, ...], Path] = {}
_shelf = tempfile.TemporaryDirectory(prefix=f"{places.PREFIX}templates-{os.getpid()}-")


def saga_of(kind: str) -> Saga:
    """Return the definition of an operation."""
    saga = definition.find(kind, 1)
    assert saga is not None
    return saga


@dataclass(frozen=True)
class Shape:
    """What kind of server. user_port: its first NIC is a port that the user made before.

    attach_user_port: so is the NIC that interface_attach gives it.
    """

    nics: int = 1
    user_port: bool = False
    attach_user_port: bool = False
    user_data: bool = True
    tags: int = 2
    faults: str = ""
    boot: bool = False  # its root disk is a volume that the create makes and the delete removes
    own: int = 0  # volumes of the user's that it is created with
    spare: int = 0  # volumes of the user's that nobody has

    @property
    def made(self) -> int:
        """How many volumes the create makes."""
        return 1 if self.boot else 0


ONE = Shape()
PLAIN = Settings()


class Posted(NoMetadata):
    """A host's metadata that keeps what guests posted as their passwords, and nothing else."""

    def __init__(self) -> None:
        self.passwords: dict[str, str] = {}

    def remove(self, server_id: str) -> None:
        """Forget it."""
        self.passwords.pop(server_id, None)

    def password(self, server_id: str) -> str:
        """Return it."""
        return self.passwords.get(server_id, "")

    def set_password(self, server_id: str, password: str) -> bool:
        """Keep the first."""
        return self.passwords.setdefault(server_id, password) == password

    def clear_password(self, server_id: str) -> None:
        """Forget it."""
        self.passwords.pop(server_id, None)


class ServerWorld:
    """One case's cloud. ``kind``: the operation that ``begin`` accepts."""

    pick = -1
    shared = False  # whether its engines own operations by lease
    cells: tuple[str, ...] = ("cell1",)
    specs: tuple[tuple[str, str], ...] = ()  # extra specs of the server's flavor
    spec: Inventory = SPEC  # what each host has
    options: Settings = PLAIN
    shape: "Shape"

    def __init__(
        self,
        path: Path,
        kind: str = "server_create",
        shape: Shape = ONE,
        *,
        hosts: int = 2,
        disturbed: int | None = None,
        setup: tuple[str, ...] | None = None,
    ) -> None:
        self.kind, self.shape = kind, shape
        made_by = SETUP[kind] if setup is None else setup
        placed = kind != "server_create"
        template = _template(shape, hosts, made_by if placed else None, type(self))
        shutil.copytree(template, path, dirs_exist_ok=True)
        self._open(path, hosts, disturbed)
        self.server = (path / "server").read_text() if placed else ""
        self.before: Ledger = self.ledger()

    def _open(self, path: Path, hosts: int, disturbed: int | None = None) -> None:
        self.path = path
        self.clock = ManualClock()
        self.bus = SingleBus(self.clock, disturbed)
        self.databases = {
            n: databases.at(path / f"{n}.db", n) for n in ("global", CELL0, *self.cells)
        }
        self.network = EmbeddedNetwork(
            databases.at(path / "network.db", "network"), self.bus, self.clock, batch_s=0.0
        )
        self.images = EmbeddedImages(
            databases.at(path / "image.db", "image"), path / "images", self.clock
        )
        self.volumes = EmbeddedVolumes(
            databases.at(path / "volume.db", "volume"),
            self.bus,
            self.images,
            self.clock,
            rooms=self._rooms,
            nudge=lambda database, operation: self.engines[-1].nudge(database, operation),
        )
        self.services: Services = Services(
            world=self.databases["global"],
            cells={n: db for n, db in self.databases.items() if n != "global"},
            bus=self.bus,
            vault=Vault(b"k" * 32),
            images=self.images,
            network=self.network,
            identity=cast(Any, None),
            state_dir=path,
            public_url="http://127.0.0.1",
            clock=self.clock,
            simulated=True,
        )
        self._set(self.options)
        self.services.install(volumes=self.volumes, homes={"volume": self.volumes.db})
        self.guests = World(path / "guests.db", spec=self.spec)
        self.engines: list[Engine] = []
        self._restart_conductor()
        self.services.install(hosts=(hosts_ := Hosts(self.services)))
        self.hosts = hosts_
        self.network.start()
        self.volumes.start(thread=False)
        self._cleanups = self.bus.subscribe(
            "answer.*.cleanup", functools.partial(cleanups.answered, self.services), "conductors"
        )
        self.taps: dict[str, FakeHostNetwork] = {}
        self.posted: dict[str, Posted] = {}
        self.agents = [
            self._agent(f"{cell}-host{k + 1}") for cell in self.cells for k in range(hosts)
        ]
        for agent in self.agents:
            agent.start()
            self.taps[agent.identity.host].resync()
        self.bus.pump()
        assert all(a.registered.is_set() for a in self.agents)
        self.services.scheduling.refresh(full=True)
        if disturbed is not None:
            self._last_resend = 0.0
            self.bus.chores.append(self._resend)

    def _agent(self, host: str, boot: str = BOOT) -> Agent:
        self.taps[host] = FakeHostNetwork(host, self.bus)
        for guest in self.guests.guests(host).values():  # the taps of a host outlive its agent
            ports = self.network.ports_of([guest.server]).get(guest.server, [])
            self.taps[host].plugged.update(p.port_id for p in ports if p.host == host)
        return Agent(
            Identity(host=host, host_id=f"fake-{host}", cell=host.partition("-")[0], boot_id=boot),
            self.guests.driver(host),
            self.taps[host],
            self.bus,
            Journal(self.path / f"agent-{host}.db", full=False),
            cast(Workers, self.bus.workers),
            volumes=self.guests.volumes(host),
            metadata=self.posted.setdefault(host, Posted()),
            clock=self.clock,
            files=HostFiles(self.path / "copies" / host, self._sender()),
        )

    def _sender(self) -> ImageSender:
        """Return what hosts send files with."""
        return ImageSender(self.images.upload)

    def _resend(self) -> int:
        """What the network's own thread does every 5 s."""
        if self.clock.monotonic() - self._last_resend < 5.0:
            return 0
        self._last_resend = self.clock.monotonic()
        self.network.publisher.resend()
        self.volumes.exports.resend()
        return 0

    def _rooms(self) -> list[HostRoom]:
        hosts = self.hosts.all()
        return [HostRoom(h.host, h.inventory.disk_gib, self.hosts.is_up(h.host)) for h in hosts]

    def _restart_conductor(self) -> None:
        """A process that starts anew knows nothing but what is in the databases."""
        scheduling = Scheduling(self.services, random.Random(1))
        self.services.install(scheduling=scheduling)
        if hasattr(self, "hosts"):
            for state in self.hosts.all():
                scheduling.host_changed(state.host)
            scheduling.refresh(full=True)

    # -- what harness.py asks for

    def engine(self, faults: Faults | None = None) -> Engine:
        """Return a conductor that has just started."""
        if self.engines:
            self._restart_conductor()
        homes = self.services.homes()
        ownership = LeaseOwner(self.clock) if self.shared else None
        engine = Engine(
            homes, self.bus, self.services, clock=self.clock, faults=faults, ownership=ownership
        )
        self.services.install(engine=engine)
        self.engines.append(engine)
        return engine

    def begin(self) -> tuple[str, str]:
        """Accept the operation."""
        return self.accept(self.kind)

    def accept(self, kind: str) -> tuple[str, str]:
        """Accept an operation on the server (or make it); return (home, id)."""
        if not self.engines:
            self.engine().open()
        if kind == "server_create":
            return self.create()
        found = accept.find_server(self.services, CONTEXT, self.server)
        home = str(found.mapping["cell"] or "global")
        if kind == "server_delete":
            return home, server_delete.start(self.services, CONTEXT, found)
        if kind in STARTS:
            return home, STARTS[kind](self, found)
        return home, power.start(self.services, CONTEXT, saga_of(kind), found)

    def create(self) -> tuple[str, str]:
        """Accept a create as POST /servers does."""
        self.server, operation, now = new_uuid(), new_uuid(), self.clock.now()
        vault, shape = self.services.vault, self.shape

        def put(tx: Tx) -> None:
            user_data = None
            if shape.user_data:
                user_data = vault.put(
                    tx, owner=self.server, kind="user_data", value=Secret("aGk="), now=now
                )
            password = vault.put(
                tx, owner=operation, kind="admin_password", value=Secret("s3cret"), now=now
            )
            requested = self._requested(now).replace(user_data=user_data, admin_password=password)
            server_create.prepare(tx, self.services, requested, CONTEXT, operation)

        self.services.world.write(put)
        return "global", operation

    def latest(self, kind: str) -> str:
        """Return the id of the operation of this kind that was accepted last in the server's cell."""
        live = self.databases["cell1"].read(lambda tx: journal.live_of(tx, self.server))
        newest = max((row for row in live if row["kind"] == kind), key=lambda row: row["epoch"])
        return str(newest["id"])

    def shelve_kept(self, found: Any) -> str:
        """Accept a shelve of a server that stays on its host; return the operation."""
        self._set(dataclasses.replace(self.options, shelved_offload_time_s=-1))
        operation = server_shelve.start(self.services, CONTEXT, found)
        self._set(self.options)
        return operation

    def resize_away(self, found: Any) -> str:
        """Accept a resize that takes a server to another host; return the operation."""
        self._set(dataclasses.replace(self.options, allow_resize_to_same_host=False))
        operation = _resize(self, found)
        self._set(self.options)
        return operation

    def _set(self, options: Settings) -> None:
        self.services.settings = {} if options is PLAIN else {"settings": options}

    def rebuild(self, found: Any, **asked: Any) -> str:
        """Accept a rebuild to another image, with a new name and new user data; return the operation."""
        wanted = server_rebuild.Rebuild(
            image_ref=self.image().id,
            admin_password="n3w",
            columns={"name": "anew", "metadata": {"k": "v"}},
            user_data="bmV3" if self.shape.user_data else None,
            **asked,
        )
        server_rebuild.start(self.services, CONTEXT, found, wanted)
        return self.latest("server_rebuild")

    def image(self, name: str = "other", **properties: str) -> Image:
        """Return an active image of this name, made when there is none."""
        for image in self.images.made_with(PROJECT, {"test": name}):
            return image
        wanted = Image(
            id=new_uuid(),
            name=name,
            status="queued",
            owner=PROJECT,
            disk_format="raw",
            container_format="bare",
            properties={"test": name, **properties},
        )
        return self.images.upload(self.images.create(wanted).id, [bytes(4096)])

    def _requested(self, now: float) -> RequestedServer:
        made = msgspec.json.decode((self.path / "network.json").read_bytes())
        nics = [
            NicPlan(network_id=made["network"], network_name="private")
            for _ in range(self.shape.nics)
        ]
        if self.shape.user_port:
            nics[0] = nics[0].replace(port_id=made["port"])
        faults = {"kilonova:fault": self.shape.faults} if self.shape.faults else {}
        return RequestedServer(
            server_id=self.server,
            project_id=PROJECT,
            user_id=USER,
            request_id=CONTEXT.request_id,
            name="web",
            hostname="web",
            flavor=FlavorRecord(
                flavorid="1",
                name="m1.tiny",
                vcpus=1,
                memory_mib=512,
                root_gib=1,
                extra_specs=dict(self.specs),
            ),
            image=ImageRecord(
                id=new_uuid(),
                name="tiny",
                disk_format="qcow2",
                size=1 << 20,
                properties={"hw_qemu_guest_agent": "yes"},
            ),
            metadata=faults,
            tags=tuple(f"t{k}" for k in range(self.shape.tags)),
            security_groups=((made["group"][0], made["group"][1]),),
            nics=tuple(nics),
            disks=self._disks(made["volumes"]),
            reservation_id="r-00000001",
            created_at=now,
        )

    def _disks(self, volumes: list[str]) -> tuple[DiskRequest, ...]:
        root = DiskRequest(source="image", size_gib=1, boot_index=0)
        if self.shape.boot:
            root = root.replace(source="blank", destination="volume")
            root = root.replace(delete_on_termination=True)
        swap = DiskRequest(source="blank", size_mib=64, guest_format="swap", name="swap")
        own = [
            DiskRequest(source="volume", destination="volume", volume_id=v, name=v)
            for v in volumes[: self.shape.own]
        ]
        return server_disks.named([root, swap, *own])

    def spare(self) -> str:
        """Return a volume of the user's that no server was created with; ``pick`` says which."""
        made = msgspec.json.decode((self.path / "network.json").read_bytes())
        return str(made["volumes"][self.pick])

    def ledger(self) -> Ledger:
        """Count everything."""
        self.settle()
        found = ledger(self.services, self.guests, self.agents)
        found["tap"] = sum(len(t.plugged) for t in self.taps.values())
        for ended in [
            k for k in found if k.startswith(("operation:volume_create", "operation:volume_delete"))
        ]:
            if not ended.endswith(":live"):
                del found[ended]
        found["copy"] = sum(1 for _ in (self.path / "copies").glob("*/*"))
        for host in self.taps:
            found["nic"] += sum(len(g.nics) for g in self.guests.guests(host).values())
        return +found

    def settle(self) -> None:
        """Let every message that is under way arrive."""
        for _ in range(10_000):
            if not self.bus.pump():
                return
        raise AssertionError("messages never end")

    def clean(self, state: str) -> Mapping[str, int]:
        """Return what the ledger must be when the operation ended in ``state``."""
        from tests.operations.server_ledger import expected

        power = None
        if self.kind not in ("server_create", "server_delete"):
            mine = [g for g in self.guests.everything() if g.server == self.server]
            power = mine[0].power if mine else None
        return expected(self.before, self.kind, state, self.shape, power)

    def close(self) -> None:
        """Let go of everything."""
        for engine in self.engines:
            engine.abandon()
        self.hosts.close()
        self.network.stop()
        self.volumes.stop()
        for agent in self.agents:
            agent.close()
        self.bus.close()
        self.guests.close()
        self.images.close()
        more = (self.network.database, self.images.db, self.volumes.db)
        for db in (*self.databases.values(), *more):
            db.close()

    # -- for tests that play with it

    def run(self, home: str, operation: str, faults: Faults | None = None) -> str:
        """Run an accepted operation to its end; return its state."""
        engine = self.engines[-1]
        engine.faults = faults
        engine.nudge(home, operation)
        engine.run_until_idle(limit=10_000)
        return engine.wait(home, operation, 0.0)

    def row(self) -> Any:
        """Return the server's row where its mapping points, or None."""
        return accept.find_server(self.services, CONTEXT, self.server).row

    def reboot(self, host: str) -> None:
        """Let a host go down and up again: its guests are off, its agent is of another boot."""
        back = self.fall_silent(host, boot=new_uuid())
        self.guests.reboot(host)
        back()

    def fall_silent(self, host: str, boot: str = BOOT) -> Callable[[], None]:
        """Let a host be down: it hears and says nothing, and is known to be. Returns what brings it back."""
        agent = next(a for a in self.agents if a.identity.host == host)
        agent.close()
        self.taps[host].close()
        self.hosts.set_service(host, forced_down=True)

        def back() -> None:
            self.agents.remove(agent)
            self.agents.append(self._agent(host, boot))
            self.agents[-1].start()
            self.taps[host].resync()
            self.hosts.set_service(host, forced_down=False)
            self.settle()

        return back


def _template(
    shape: Shape,
    hosts: int,
    setup: tuple[str, ...] | None,
    of: type[ServerWorld] = ServerWorld,
) -> Path:
    """Return a directory with a cloud in it, and a server that ``setup`` brought into its state (None: none)."""
    key = (of.cells, of.specs, shape, hosts, setup)
    if key not in _templates:
        path = Path(tempfile.mkdtemp(dir=_shelf.name)) / "t"
        if setup is None:
            path.mkdir()
            _new_cloud(of, path, hosts, shape.own + shape.spare)
        else:
            shutil.copytree(_template(shape, hosts, None, of), path)
            _new_server(of, path, shape, hosts, setup)
        _templates[key] = path
    return _templates[key]


def _new_cloud(of: type[ServerWorld], path: Path, hosts: int, volumes: int) -> None:
    for name in ("global", CELL0, *of.cells):
        db = databases.at(path / f"{name}.db", name)
        ensure(db, stores.WORLD if name == "global" else stores.CELL)
        db.close()
    world = of.__new__(of)
    world._open(path, hosts)
    seed(world.network, "a" * 32, PROJECT)
    network = world.network.database.read(
        lambda tx: tx.select(sa.select(network_table.c.id).where(network_table.c.name == "private"))
    )[0][0]
    port = world.network.write(
        lambda work: port_store.make(
            work, port_store.NewPort(project_id=PROJECT, network_id=network)
        )
    )
    group = world.network.resolve_groups(CONTEXT, PROJECT, ["default"])[0]
    world.image()
    made: dict[str, Any] = {"network": network, "port": port, "group": group, "volumes": []}
    world.engine().open()
    for _ in range(volumes):
        wanted = NewVolume(project_id=PROJECT, user_id=USER, size_gib=1)
        made["volumes"].append(world.volumes.create(CONTEXT, wanted)["id"])
    world.engines[-1].run_until_idle()
    world.engines[-1].stop()
    (path / "network.json").write_bytes(msgspec.json.encode(made))
    world.settle()
    world.close()


def _new_server(
    of: type[ServerWorld], path: Path, shape: Shape, hosts: int, setup: tuple[str, ...]
) -> None:
    world = of.__new__(of)
    world.kind, world.shape = "server_create", shape
    world._open(path, hosts)
    world.engine().open()
    for kind in ("server_create", *setup):
        home, operation = world.accept(kind)
        assert world.run(home, operation) == "done", kind
    world.engines[-1].stop()
    (path / "server").write_text(world.server)
    world.settle()
    world.close()


__all__ = ["CONTEXT", "ONE", "PROJECT", "SETUP", "ServerWorld", "Shape", "journal", "saga_of"]
