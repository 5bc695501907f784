"""The host agent: orders done once, stale ones refused, nothing destroyed by guess, news told."""

import random
from collections.abc import Iterator

import pytest

from kilonova.agent.journal import Journal
from kilonova.objects import guest as g
from kilonova.objects import query as q
from kilonova.objects.base import encode
from kilonova.objects.host import GuestEvent, GuestList, Heartbeat, HostAsk, OwnedServer
from kilonova.objects.order import AnswerState, Direction, OperationEnded, unpack
from kilonova.virt.driver import GuestMissing
from kilonova.virt.fake.world import World
from tests.unit.agent_kit import Cloud, build_of, eventually, order_of, undo_of

DONE, FAILED, REFUSED = AnswerState.DONE, AnswerState.FAILED, AnswerState.REFUSED


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.close()


def test_build_power_delete(cloud: Cloud) -> None:
    """A guest's life by orders; the ledger is empty at its end."""
    cloud.agent()
    build = build_of()
    answer = cloud.conductor.perform(order_of(build))
    assert answer.state == DONE
    built = unpack(answer.body, g.GuestBuilt)
    assert built.power_state == g.PowerState.RUNNING
    assert built.hardware.machine is not None
    assert cloud.world.ledger()
    actions = [
        (g.PowerAction.PAUSE, g.PowerState.PAUSED),
        (g.PowerAction.UNPAUSE, g.PowerState.RUNNING),
        (g.PowerAction.SUSPEND, g.PowerState.SUSPENDED),
        (g.PowerAction.RESUME, g.PowerState.RUNNING),
        (g.PowerAction.REBOOT_SOFT, g.PowerState.RUNNING),
        (g.PowerAction.STOP, g.PowerState.SHUTDOWN),
        (g.PowerAction.START, g.PowerState.RUNNING),
        (g.PowerAction.REBOOT_HARD, g.PowerState.RUNNING),
    ]
    for epoch, (action, state) in enumerate(actions, start=2):
        power = g.GuestPower(server_id=build.server_id, action=action, build=build)
        answer = cloud.conductor.perform(order_of(power, "guest_power", epoch=epoch))
        assert unpack(answer.body, g.GuestState).power_state == state
    gone = g.GuestDelete(server_id=build.server_id)
    for epoch, existed in ((20, True), (21, False)):
        answer = cloud.conductor.perform(order_of(gone, "guest_delete", epoch=epoch))
        assert unpack(answer.body, g.GuestGone).existed is existed
    assert cloud.world.ledger() == []


def test_repeated_order_is_answered_and_done_once(cloud: Cloud) -> None:
    """R7"""
    cloud.agent()
    order = order_of(build_of())
    cloud.conductor.perform(order)
    again = cloud.conductor.perform(order.replace(seq=2))
    assert again.state == DONE
    assert cloud.world.find(order.server_id)[1].boots == 1


def test_running_order_is_joined(cloud: Cloud) -> None:
    """R7: a resend while it runs is answered RUNNING and the end carries the latest seq."""
    cloud.agent()
    cloud.world.faults.set("build_hang")
    order = order_of(build_of())
    cloud.conductor.send(order)
    eventually(lambda: cloud.world.faults.hits)
    cloud.conductor.send(order.replace(seq=2))
    cloud.conductor.until(
        lambda: any(a.state == AnswerState.RUNNING and a.seq == 2 for a in cloud.conductor.answers)
    )
    cloud.world.faults.clear()
    assert cloud.conductor.final(order.replace(seq=2)).state == DONE


def test_undo_aborts_what_hangs_and_a_late_do_is_refused(cloud: Cloud) -> None:
    """R7: the tombstone of an undo."""
    cloud.agent()
    order = order_of(build_of(faults=("build_hang",)))
    cloud.conductor.send(order)
    eventually(lambda: cloud.world.faults.hits)
    assert cloud.conductor.perform(undo_of(order, 2)).state == DONE
    assert cloud.world.ledger() == []
    assert cloud.conductor.perform(order.replace(seq=1)).state in (REFUSED, FAILED)
    cloud.conductor.send(order)
    cloud.conductor.until(lambda: any(a.state == REFUSED for a in cloud.conductor.answers))
    assert cloud.world.ledger() == []


def test_do_after_undo_that_came_first_is_refused(cloud: Cloud) -> None:
    """R7"""
    cloud.agent()
    order = order_of(build_of())
    assert cloud.conductor.perform(undo_of(order, 2)).state == DONE
    assert cloud.conductor.perform(order).state == REFUSED
    assert cloud.world.ledger() == []


def test_do_again_after_its_undo(cloud: Cloud) -> None:
    """A saga that went back and comes to the same host again builds anew."""
    cloud.agent()
    order = order_of(build_of())
    cloud.conductor.perform(order)
    cloud.conductor.perform(undo_of(order, 2))
    assert cloud.conductor.perform(order.replace(seq=3)).state == DONE
    assert cloud.world.find(order.server_id)[1].boots == 1


def test_lower_epoch_and_ended_operation_are_refused(cloud: Cloud) -> None:
    """B2 (9)"""
    cloud.agent()
    build = build_of()
    first = order_of(build, epoch=3)
    cloud.conductor.perform(first)
    gone = order_of(g.GuestDelete(server_id=build.server_id), "guest_delete", epoch=4)
    cloud.conductor.perform(gone)
    assert cloud.conductor.perform(first.replace(seq=9)).state == REFUSED
    ended = OperationEnded(
        host="host1", operation=gone.operation, server_id=build.server_id, epoch=4
    )
    cloud.bus.publish("agent.host1.state", encode(ended))
    cloud.bus.drain()  # type: ignore[attr-defined]
    assert cloud.conductor.perform(order_of(build, epoch=4)).state == REFUSED
    assert cloud.world.ledger() == []
    assert cloud.conductor.perform(gone.replace(seq=2)).state == DONE  # a cleanup record's order


def test_failures_are_told_with_whether_another_host_may_do_better(cloud: Cloud) -> None:
    cloud.agent()
    cloud.agent("host2")
    build = build_of(faults=("build_elsewhere",))
    order = order_of(build)
    answer = cloud.conductor.perform(order)
    assert (answer.state, answer.elsewhere) == (FAILED, True)
    assert [x.kind for x in cloud.world.ledger()] == ["disk"]  # what an undo is for
    assert cloud.conductor.perform(undo_of(order, 2)).state == DONE
    other = order.replace(host="host2", seq=3)
    assert cloud.conductor.perform(other).state == DONE
    answer = cloud.conductor.perform(order_of(build_of(faults=("build_fail",))))
    assert (answer.state, answer.elsewhere) == (FAILED, False)
    assert cloud.world.faults.hits == {"build_elsewhere": 1, "build_fail": 1}


def test_unknown_verb_and_foreign_host_and_noise(cloud: Cloud) -> None:
    cloud.agent()
    order = order_of(build_of(), "guest_paint")
    answer = cloud.conductor.perform(order)
    assert answer.state == FAILED
    assert "guest_paint" in (answer.message or "")
    cloud.bus.publish("agent.host1.order", b"noise")
    cloud.bus.publish("agent.host1.order", encode(order.replace(host="host9", seq=5)))
    assert cloud.conductor.perform(order_of(build_of())).state == DONE


def test_order_and_payload_of_two_servers_fail(cloud: Cloud) -> None:
    cloud.agent()
    order = order_of(build_of()).replace(server_id="11111111-1111-4111-8111-111111111111")
    assert cloud.conductor.perform(order).state == FAILED
    assert cloud.world.ledger() == []


def test_guest_starts_only_when_its_port_is_in_force(cloud: Cloud) -> None:
    """DESIGN 9: unpaused only when the port's generation is applied."""
    cloud.agent()
    build = build_of()
    cloud.ports.closed.add(build.nics[0].port_id)
    order = order_of(build)
    cloud.conductor.send(order)
    eventually(lambda: len(cloud.ports.asked) >= 3)  # it looks again and again
    assert cloud.world.find(build.server_id)[1].power == g.PowerState.SHUTDOWN
    cloud.ports.closed.clear()
    assert cloud.conductor.final(order).state == DONE
    assert cloud.world.find(build.server_id)[1].power == g.PowerState.RUNNING


def test_port_that_never_comes_fails_the_build(cloud: Cloud) -> None:
    cloud.agent()
    build = build_of().replace(vif_timeout_s=0.1)
    cloud.ports.closed.add(build.nics[0].port_id)
    answer = cloud.conductor.perform(order_of(build))
    assert (answer.state, answer.elsewhere) == (FAILED, True)


def test_taps_come_with_the_guest_and_go_with_it(cloud: Cloud) -> None:
    cloud.agent()
    build = build_of(nics=2)
    cloud.ports.refused.add(build.nics[1].port_id)
    order = order_of(build)
    answer = cloud.conductor.perform(order)
    assert (answer.state, answer.elsewhere) == (FAILED, True)
    assert cloud.ports.plugged == set()
    cloud.ports.refused.clear()
    cloud.conductor.perform(order.replace(seq=2))
    assert cloud.ports.plugged == {n.port_id for n in build.nics}
    cloud.conductor.perform(undo_of(order, 3))
    assert cloud.ports.plugged == set()
    assert cloud.world.ledger() == []


def test_a_nic_is_plugged_into_a_guest_and_taken_out(cloud: Cloud) -> None:
    """By orders: only when its port is in force, its tap with it; each direction undone by the other."""
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    nic = g.TapNic(port_id="second", network_id="n", mac="fa:16:3e:00:00:02", mtu=1450)
    attach = g.GuestAttachNic(server_id=build.server_id, nic=nic)
    detach = g.GuestDetachNic(server_id=build.server_id, port_id="second", mac=nic.mac)
    cloud.ports.closed.add("second")
    order = order_of(attach, "guest_attach_nic", epoch=2)
    cloud.conductor.send(order)
    eventually(lambda: "second" in cloud.ports.asked)
    assert "second" not in cloud.ports.plugged
    cloud.ports.closed.clear()
    answer = cloud.conductor.final(order)
    assert unpack(answer.body, g.NicAttached).device.mac == nic.mac
    assert "second" in cloud.ports.plugged
    undo = order_of(detach, "guest_attach_nic", epoch=2).replace(
        operation=order.operation, direction=Direction.UNDO, seq=9
    )
    assert unpack(cloud.conductor.perform(undo).body, g.NicDetached).existed
    assert "second" not in cloud.ports.plugged
    cloud.world.faults.set("attach_nic_fail", times=1)
    failed = cloud.conductor.perform(order_of(attach, "guest_attach_nic", epoch=3))
    assert failed.state == FAILED
    assert "second" not in cloud.ports.plugged
    gone = order_of(detach, "guest_detach_nic", epoch=4)
    assert not unpack(cloud.conductor.perform(gone).body, g.NicDetached).existed
    back = order_of(attach, "guest_detach_nic", epoch=4).replace(
        operation=gone.operation, direction=Direction.UNDO, seq=9
    )
    assert unpack(cloud.conductor.perform(back).body, g.NicAttached).device.mac == nic.mac
    assert len(cloud.world.find(build.server_id)[1].nics) == len(build.nics) + 1


def test_deadline_ends_what_hangs(cloud: Cloud) -> None:
    cloud.agent()
    answer = cloud.conductor.perform(order_of(build_of(faults=("build_hang",)), deadline_s=0.1))
    assert answer.state == FAILED
    assert cloud.world.faults.hits["build_hang"] >= 1


def test_hypervisor_that_comes_back_is_waited_for(cloud: Cloud) -> None:
    """An order is not failed by a restart of libvirtd; nor is a registration."""
    cloud.world.faults.set("hypervisor_down", times=3)
    cloud.agent()
    assert cloud.world.faults.hits["hypervisor_down"] == 3
    cloud.world.faults.set("hypervisor_down", times=2)
    assert cloud.conductor.perform(order_of(build_of())).state == DONE
    assert cloud.world.faults.hits["hypervisor_down"] == 5


def test_guest_that_changes_by_itself_is_reported(cloud: Cloud) -> None:
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    cloud.world.shut_down_by_itself(build.server_id)
    cloud.conductor.until(lambda: cloud.conductor.heard(GuestEvent))
    event = cloud.conductor.heard(GuestEvent)[0]
    assert (event.server_id, event.power_state) == (build.server_id, g.PowerState.SHUTDOWN)


def test_heartbeat_sends_the_list_only_when_it_changed(cloud: Cloud) -> None:
    agent = cloud.agent(heartbeat_s=0.01)
    heard = cloud.conductor.heard
    cloud.conductor.until(lambda: len(heard(Heartbeat)) >= 5)
    assert len(heard(GuestList)) == 1
    cloud.conductor.perform(order_of(build_of()))
    cloud.conductor.until(lambda: len(heard(GuestList)) == 2)
    agent.pulse.stopped = True
    cloud.bus.publish("agent.host1.state", encode(HostAsk(host="host1", what="guests")))
    cloud.conductor.until(lambda: len(heard(GuestList)) == 3)
    assert heard(GuestList)[-1].guests[0][1:] == (g.PowerState.RUNNING, True)


def test_a_host_that_is_asked_beats_at_once() -> None:
    """A conductor that was away hears every host within seconds, not within the time between two beats."""
    cloud = Cloud()
    agent = cloud.agent()

    def beats() -> int:
        return sum(isinstance(b, Heartbeat) for b in cloud.conductor.reports)

    cloud.conductor.until(lambda: beats() == 1)
    agent.pulse._interval_s = 3600.0
    cloud.bus.publish("agent.host1.state", encode(HostAsk(host="host1", what="heartbeat")))
    cloud.conductor.until(lambda: beats() == 2)
    cloud.close()


def test_same_boot_adopts_and_new_boot_starts_what_should_run() -> None:
    world, journal = World(), Journal()
    cloud = Cloud(world)
    agent = cloud.agent(journal=journal)
    runs, stopped, owned_by_operation = build_of(), build_of(), build_of()
    for build in (runs, stopped, owned_by_operation):
        cloud.conductor.perform(order_of(build))
    stop = g.GuestPower(server_id=stopped.server_id, action=g.PowerAction.STOP)
    cloud.conductor.perform(order_of(stop, "guest_power", epoch=2))
    agent.close()
    world.reboot("host1")
    cloud.conductor.owned = (
        OwnedServer(server_id=runs.server_id, epoch=1, wanted_power=g.PowerState.RUNNING),
        OwnedServer(server_id=stopped.server_id, epoch=2, wanted_power=g.PowerState.SHUTDOWN),
        OwnedServer(
            server_id=owned_by_operation.server_id,
            epoch=1,
            wanted_power=g.PowerState.RUNNING,
            busy=True,
        ),
    )
    cloud.agent(journal=journal)  # the same boot: adopts what it finds
    cloud.bus.drain()  # type: ignore[attr-defined]
    assert set(world.driver("host1").guests().values()) == {int(g.PowerState.SHUTDOWN)}
    cloud.agents[-1].close()
    agent = cloud.agent(journal=journal, boot="boot2")
    order = order_of(  # stands behind the start in the guest's line
        g.GuestPower(server_id=runs.server_id, action=g.PowerAction.PAUSE), "guest_power", epoch=5
    )
    assert cloud.conductor.perform(order).state == DONE
    states = world.driver("host1").guests()
    assert states[runs.server_id] == g.PowerState.PAUSED
    assert states[stopped.server_id] == g.PowerState.SHUTDOWN
    assert states[owned_by_operation.server_id] == g.PowerState.SHUTDOWN
    assert journal.boot_id == "boot2"
    cloud.close()


def test_start_after_boot_waits_for_ports_and_gives_way_to_orders() -> None:
    """R2: no list says that guests are off while they are being started; a delete is not kept waiting."""
    world, journal = World(), Journal()
    cloud = Cloud(world)
    agent = cloud.agent(journal=journal)
    waits, goes = build_of(), build_of()
    for build in (waits, goes):
        cloud.conductor.perform(order_of(build))
    agent.close()
    world.reboot("host1")
    cloud.conductor.owned = tuple(
        OwnedServer(server_id=b.server_id, epoch=1, wanted_power=g.PowerState.RUNNING)
        for b in (waits, goes)
    )
    cloud.ports.closed |= {b.nics[0].port_id for b in (waits, goes)}
    cloud.conductor.reports.clear()
    cloud.agent(journal=journal, boot="boot2", heartbeat_s=0.02)
    heard = cloud.conductor.heard
    cloud.conductor.until(lambda: len(heard(Heartbeat)) >= 3)
    assert heard(GuestList) == []
    gone = order_of(g.GuestDelete(server_id=goes.server_id), "guest_delete", epoch=2)
    assert cloud.conductor.perform(gone).state == DONE
    cloud.ports.closed.clear()
    cloud.conductor.until(lambda: heard(GuestList))
    assert heard(GuestList)[0].guests == ((waits.server_id, g.PowerState.RUNNING, True),)
    eventually(lambda: journal.boot_id == "boot2")
    cloud.close()


def test_wrong_registration_destroys_and_starts_nothing(cloud: Cloud) -> None:
    """R14: a host whose state was wiped, or that the cell does not know, keeps all its guests."""
    cloud.agent()
    builds = [build_of() for _ in range(3)]
    for build in builds:
        cloud.conductor.perform(order_of(build))
    before = cloud.world.ledger()
    cloud.agents[-1].close()
    cloud.conductor.accepted = False
    cloud.agent(journal=Journal(), boot="another")
    answer = cloud.conductor.perform(order_of(build_of()))
    assert (answer.state, answer.elsewhere) == (FAILED, True)
    cloud.agents[-1].close()
    cloud.conductor.accepted = True  # knows the host, and owns none of its guests
    cloud.agent(journal=Journal(), boot="a third")
    assert cloud.conductor.perform(order_of(build_of(), epoch=1)).state == DONE
    assert [x for x in cloud.world.ledger() if x in before] == before


def test_queries(cloud: Cloud) -> None:
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    ask = cloud.conductor.ask
    log = ask("host1", q.ConsoleLogQuery(server_id=build.server_id, lines=1))
    assert isinstance(log, q.ConsoleLog)
    assert log.text.startswith("GUEST READY")
    assert log.text.count("\n") == 1
    facts = ask("host1", q.DiagnosticsQuery(server_id=build.server_id))
    assert isinstance(facts, q.Diagnostics)
    assert b"num_cpus" in bytes(facts.facts)
    state = ask("host1", q.GuestStateQuery(server_id=build.server_id))
    assert state == q.GuestPresence(power_state=1)
    assert ask("host1", q.GuestsQuery()) == q.Guests(guests=((build.server_id, 1, True),))
    can = ask("host1", q.CapabilitiesQuery())
    assert isinstance(can, q.Capabilities)
    assert set(can.verbs) >= {"guest_build", "guest_delete", "guest_power", "guest_attach_nic"}
    missing = ask("host1", q.ConsoleLogQuery(server_id="none"))
    assert isinstance(missing, q.QueryFailed)
    assert missing.code == GuestMissing.code


@pytest.mark.parametrize("seed", range(3))
def test_doubled_and_reordered_orders_leave_what_the_undisturbed_run_leaves(seed: int) -> None:
    """R7: each order comes 1-3 times in random order; an operation's last word holds."""
    rnd = random.Random(seed)
    cloud = Cloud()
    cloud.agent()
    sends, last, stays = [], [], set()
    for n in range(60):
        build = build_of()
        do = order_of(build)
        orders = [do]
        if n % 3 == 0:
            orders.append(undo_of(do, 2))
        else:
            stays.add(build.server_id)
        if n % 3 == 1:
            gone = g.GuestDelete(server_id=build.server_id)
            orders.append(order_of(gone, "guest_delete", epoch=2))
            stays.discard(build.server_id)
        last.append(orders[-1])
        for order in orders:
            sends += [order] * rnd.randint(1, 3)
    rnd.shuffle(sends)
    for order in sends:
        cloud.conductor.send(order)
    for order in last:
        assert cloud.conductor.final(order).state == DONE
    for order in sends:
        cloud.conductor.final(order)
    assert {x.server for x in cloud.world.ledger()} == stays
    assert all(cloud.world.find(s)[1].boots == 1 for s in stays)
    cloud.close()


def test_world_with_a_file_survives_its_process(tmp_path) -> None:
    path = tmp_path / "guests.sqlite"
    world = World(path)
    cloud = Cloud(world)
    cloud.agent()
    build = build_of()
    cloud.conductor.perform(order_of(build))
    cloud.close()
    before = world.ledger()
    world.close()
    world = World(path)
    assert world.ledger() == before
    assert world.driver("host1").guests() == {build.server_id: 1}
    world.close()
