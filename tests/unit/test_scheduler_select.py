"""Decisions: alternates, several at once, and what the tenant and the admin are told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.placement import claims
from kilonova.placement.candidates import Group
from kilonova.placement.inventories import Inventory
from kilonova.scheduler.select import NoValidHost, select, select_fresh
from tests.scheduling import NOW, Cloud, asks, stock


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.db.close()


def test_alternates_are_in_the_same_cell(cloud: Cloud) -> None:
    """CC-5.12"""
    for i in range(4):
        cloud.host(f"a{i}", cell="cell1", inventory=stock(memory=8192 + i))
    for i in range(4):
        cloud.host(f"b{i}", cell="cell2", inventory=stock(memory=8000 + i))
    one = select(cloud.view(), asks()).selections[0]
    assert one.chosen.host == "a3"
    assert [a.host for a in one.alternates] == ["a2", "a1"]
    one = select(cloud.view(), asks(), 1, 9).selections[0]
    assert [a.host for a in one.alternates] == ["a2", "a1", "a0"]


def test_a_decision_for_many_fills_hosts_and_no_more(cloud: Cloud) -> None:
    for h in "abc":
        cloud.host(h, inventory=stock(vcpus=2))
    view = cloud.view()
    d = select(view, asks(), 6, 0)
    assert d.complete
    assert sorted(s.chosen.host for s in d.selections) == ["a", "a", "b", "b", "c", "c"]
    d = select(view, asks(), 7, 0)
    assert len(d.selections) == 6
    assert not d.complete
    assert select(view, asks(2)).complete, "the view itself was not touched"


def test_the_text_of_the_brief(cloud: Cloud) -> None:
    cloud.host("h1", inventory=stock(memory=512))
    cloud.host("h2", inventory=stock(memory=256))
    cloud.host("h3", inventory=stock(memory=9999))
    cloud.aggregate(1, '{"availability_zone": "az1"}', "h1", "h2")
    cloud.aggregate(2, '{"availability_zone": "az2"}', "h3")
    d = select(cloud.view(), asks(memory=2048, availability_zone="az1"))
    text = d.explanation.tenant_text()
    assert text == (
        "No valid host was found. 3 hosts were looked at: "
        "2 have too little memory (2048 MiB needed, at most 512 MiB free), "
        "1 is in another availability zone. It would fit in another availability zone."
    )
    for name in ("h1", "h2", "h3"):
        assert name not in text
    assert d.explanation.table == {
        "h1": "Placement:MEMORY_MB",
        "h2": "Placement:MEMORY_MB",
        "h3": "AvailabilityZoneFilter",
    }


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (
            asks(9),
            "1 has too few vCPUs (9 needed, at most 8 free). A flavor with at most 8 vCPUs would fit.",
        ),
        (asks(disk=500), "1 has too little disk (500 GiB needed, at most 100 GiB free)."),
        (
            asks(9, 9000),
            "1 has too few vCPUs (9 needed, at most 8 free). "
            "A flavor with at most 8 vCPUs and at most 8192 MiB of memory would fit.",
        ),
        (asks(availability_zone="mars"), "It would fit in another availability zone."),
        (
            asks(only_host="other"),
            "1 is not the one that was asked for. It would fit without naming a host.",
        ),
        (asks(same_host=frozenset()), "It would fit without the hint same_host."),
        (asks(groups=(Group("1", {"VGPU": 1}),)), "1 cannot give one of the resource groups"),
    ],
)
def test_texts_name_the_number_and_the_smallest_change(
    cloud: Cloud, request_: object, wanted: str
) -> None:
    cloud.host("only-one")
    d = select(cloud.view(), request_)  # type: ignore[arg-type]
    assert not d.complete
    text = d.explanation.tenant_text()
    assert text.startswith("No valid host was found. 1 host was looked at: ")
    assert wanted in text
    assert "only-one" not in text
    with pytest.raises(NoValidHost) as refused:
        d.require()
    assert refused.value.message == text


def test_no_hosts_at_all(cloud: Cloud) -> None:
    d = select(cloud.view(), asks())
    assert d.explanation.tenant_text() == "No valid host was found. There are no hosts."


def test_json_for_tenants_has_no_host_names_and_for_admins_all(cloud: Cloud) -> None:
    cloud.host("secret-name")
    e = select(cloud.view(), asks(9)).explanation
    assert "secret-name" not in str(e.as_json())
    full = e.as_json(admin=True)
    assert full["nearest"] == {
        "host": "secret-name",
        "lacks": {"VCPU": {"needed": 9, "free": 8}},
        "filters": [],
    }
    assert full["table"] == {"secret-name": "Placement:VCPU"}
    assert {"name": "Placement:VCPU", "before": 1, "after": 0, "needed": 9, "most_free": 8} in full[
        "filters"
    ]


def test_a_success_keeps_what_each_filter_did(cloud: Cloud) -> None:
    cloud.host("a")
    cloud.host("b", up=False)
    e = select(cloud.view(), asks()).explanation
    assert [(d.filter, d.before, d.after) for d in e.dropped][:2] == [
        ("ComputeFilter", 2, 1),
        ("Placement:VCPU", 1, 1),
    ]


def test_no_host_is_said_only_after_a_fresh_look(cloud: Cloud) -> None:
    cloud.host("a", inventory=stock(vcpus=1))
    view = cloud.view()
    chosen = select(view, asks()).selections[0].chosen
    taken = cloud.db.write(
        lambda tx: claims.claim(
            tx, consumer="c", project="p", user="u", amounts=chosen.amounts, now=NOW
        )
    )
    view.applied(taken)
    cloud.db.write(
        lambda tx: claims.release(tx, "c", now=NOW)
    )  # by another process: nobody tells us
    assert not select(view, asks()).complete
    assert select_fresh(view, cloud.db, asks(), now=NOW).complete


def test_providers_that_do_not_go_together(cloud: Cloud) -> None:
    for i in range(3):
        cloud.host(f"h{i}")
        cloud.child(f"h{i}", f"h{i}-a", {"VGPU": Inventory(1)}, frozenset({"CUSTOM_A"}))
        cloud.child(f"h{i}", f"h{i}-b", {"VGPU": Inventory(1)}, frozenset({"CUSTOM_B"}))
    groups = tuple(Group(s, {"VGPU": 1}, (frozenset({"CUSTOM_A"}),)) for s in ("1", "2"))
    d = select(cloud.view(), asks(groups=groups, group_policy="none"))
    text = d.explanation.tenant_text()
    assert "3 have what is asked for, but not on resource providers that go together" in text


def test_a_nested_selection_says_what_to_claim_where(cloud: Cloud) -> None:
    host = cloud.host("h")
    card = cloud.child("h", "card", {"VGPU": Inventory(2)})
    d = select(cloud.view(), asks(groups=(Group("1", {"VGPU": 1}),)), 2, 0)
    chosen = d.selections[0].chosen
    assert chosen.amounts == {
        host: {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1},
        card: {"VGPU": 1},
    }
    assert chosen.generations.keys() == {host, card}
    assert d.complete
    assert not select(cloud.view(), asks(groups=(Group("1", {"VGPU": 1}),)), 3, 0).complete


def test_sharing_providers_give_disk(cloud: Cloud) -> None:
    inventory = stock()
    del inventory["DISK_GB"]
    host = cloud.host("h", inventory=inventory)
    cloud.host("alone", inventory=inventory)
    group = "11111111-1111-1111-1111-111111111111"
    pool = cloud.sharing("pool", {"DISK_GB": Inventory(100)}, group)
    cloud.join("h", group)
    d = select(cloud.view(), asks(), 1, 9)
    assert d.selections[0].chosen.amounts == {
        host: {"VCPU": 1, "MEMORY_MB": 512},
        pool: {"DISK_GB": 1},
    }
    assert d.selections[0].alternates == ()


def test_widening_beyond_the_first_64(cloud: Cloud) -> None:
    """A host that only an exact look finds is found even when a hundred better-looking ones are not."""
    for i in range(100):
        cloud.host(f"h{i}", inventory=stock(memory=16384))
        cloud.child(f"h{i}", f"h{i}-a", {"VGPU": Inventory(1)}, frozenset({"CUSTOM_A"}))
        cloud.child(f"h{i}", f"h{i}-b", {"VGPU": Inventory(1)})
    cloud.host("right", inventory=stock(memory=8192))
    cloud.child("right", "r-a", {"VGPU": Inventory(2)}, frozenset({"CUSTOM_A"}))
    groups = tuple(Group(s, {"VGPU": 1}, (frozenset({"CUSTOM_A"}),)) for s in ("1", "2"))
    d = select(cloud.view(), asks(groups=groups, group_policy="none"))
    assert d.selections[0].chosen.host == "right"
