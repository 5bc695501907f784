"""The sets of remote groups: they go with the last port that names them, and come with the first."""

from typing import Any

from kilonova.agent.network.applier import RealHostNetwork
from kilonova.agent.network.in_force import kind_of
from kilonova.bus.memory import MemoryBus
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import (
    Applied,
    Change,
    GroupState,
    PortState,
    RuleState,
    StateRequest,
)


class Helper:
    """A root helper that applies everything and remembers what it was asked."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def network_apply(self, change: Change) -> Applied:
        self.changes.append(change)
        items = [(kind_of(d), d.id, d.generation, None) for d in change.documents]
        return Applied(host=change.host, items=(*items, *((*r, None) for r in change.removed)))


def port(id_: str, group: str | None, generation: int = 1) -> PortState:
    rule = RuleState(direction="ingress", ethertype="IPv4", remote_group=group)
    return PortState(
        id=id_,
        generation=generation,
        network_id="n",
        mac="fa:16:3e:00:00:01",
        addresses=(),
        device_id="",
        device_owner="",
        rules=() if group is None else (rule,),
    )


def test_a_group_goes_with_the_last_port_that_names_it() -> None:
    helper: Any = Helper()
    network = RealHostNetwork(helper, "h")
    group = GroupState(id="g", generation=3)
    network.apply(Change(host="h", documents=(group, port("a", "g"), port("b", "g"))))
    network.apply(Change(host="h", removed=(("port", "a", 1),)))
    assert helper.changes[-1].removed == (("port", "a", 1),)
    network.apply(Change(host="h", documents=(port("b", None, 2),)))
    assert helper.changes[-1].removed == (("group", "g", 3),)
    assert set(network.generations()) == {("port", "b")}
    network.apply(Change(host="h", documents=(group, port("c", "g"))))
    network.apply(Change(host="h", documents=(port("b", None, 2),), full=True))
    assert ("group", "g") not in network.generations()


def test_a_port_whose_group_is_unknown_is_asked_for() -> None:
    """Nobody tells a host of a group before it has a port that names it."""
    helper: Any = Helper()
    bus = MemoryBus(workers=2)
    asked: list[str | None] = []

    def answer(subject: str, body: bytes) -> bytes:
        asked.append(decode(body, StateRequest).port_id)
        documents = (GroupState(id="g", generation=7), port("a", "g"))
        return encode(Change(host="h", documents=documents, seq=2))

    bus.subscribe("network.state.*", answer)
    network = RealHostNetwork(helper, "h", bus)
    network._on_state("agent.h.state", encode(Change(host="h", documents=(port("a", "g"),), seq=1)))
    assert asked == ["a"]
    assert network.generations()["group", "g"] == 7
    network._on_state("agent.h.state", encode(Change(host="h", documents=(port("a", "g"),), seq=3)))
    assert asked == ["a"]
    network.close()
    bus.close()
