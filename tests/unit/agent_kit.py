"""A conductor's side of the wire for the agent's tests: replies to registrations, sends orders, collects what comes."""

import threading
import time
from collections.abc import Callable

from kilonova.agent.core import Agent, Identity
from kilonova.agent.guests import MetadataStore
from kilonova.agent.journal import Journal
from kilonova.agent.network.interface import PlugFailed
from kilonova.agent.workers import Workers
from kilonova.bus.interface import Bus
from kilonova.bus.memory import MemoryBus
from kilonova.common.ids import new_uuid
from kilonova.objects import guest as g
from kilonova.objects import query as q
from kilonova.objects.base import Versioned, decode, encode
from kilonova.objects.host import HostRegister, OwnedServer, Registered, Report
from kilonova.objects.order import Answer, AnswerState, Direction, Order, pack
from kilonova.virt.fake.world import World
from kilonova.virt.volumes import VolumeStore
from kilonova.virt.whole import HostDriver

GUARD_S = 30.0


def eventually(condition: Callable[[], object]) -> None:
    """Look again and again until a condition holds."""
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


class Ports:
    """A host network whose ports are in force unless ``closed`` names them."""

    def __init__(self) -> None:
        self.closed: set[str] = set()
        self.refused: set[str] = set()
        self.plugged: set[str] = set()
        self.asked: list[str] = []

    def wait_port(self, port_id: str, timeout_s: float) -> bool:
        self.asked.append(port_id)
        return port_id not in self.closed

    def plug(self, port_id: str) -> str:
        if port_id in self.refused:
            raise PlugFailed("no bridge", port=port_id)
        self.plugged.add(port_id)
        return f"kn{port_id[:8]}"

    def unplug(self, port_id: str) -> None:
        self.plugged.discard(port_id)


class Conductor:
    """Hears everything of all hosts."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.owned: tuple[OwnedServer, ...] = ()
        self.accepted = True
        self.reports: list[Versioned] = []
        self.answers: list[Answer] = []
        self._news = threading.Condition()
        bus.subscribe("report.*", self._report)
        bus.subscribe("answer.*.*", self._answer)

    def _report(self, subject: str, body: bytes) -> bytes | None:
        report = decode(body, Report)
        with self._news:
            self.reports.append(report.body)
            self._news.notify_all()
        if isinstance(report.body, HostRegister):
            return encode(
                Registered(servers=self.owned, accepted=self.accepted, reason="not one of ours")
            )
        return None

    def _answer(self, subject: str, body: bytes) -> None:
        with self._news:
            self.answers.append(decode(body, Answer))
            self._news.notify_all()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition on what was heard."""
        with self._news:
            assert self._news.wait_for(condition, GUARD_S), "it never came"

    def heard(self, cls: type) -> list:
        return [r for r in self.reports if isinstance(r, cls)]

    def send(self, order: Order) -> None:
        self.bus.publish(f"agent.{order.host}.order", encode(order))

    def final(self, order: Order) -> Answer:
        """Wait for the answer of an order that is not RUNNING."""

        def ends() -> list[Answer]:
            return [
                a
                for a in self.answers
                if (a.operation, a.step, a.direction, a.seq)
                == (order.operation, order.step, order.direction, order.seq)
                and a.state != AnswerState.RUNNING
            ]

        self.until(ends)
        return ends()[0]

    def perform(self, order: Order) -> Answer:
        self.send(order)
        return self.final(order)

    def ask(self, host: str, what: Versioned) -> Versioned:
        body = encode(q.Query(host=host, body=what))
        return decode(self.bus.request(f"agent.{host}.query", body, GUARD_S), q.QueryReply).body


class Cloud:
    """A bus, a conductor, and agents on simulated hosts; close it at the end."""

    def __init__(self, world: World | None = None, bus: Bus | None = None) -> None:
        self.bus = bus or MemoryBus()
        self.workers = Workers(4)
        self.world = world or World()
        self.ports = Ports()
        self.conductor = Conductor(self.bus)
        self.agents: list[Agent] = []
        self.volumes: dict[str, VolumeStore] = {}  # of hosts whose volumes are not simulated

    def agent(
        self,
        host: str = "host1",
        *,
        boot: str = "boot1",
        journal: Journal | None = None,
        driver: HostDriver | None = None,
        metadata: MetadataStore | None = None,
        heartbeat_s: float = 60.0,
    ) -> Agent:
        agent = Agent(
            Identity(host, f"id-{host}", "cell1", boot),
            driver or self.world.driver(host),
            self.ports,
            self.bus,
            journal or Journal(),
            self.workers,
            metadata=metadata,
            volumes=self.volumes.get(host) or self.world.volumes(host),
            heartbeat_s=heartbeat_s,
        )
        self.agents.append(agent)
        agent.start()
        assert agent.registered.wait(GUARD_S)
        return agent

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
        self.workers.close()
        self.bus.close()


def build_of(
    server: str | None = None, *, faults: tuple[str, ...] = (), nics: int = 1, start: bool = True
) -> g.GuestBuild:
    """A small guest."""
    server = server or new_uuid()
    return g.GuestBuild(
        server_id=server,
        name="hello",
        project_id="p1",
        vcpus=1,
        memory_mib=128,
        disks=(g.LocalDisk(name="root", size_gib=1, boot_index=0),),
        nics=tuple(
            g.TapNic(
                port_id=new_uuid(), network_id="n1", mac=f"fa:16:3e:00:00:{n + 1:02x}", mtu=1450
            )
            for n in range(nics)
        ),
        images=(),
        hardware=g.Hardware(),
        metadata=g.MetadataDocument(
            server_id=server,
            generation=1,
            name="hello",
            hostname="hello",
            project_id="p1",
            availability_zone="nova",
        ),
        start=start,
        faults=faults,
    )


def order_of(
    payload: Versioned,
    verb: str = "guest_build",
    *,
    host: str = "host1",
    operation: str | None = None,
    step: str = "build",
    direction: Direction = Direction.DO,
    epoch: int = 1,
    fence: int = 1,
    seq: int = 1,
    deadline_s: float = 600.0,
) -> Order:
    """An order with this payload."""
    return Order(
        host=host,
        verb=verb,
        server_id=payload.server_id,  # type: ignore[attr-defined]
        epoch=epoch,
        operation=operation or new_uuid(),
        step=step,
        direction=direction,
        fence=fence,
        seq=seq,
        answer_to="cell1",
        deadline_s=deadline_s,
        body=pack(payload),
    )


def undo_of(order: Order, seq: int) -> Order:
    return order.replace(
        direction=Direction.UNDO, seq=seq, body=pack(g.GuestDelete(server_id=order.server_id))
    )
