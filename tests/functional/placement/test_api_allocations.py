"""The Placement API: allocations at every form of their body, usages, reshaper."""

from typing import Any

import pytest

from kilonova.common.ids import new_uuid
from tests.functional.placement.conftest import Api

NOBODY = "00000000-0000-0000-0000-000000000000"


def test_each_form_of_the_body(api: Api) -> None:
    rp, c = api.provider("a", VCPU=8), new_uuid()
    path = f"/allocations/{c}"
    listed: dict[str, Any] = {
        "allocations": [{"resource_provider": {"uuid": rp}, "resources": {"VCPU": 1}}]
    }
    assert api.call("PUT", path, listed, v=0).status_code == 204
    assert api.call("GET", path, v=0).json == {
        "allocations": {rp: {"generation": 2, "resources": {"VCPU": 1}}}
    }
    assert api.call("GET", path, v=12).json["project_id"] == NOBODY
    owner = {"project_id": "p", "user_id": "u"}
    assert api.call("PUT", path, listed, v=8).status_code == 400
    assert api.call("PUT", path, {**listed, **owner}, v=8).status_code == 204
    mapped = {"allocations": {rp: {"resources": {"VCPU": 2}}}, **owner}
    assert api.call("PUT", path, mapped, v=11).status_code == 400
    assert api.call("PUT", path, mapped, v=12).status_code == 204
    assert api.call("PUT", path, {"allocations": {}, **owner}, v=12).status_code == 400
    assert api.call("PUT", path, mapped, v=28).status_code == 400, "consumer_generation since 1.28"
    generation = api.call("GET", path, v=28).json["consumer_generation"]
    mapped["consumer_generation"] = generation
    assert api.call("PUT", path, mapped, v=28).status_code == 204
    stale = api.call("PUT", path, mapped, v=28)
    assert stale.status_code == 409
    assert stale.json["errors"][0]["code"] == "placement.concurrent_update"
    mapped["consumer_generation"] = generation + 1
    mapped["mappings"] = {"": [rp]}
    assert api.call("PUT", path, mapped, v=33).status_code == 400, "mappings since 1.34"
    assert api.call("PUT", path, mapped, v=34).status_code == 204
    mapped["consumer_generation"] = generation + 2
    assert api.call("PUT", path, mapped, v=38).status_code == 400, "consumer_type since 1.38"
    mapped["consumer_type"] = "INSTANCE"
    assert api.call("PUT", path, mapped, v=38).status_code == 204
    shown = api.call("GET", path, v=38).json
    assert shown["consumer_type"] == "INSTANCE"
    assert shown["allocations"][rp]["resources"] == {"VCPU": 2}
    empty = {**mapped, "allocations": {}, "consumer_generation": generation + 3}
    assert api.call("PUT", path, empty).status_code == 204
    assert api.call("GET", path).json == {"allocations": {}}


def test_what_cannot_be_allocated(api: Api) -> None:
    rp = api.provider("a", VCPU=2)
    assert api.allocate(new_uuid(), {rp: {"VCPU": 3}}).status_code == 409
    assert api.allocate(new_uuid(), {rp: {"DISK_GB": 1}}).status_code == 409
    assert api.allocate(new_uuid(), {rp: {"CUSTOM_NOPE": 1}}).status_code == 400
    assert api.allocate(new_uuid(), {new_uuid(): {"VCPU": 1}}).status_code == 400
    assert api.allocate(new_uuid(), {rp: {"VCPU": 0}}).status_code == 400
    assert api.allocate("not-a-uuid", {rp: {"VCPU": 1}}).status_code == 400
    assert api.allocate(new_uuid(), {rp: {"VCPU": 1}}, consumer_generation=3).status_code == 409
    assert api.call("GET", f"/resource_providers/{rp}/usages").json["usages"] == {"VCPU": 0}


def test_delete(api: Api) -> None:
    rp, c = api.provider("a", VCPU=2), new_uuid()
    api.allocate(c, {rp: {"VCPU": 2}})
    assert api.call("GET", f"/resource_providers/{rp}/usages").json["usages"] == {"VCPU": 2}
    assert api.call("GET", f"/resource_providers/{rp}/allocations").json["allocations"] == {
        c: {"resources": {"VCPU": 2}, "consumer_generation": 1}
    }
    assert api.call("DELETE", f"/allocations/{c}").status_code == 204
    assert api.call("DELETE", f"/allocations/{c}").status_code == 404
    assert api.call("GET", f"/resource_providers/{rp}/usages").json["usages"] == {"VCPU": 0}


def test_several_consumers_swap_in_one_transaction(api: Api) -> None:
    rp, other = api.provider("a", VCPU=2), api.provider("b", VCPU=2)
    one, two = new_uuid(), new_uuid()
    api.allocate(one, {rp: {"VCPU": 2}})
    api.allocate(two, {other: {"VCPU": 2}})

    def body(uuid: str, amount: int = 2, generation: int | None = 1) -> dict[str, Any]:
        return {
            "allocations": {uuid: {"resources": {"VCPU": amount}}} if amount else {},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": generation,
            "consumer_type": "INSTANCE",
        }

    assert (
        api.call("POST", "/allocations", {one: body(other), two: body(rp)}, v=12).status_code == 404
    )
    swapped = api.call("POST", "/allocations", {one: body(other), two: body(rp)})
    assert swapped.status_code == 204, swapped.text
    held = api.call("GET", f"/allocations/{one}").json["allocations"]
    assert list(held) == [other]
    both = {one: body(other, 0, 2), two: body(rp, 3, 2)}
    assert api.call("POST", "/allocations", both).status_code == 409
    held = api.call("GET", f"/allocations/{one}").json["allocations"]
    assert list(held) == [other], "all or nothing"
    migration = new_uuid()
    taken_over = {one: body(other, 0, 2), migration: body(other, 2, None)}
    assert api.call("POST", "/allocations", taken_over).status_code == 204
    assert api.call("GET", f"/allocations/{one}").json == {"allocations": {}}


def test_usages_of_a_project(api: Api) -> None:
    rp = api.provider("a", VCPU=9, DISK_GB=9)
    api.allocate(new_uuid(), {rp: {"VCPU": 2, "DISK_GB": 1}})
    api.allocate(new_uuid(), {rp: {"VCPU": 1}}, user_id="other")
    api.allocate(new_uuid(), {rp: {"VCPU": 3}}, consumer_type="MIGRATION")
    api.allocate(new_uuid(), {rp: {"VCPU": 3}}, project_id="q")
    assert api.call("GET", "/usages?project_id=p", v=8).status_code == 404
    assert api.call("GET", "/usages?project_id=p", v=9).json == {
        "usages": {"VCPU": 6, "DISK_GB": 1}
    }
    assert api.call("GET", "/usages?project_id=p&user_id=other", v=9).json["usages"] == {"VCPU": 1}
    assert api.call("GET", "/usages", v=9).status_code == 400
    assert api.call("GET", "/usages?project_id=p&consumer_type=all", v=9).status_code == 400
    assert api.call("GET", "/usages?project_id=p").json["usages"] == {
        "INSTANCE": {"VCPU": 3, "DISK_GB": 1, "consumer_count": 2},
        "MIGRATION": {"VCPU": 3, "consumer_count": 1},
    }
    assert api.call("GET", "/usages?project_id=p&consumer_type=all").json["usages"] == {
        "all": {"VCPU": 6, "DISK_GB": 1, "consumer_count": 3}
    }
    only = api.call("GET", "/usages?project_id=p&consumer_type=MIGRATION").json["usages"]
    assert list(only) == ["MIGRATION"]


def test_reshaping_moves_inventory_and_what_is_on_it(api: Api) -> None:
    root = api.provider("root", VCPU=4, VGPU=2)
    child = api.provider("child", root)
    c = new_uuid()
    api.allocate(c, {root: {"VCPU": 1, "VGPU": 1}})

    def body() -> dict[str, Any]:
        return {
            "inventories": {
                root: {
                    "resource_provider_generation": api.generation(root),
                    "inventories": {"VCPU": {"total": 4}},
                },
                child: {
                    "resource_provider_generation": api.generation(child),
                    "inventories": {"VGPU": {"total": 2}},
                },
            },
            "allocations": {
                c: {
                    "allocations": {
                        root: {"resources": {"VCPU": 1}},
                        child: {"resources": {"VGPU": 1}},
                    },
                    "project_id": "p",
                    "user_id": "u",
                    "consumer_generation": 1,
                    "consumer_type": "INSTANCE",
                }
            },
        }

    assert api.call("POST", "/reshaper", body(), v=29).status_code == 404
    stays = body()
    stays["allocations"] = {}
    refused = api.call("POST", "/reshaper", stays)
    assert refused.status_code == 409
    assert refused.json["errors"][0]["code"] == "placement.inventory.inuse"
    done = api.call("POST", "/reshaper", body())
    assert done.status_code == 204, done.text
    assert list(api.call("GET", f"/resource_providers/{root}/inventories").json["inventories"]) == [
        "VCPU"
    ]
    held = api.call("GET", f"/allocations/{c}").json["allocations"]
    assert {p: a["resources"] for p, a in held.items()} == {root: {"VCPU": 1}, child: {"VGPU": 1}}
    stale = body()
    stale["inventories"][root]["resource_provider_generation"] = 0
    assert api.call("POST", "/reshaper", stale).status_code == 409


@pytest.mark.parametrize(
    "body",
    [[], {}, {"allocations": None}, {"allocations": {"x": {}}}, "text", {"allocations": [1]}],
)
@pytest.mark.parametrize("v", [0, 8, 12, 28, 34, 38])
def test_nonsense_is_refused(api: Api, body: Any, v: int) -> None:
    assert api.call("PUT", f"/allocations/{new_uuid()}", body, v=v).status_code == 400
