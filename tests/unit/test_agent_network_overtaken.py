"""A full state taken before a change, and coming after it, must not remove what the change brought (R7)."""

from kilonova.agent.network.fake import FakeHostNetwork
from kilonova.bus.memory import MemoryBus
from kilonova.objects.base import decode, encode
from kilonova.objects.netstate import Change, GroupState, StateRequest


def group(id_: str) -> GroupState:
    return GroupState(id=id_, generation=1)


def test_an_overtaken_full_state_is_asked_for_again() -> None:
    bus = MemoryBus(workers=2)
    asked: list[int] = []

    def answer(subject: str, body: bytes) -> bytes:
        decode(body, StateRequest)
        asked.append(len(asked))
        if len(asked) == 1:  # read before change 2 was made
            return encode(Change(host="h", documents=(group("old"),), full=True, seq=1))
        return encode(Change(host="h", documents=(group("old"), group("new")), full=True, seq=2))

    bus.subscribe("network.state.h", answer)
    network = FakeHostNetwork("h", bus)
    network.apply(Change(host="h", documents=(group("new"),), seq=2))
    network.resync()
    assert len(asked) == 2
    assert set(network.generations()) == {("group", "old"), ("group", "new")}
    network.close()
    bus.close()
