"""From a flavor, its extra specs, an image and hints to a request."""

from pathlib import Path

import pytest

from kilonova.common.errors import BadRequest
from kilonova.common.ids import new_uuid
from kilonova.db import mappings
from kilonova.db.engine import Tx
from kilonova.db.schema.world import server_group
from kilonova.db.sql import insert
from kilonova.objects.server import FlavorRecord, ImageRecord, RequestedServer
from kilonova.scheduler.request import Request, assemble, build, groups_of
from tests.scheduling import NOW, world


def flavor(**specs: str) -> FlavorRecord:
    return FlavorRecord(
        flavorid="1",
        name="m",
        vcpus=2,
        memory_mib=512,
        root_gib=5,
        ephemeral_gib=1,
        swap_mib=1025,
        extra_specs={k.replace("__", ":"): v for k, v in specs.items()},
    )


def test_what_a_flavor_takes() -> None:
    groups, policy = groups_of(flavor())
    assert groups[0].resources == {"VCPU": 2, "MEMORY_MB": 512, "DISK_GB": 5 + 1 + 2}
    assert policy is None
    groups, _ = groups_of(flavor(), root_on_volume=True)
    assert groups[0].resources["DISK_GB"] == 3


def test_extra_specs_change_it() -> None:
    groups, policy = groups_of(
        flavor(
            resources__VCPU="0",
            resources__CUSTOM_X="3",
            trait__HW_CPU_X86_AVX2="required",
            trait__CUSTOM_BAD="forbidden",
            resources1__VGPU="1",
            trait1__CUSTOM_Y="required",
            resources_net__SRIOV_NET_VF="1",
        ),
        ("CUSTOM_IMAGE",),
    )
    base, one, net = groups
    assert base.resources == {"MEMORY_MB": 512, "DISK_GB": 8, "CUSTOM_X": 3}
    assert base.required == (frozenset({"CUSTOM_IMAGE"}), frozenset({"HW_CPU_X86_AVX2"}))
    assert base.forbidden == {"CUSTOM_BAD"}
    assert (one.suffix, one.resources) == ("1", {"VGPU": 1})
    assert one.required == (frozenset({"CUSTOM_Y"}),)
    assert net.suffix == "_net"
    assert policy == "none"


def test_dedicated_cpus() -> None:
    groups, _ = groups_of(flavor(hw__cpu_policy="dedicated"))
    assert groups[0].resources["PCPU"] == 2
    assert "VCPU" not in groups[0].resources


@pytest.mark.parametrize(
    "specs",
    [{"resources__VCPU": "many"}, {"trait__X": "maybe"}, {"group_policy": "sometimes"}],
)
def test_extra_specs_that_cannot_be_obeyed(specs: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        groups_of(flavor(**specs))


def test_hints_groups_and_images(tmp_path: Path) -> None:
    db = world(tmp_path)
    group, me, member, elsewhere, unplaced = (new_uuid() for _ in range(5))

    def fill(tx: Tx) -> None:
        tx.run(
            insert(server_group),
            uuid=group,
            project_id="p",
            user_id="u",
            name="g",
            policy="anti-affinity",
            rules='{"max_server_per_host": 2}',
            created_at=NOW,
        )
        for server, g, host in (
            (me, group, "h0"),
            (member, group, "h1"),
            (elsewhere, None, "h2"),
            (unplaced, None, None),
        ):
            mappings.add(
                tx,
                server=server,
                project_id="p",
                user_id="u",
                server_group=g,
                vcpus=1,
                memory_mib=1,
                requested=b"",
                operation="o",
                now=NOW,
            )
            mappings.place(tx, server, cell="cell1", host=host, now=NOW)

    db.write(fill)

    def ask(**hints: tuple[str, ...]) -> Request:
        image = ImageRecord(
            id="img",
            name="i",
            disk_format="raw",
            size=1,
            properties={"architecture": "amd64", "trait:CUSTOM_T": "required"},
        )
        return db.read(
            lambda tx: assemble(
                tx,
                flavor=flavor(),
                image=image,
                project="p",
                server=me,
                server_group_id=group,
                hints=hints,
            )
        )

    r = ask(same_host=(elsewhere, unplaced), different_host=(member,))
    assert r.server_group is not None
    assert r.server_group.hosts == {"h1": 1}, "the server itself does not count"
    assert r.server_group.max_per_host == 2
    assert r.same_host == {"h2"}
    assert r.different_host == {"h1"}
    assert r.image["hw_architecture"] == "x86_64"
    assert r.groups[0].required == (frozenset({"CUSTOM_T"}),)
    assert str(ask(build_near_host_ip=("10.1.2.3",), cidr=("/16",)).near) == "10.1.0.0/16"
    for bad in ({"query": ("[]",)}, {"same_host": ("x",)}, {"build_near_host_ip": ("nowhere",)}):
        with pytest.raises(BadRequest):
            ask(**bad)


def test_the_request_of_a_create(tmp_path: Path) -> None:
    db = world(tmp_path)
    asked = RequestedServer(
        server_id=new_uuid(),
        project_id="p",
        user_id="u",
        request_id="r",
        name="n",
        hostname="n",
        flavor=flavor(),
        image=None,
        availability_zone="east",
        requested_host="h1",
        force_host=True,
    )
    r = db.read(lambda tx: build(tx, asked, ignore_hosts=frozenset({"h2"})))
    assert (r.availability_zone, r.only_host, r.force) == ("east", "h1", True)
    assert r.ignore_hosts == {"h2"}
    assert r.project == "p"
    assert r.server_group is None
