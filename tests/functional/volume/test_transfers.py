"""/os-volume-transfer and /volume-transfers."""

import pytest

from tests.functional.volume.conftest import Client


@pytest.mark.parametrize("path", ["/os-volume-transfer", "/volume-transfers"])
def test_a_volume_changes_hands(api: Client, path: str) -> None:
    """By the key alone; the key is shown once."""
    volume = api.make()
    got = api.call("POST", path, {"transfer": {"volume_id": volume, "name": "t"}})
    assert got.status == 202, got
    made = got.json["transfer"]
    assert api.show(volume)["status"] == "awaiting-transfer"
    assert "auth_key" not in api.call("GET", f"{path}/{made['id']}").json["transfer"]
    assert api.call("GET", f"{path}/{made['id']}", who="other").status == 404
    wrong = {"accept": {"auth_key": "0" * 16}}
    assert api.call("POST", f"{path}/{made['id']}/accept", wrong, who="other").status == 404
    assert api.call("POST", f"{path}/{made['id']}/accept", wrong).status == 400
    right = {"accept": {"auth_key": made["auth_key"]}}
    got = api.call("POST", f"{path}/{made['id']}/accept", right, who="other")
    assert got.status == 202 and got.json["transfer"]["volume_id"] == volume
    assert api.call("GET", f"/volumes/{volume}").status == 404
    assert api.show(volume, who="other")["status"] == "available"
    assert api.call("POST", f"{path}/{made['id']}/accept", right, who="other").status == 404
    api.delete(volume)


def test_an_offer_is_taken_back(api: Client) -> None:
    """The volume is available again; what is in use cannot be offered."""
    volume = api.make()
    body = {"transfer": {"volume_id": volume}}
    made = api.call("POST", "/volume-transfers", body).json["transfer"]["id"]
    assert api.call("POST", "/volume-transfers", body).status == 400
    assert [t["id"] for t in api.call("GET", "/volume-transfers").json["transfers"]] == [made]
    assert api.call("DELETE", f"/volume-transfers/{made}").status == 202
    assert api.show(volume)["status"] == "available"
    api.delete(volume)
