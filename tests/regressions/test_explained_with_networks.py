"""``POST /kilonova/v1/explain`` answered 403 to a member who named networks or volumes: it knew no rule of servers'."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.config import Settings
from tests.whole import Whole, running


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=1) as made:
        yield made


def body(cloud: Whole, **more: Any) -> dict[str, Any]:
    """Return what POST /servers takes."""
    return {"server": {"name": "w", "flavorRef": "42", "imageRef": cloud.image(), **more}}


def test_a_member_may_name_networks_and_volumes(whole: Whole) -> None:
    (network,) = [
        n["id"]
        for n in whole.call("GET", "/network/v2.0/networks").json["networks"]
        if n["name"] == "private"
    ]
    disk = {"boot_index": 0, "source_type": "image", "destination_type": "volume"}
    disk |= {"uuid": whole.image(), "volume_size": 1}
    asked = body(whole, networks=[{"uuid": network}], block_device_mapping_v2=[disk])
    del asked["server"]["imageRef"]
    got = whole.call("POST", "/kilonova/v1/explain", asked)
    assert got.status == 200 and got.json["decision"]["fits"] is True, got


def test_what_is_for_administrators_stays_so(whole: Whole) -> None:
    asked = body(whole, availability_zone="nova:cell1-host1", networks="none")
    got = whole.call("POST", "/kilonova/v1/explain", asked)
    assert got.status == 403
    assert "os_compute_api:servers:create:forced_host" in str(got.json)
    assert whole.call("POST", "/kilonova/v1/explain", asked, who="admin").status == 200


def test_a_policy_file_holds_here_too(tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    rules.write_text(
        '"os_compute_api:servers:create:attach_network" = "role:admin"\n'
        '"kilonova:explain" = "role:reader"\n'
    )
    with running(hosts=1, settings=Settings(policy_file=str(rules))) as cloud:
        asked = body(cloud, networks="auto")
        assert cloud.call("POST", "/kilonova/v1/explain", asked).status == 403
        asked = body(cloud, networks="none")
        assert cloud.call("POST", "/kilonova/v1/explain", asked, who="reader").status == 200
