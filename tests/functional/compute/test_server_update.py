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
