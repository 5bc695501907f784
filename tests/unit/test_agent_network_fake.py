"""The simulated network, and the pure parts of the real one: names, rules as text."""

import threading
import uuid
from pathlib import Path

import pytest

from kilonova.agent.helper import names, nft_rules, validate
from kilonova.agent.network.applier import FakeHostNetwork, HostNetwork, PlugFailed, PortNotReady
from kilonova.objects.netstate import Change, NetworkState, PortState, RuleState

NETWORK = str(uuid.UUID(int=1))


def port(generation: int = 1, **more: object) -> PortState:
    values: dict[str, object] = {
        "id": str(uuid.UUID(int=2)), "generation": generation, "network_id": NETWORK,
        "mac": "fa:16:3e:00:00:01", "addresses": (("10.0.0.5", str(uuid.UUID(int=3))),),
        "device_id": "d", "device_owner": "compute:nova",
    }  # fmt: skip
    return PortState(**(values | more))  # type: ignore[arg-type]


def test_fake_applies_waits_and_forgets() -> None:
    fake = FakeHostNetwork("h1")
    network: HostNetwork = fake
    p = port()
    with pytest.raises(PortNotReady):
        network.plug(p.id)
    assert network.wait_port(p.id, 0) is False
    waiting = threading.Thread(target=lambda: network.wait_port(p.id, 30, 2))
    waiting.start()
    network.apply(Change(host="h1", documents=(p,)))
    assert network.wait_port(p.id, 0)
    assert not network.wait_port(p.id, 0, 2)
    applied = network.apply(Change(host="h1", documents=(port(2),)))
    assert applied.items == (("port", p.id, 2, None),)
    waiting.join(30)
    assert not waiting.is_alive()
    assert network.apply(Change(host="h1", documents=(p,))).items[0][2] == 2, "older: dropped"
    assert network.plug(p.id) == network.tap_of(p.id) == names.tap(p.id)
    network.resync(Change(host="h1", documents=()))
    assert network.generations() == {}
    network.unplug(p.id)
    assert fake.plugged == set()


def test_fake_has_switches_that_prove_they_were_hit() -> None:
    fake, p = FakeHostNetwork("h1"), port()
    fake.faults.apply_error[p.id] = "no room"
    assert fake.apply(Change(host="h1", documents=(p,))).items == (("port", p.id, 1, "no room"),)
    assert not fake.wait_port(p.id, 0)
    fake.faults.apply_error.clear()
    fake.faults.refuse_plug.add(p.id)
    fake.apply(Change(host="h1", documents=(p,)))
    with pytest.raises(PlugFailed):
        fake.plug(p.id)
    assert fake.faults.hit == [f"apply_error:{p.id}", f"refuse_plug:{p.id}"]


def test_names_are_short_and_tagged(tmp_path: Path) -> None:
    tag = names.tag_of(tmp_path)
    id_ = str(uuid.uuid4())
    for link in (
        names.bridge(id_), names.tap(id_), names.dhcp_link(id_), names.router_link(id_),
        names.router_leg(id_), names.dhcp_dns_link(id_), names.public_bridge(tag), names.uplink(tag),
        names.dns_link(tag),
    ):  # fmt: skip
        assert len(link) <= 15
    assert names.is_ours(names.dhcp_ns(tag, id_), tag)
    assert not names.is_ours(names.machine_ns(tag), tag), "no network's: none of them ends it"
    assert names.tag_beside(tag, 1) == tag != names.tag_beside(tag, 2)
    assert not names.is_ours("kilonova-other", tag)
    assert not names.is_ours(f"kilonova-{tag}-x", tag)
    with pytest.raises(ValueError, match="not a UUID"):
        names.tap("../../etc")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (RuleState(direction="ingress", ethertype="IPv4"), "meta nfproto ipv4"),
        (
            RuleState(
                direction="ingress", ethertype="IPv4", protocol="tcp", port_min=22, port_max=22,
                remote_cidr="10.0.0.0/8",
            ),
            "meta nfproto ipv4 ip saddr 10.0.0.0/8 meta l4proto 6 th dport 22",
        ),
        (
            RuleState(direction="egress", ethertype="IPv6", protocol="udp", port_min=1, port_max=9),
            "meta nfproto ipv6 meta l4proto 17 th dport 1-9",
        ),
        (
            RuleState(direction="ingress", ethertype="IPv4", protocol="icmp", port_min=8, port_max=0),
            "meta nfproto ipv4 meta l4proto 1 icmp type 8 icmp code 0",
        ),
        (
            RuleState(direction="ingress", ethertype="IPv6", protocol="icmp"),
            "meta nfproto ipv6 meta l4proto 58",
        ),
        (
            RuleState(direction="ingress", ethertype="IPv4", protocol="112", remote_cidr="0.0.0.0/0"),
            "meta nfproto ipv4 meta l4proto 112",
        ),
    ],
)  # fmt: skip
def test_rules_become_matches(rule: RuleState, text: str) -> None:
    assert nft_rules.rule_match(rule) == text


def test_a_rule_of_the_wrong_family_is_refused() -> None:
    rule = RuleState(direction="ingress", ethertype="IPv6", remote_cidr="10.0.0.0/8")
    with pytest.raises(ValueError, match="not IPv6"):
        nft_rules.rule_match(rule)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mac", "FA:16:3E:00:00:01"),
        ("mac", "fa:16:3e:00:00:01\n"),
        ("id", "x; reboot"),
        ("addresses", (("10.0.0.5 }", str(uuid.UUID(int=3))),)),
        ("pairs", (("any", None),)),
        ("dhcp_options", (("a,b", "x"),)),
        ("dhcp_options", (("router", "x\ny"),)),
    ],
)
def test_bad_fields_are_refused_by_name(field: str, value: object) -> None:
    """S36"""
    with pytest.raises(validate.Refused, match=field):
        validate.check(port(**{field: value}))
    validate.check(port())
    validate.check(NetworkState(id=NETWORK, generation=1, segment=1, mtu=1450))
