"""What PUT /servers/{id} answers with, at the microversions where it changes."""

import pytest

from tests.functional.compute.conftest import Cloud

OLD = {
    "id",
    "name",
    "status",
    "tenant_id",
    "user_id",
    "metadata",
    "hostId",
    "image",
    "flavor",
    "created",
    "updated",
    "addresses",
    "accessIPv4",
    "accessIPv6",
    "links",
    "progress",
    "OS-DCF:diskConfig",
}
AT_19 = OLD | {"locked", "description"}
AT_63 = AT_19 | {"tags", "trusted_image_certificates"}


@pytest.mark.parametrize(
    ("at", "keys"),
    [
        (1, OLD),
        (9, OLD | {"locked"}),
        (19, AT_19),
        (26, AT_19 | {"tags"}),
        (63, AT_63),
        (71, AT_63 | {"server_groups"}),
        (73, AT_63 | {"server_groups", "locked_reason"}),
        (74, AT_63 | {"server_groups", "locked_reason"}),
    ],
)
def test_fields(cloud: Cloud, at: int, keys: set[str]) -> None:
    server = cloud.server(
        addresses='{"private":[{"version":4,"addr":"10.0.0.5","OS-EXT-IPS:type":"fixed"}]}'
    )
    body = {"server": {"name": "renamed"}}
    seen = cloud.call("PUT", f"/servers/{server}", body, at=at, status=200)["server"]
    assert set(seen) == keys and seen["name"] == "renamed"
    assert seen["addresses"] == {"private": [{"version": 4, "addr": "10.0.0.5"}]}


def test_whole_from_2_75(cloud: Cloud) -> None:
    server = cloud.server()
    body = {"server": {"name": "renamed"}}
    seen = cloud.call("PUT", f"/servers/{server}", body, at=75, status=200)["server"]
    assert set(seen) == set(cloud.get(f"/servers/{server}", at=75)["server"])


def test_pinned_zone_from_2_104(cloud: Cloud) -> None:
    server = cloud.server(availability_zone="nova", requested_zone="nova")
    path = f"/servers/{server}"

    def pin(zone: str | None, status: int, at: int = 104) -> str | None:
        body = {"server": {"pinned_availability_zone": zone}}
        seen = cloud.call("PUT", path, body, at=at, status=status)
        return seen["server"]["pinned_availability_zone"] if status == 200 else None

    pin("nova", 400, at=103)
    assert pin("nova", 200) == "nova"
    pin("other", 409)
    assert pin(None, 200) is None
    pin("other", 409)
    assert pin("nova", 200) == "nova"
    waiting = cloud.server(host=None)
    body = {"server": {"pinned_availability_zone": None}}
    cloud.call("PUT", f"/servers/{waiting}", body, status=409)


def test_unknown_query_parameters(cloud: Cloud) -> None:
    server = cloud.server()
    for path in ("/servers", "/servers/detail"):
        cloud.get(path + "?bogus=1", at=74)
        cloud.get(path + "?bogus=1", at=75, status=400)
        cloud.get(path + "?_mark=1&name=s1&all_tenants=", as_="admin", at=75)
    cloud.get(f"/servers/{server}?bogus=1", at=101)
    cloud.get(f"/servers/{server}?bogus=1", at=102, status=400)
