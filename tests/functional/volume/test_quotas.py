"""/os-quota-sets, classes, limits; a race for the last volume."""

import threading

from tests.functional.volume.conftest import Client


def test_sets(api: Client) -> None:
    """A project reads its own; an administrator sets them."""
    project = api.whole.project("other")
    api.whole.token("other")
    path = f"/os-quota-sets/{project}"
    got = api.call("GET", f"{path}?usage=True", who="other").json["quota_set"]
    assert got["volumes"] == {"limit": 10, "in_use": 0, "reserved": 0} and got["id"] == project
    assert api.call("GET", path).status == 403
    assert api.call("PUT", path, {"quota_set": {"volumes": 1}}, who="other").status == 403
    assert (
        api.call("PUT", path, {"quota_set": {"volumes": 1}}, who="admin").json["quota_set"][
            "volumes"
        ]
        == 1
    )
    assert api.call("PUT", path, {"quota_set": {"nonsense": 1}}, who="admin").status == 400
    assert api.call("PUT", path, {"quota_set": {"volumes": -2}}, who="admin").status == 400
    limits = api.call("GET", "/limits", who="other").json["limits"]["absolute"]
    assert (limits["maxTotalVolumes"], limits["totalVolumesUsed"]) == (1, 0)
    assert api.call("DELETE", path, who="admin").status == 200
    assert api.call("GET", path, who="other").json["quota_set"]["volumes"] == 10


def test_classes(api: Client) -> None:
    """The class "default" holds for projects without their own."""
    path = "/os-quota-class-sets/default"
    got = api.call("PUT", path, {"quota_class_set": {"snapshots": 3}}, who="admin")
    assert got.json["quota_class_set"]["snapshots"] == 3
    defaults = f"/os-quota-sets/{api.whole.project('demo')}/defaults"
    assert api.call("GET", defaults).json["quota_set"]["snapshots"] == 3
    api.call("PUT", path, {"quota_class_set": {"snapshots": 10}}, who="admin")
    assert api.call("GET", path).status == 403


def test_a_race_for_the_last_volumes(api: Client) -> None:
    """S25: twenty ask at once for ten; ten get one."""
    answers: list[int] = []

    def ask() -> None:
        answers.append(api.call("POST", "/volumes", {"volume": {"size": 1}}).status)
        api.whole.hang_up()

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(answers) == [202] * 10 + [413] * 10
    for volume in api.call("GET", "/volumes").json["volumes"]:
        api.becomes(volume["id"], "available")
        api.delete(volume["id"])
