"""createImage and createBackup over HTTP, on a whole simulated cloud."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.whole import Whole, running, until

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running() as cloud:
        yield cloud


def act(whole: Whole, server: str, body: dict[str, Any], version: str = "2.45", **more: Any) -> Any:
    return whole.call("POST", f"{S}/{server}/action", body, version=version, **more)


def image(whole: Whole, image_id: str, **more: Any) -> dict[str, Any]:
    """Wait until an image has its bytes; return it."""

    def look() -> Any:
        got = whole.call("GET", f"/image/v2/images/{image_id}", **more).json
        return got if got["status"] == "active" else None

    found: dict[str, Any] = until(look)
    return found


def test_an_image_of_a_running_server_boots(whole: Whole) -> None:
    server = whole.server("origin")
    got = act(whole, server, {"createImage": {"name": " gold ", "metadata": {"purpose": "test"}}})
    assert got.status == 202, got
    made = image(whole, got.json["image_id"])
    assert (made["name"], made["visibility"], made["disk_format"]) == ("gold", "private", "qcow2")
    assert (made["instance_uuid"], made["image_type"]) == (server, "snapshot")
    assert (made["base_image_ref"], made["purpose"]) == (whole.image(), "test")
    assert whole.settled(server).json["server"]["status"] == "ACTIVE"
    copy = whole.server("copy", imageRef=made["id"])
    assert whole.settled(copy).json["server"]["status"] == "ACTIVE"
    whole.gone(copy)
    whole.gone(server)


def test_before_2_45_the_header_names_the_image(whole: Whole) -> None:
    server = whole.server()
    got = act(whole, server, {"createImage": {"name": "old"}}, "2.44")
    assert (got.status, got.raw) == (202, b"")
    assert image(whole, got.headers["location"].rpartition("/")[2])["name"] == "old"
    whole.gone(server)


@pytest.mark.parametrize("state", ["pause", "suspend", "os-stop"])
def test_states_in_which_it_works(whole: Whole, state: str) -> None:
    server = whole.server()
    act(whole, server, {state: None})
    before = whole.settled(server).json["server"]["status"]
    got = act(whole, server, {"createImage": {"name": state}})
    assert image(whole, got.json["image_id"])["name"] == state
    assert whole.settled(server).json["server"]["status"] == before
    whole.gone(server)


def test_what_is_refused(whole: Whole) -> None:
    server = whole.server()
    for body in ({"name": ""}, {}, {"name": "x", "metadata": {"k": 1}}, {"name": "x", "y": 1}):
        assert act(whole, server, {"createImage": body}).status == 400
    many = {f"k{n}": "v" for n in range(200)}
    assert act(whole, server, {"createImage": {"name": "x", "metadata": many}}).status == 403
    assert act(whole, server, {"createImage": {"name": "x"}}, who="other").status == 404
    assert act(whole, server, {"createImage": {"name": "x"}}, who="reader").status == 403
    bad = {"name": "b", "backup_type": "daily", "rotation": -1}
    assert act(whole, server, {"createBackup": bad}).status == 400
    whole.gone(server)


def test_backups_rotate(whole: Whole) -> None:
    """The newest two of the type stay; another type is left alone; rotation 0 leaves none of its own."""
    server = whole.server()

    def backup(kind: str, rotation: int) -> str:
        asked = {"name": f"{kind} backup", "backup_type": kind, "rotation": rotation}
        got = act(whole, server, {"createBackup": asked})
        assert got.status == 202, got
        whole.settled(server)
        return str(got.json["image_id"])

    def there(*ids: str) -> list[int]:
        return [whole.call("GET", f"/image/v2/images/{i}").status for i in ids]

    weekly = backup("weekly", 1)
    first, second, third = (backup("daily", 2) for _ in range(3))
    assert there(weekly, first, second, third) == [200, 404, 200, 200]
    assert image(whole, third)["backup_type"] == "daily"
    backup("daily", 0)
    assert there(weekly, second, third) == [200, 404, 404]
    whole.gone(server)
