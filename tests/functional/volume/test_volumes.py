"""/volumes: create, list, show, change, delete, refusals."""

import uuid
from urllib.parse import urlencode

import pytest

from tests.functional.volume.conftest import Client


def test_a_volume_from_nothing(api: Client) -> None:
    """Created, shown, changed, deleted."""
    got = api.call(
        "POST", "/volumes", {"volume": {"size": 2, "name": "data", "metadata": {"a": "b"}}}
    )
    assert got.status == 202, got
    volume = got.json["volume"]
    assert (volume["status"], volume["size"], volume["name"]) == ("creating", 2, "data")
    found = api.becomes(volume["id"], "available")
    assert found["os-vol-host-attr:host"].endswith("@qcow2#pool")
    assert found["volume_type"] == "__DEFAULT__"
    mine = api.show(volume["id"], who="demo")
    assert "os-vol-host-attr:host" not in mine and mine["metadata"] == {"a": "b"}
    got = api.call(
        "PUT", f"/volumes/{volume['id']}", {"volume": {"name": "new", "description": "d"}}
    )
    assert got.status == 200 and (
        got.json["volume"]["name"],
        got.json["volume"]["description"],
    ) == ("new", "d")
    api.delete(volume["id"])
    assert api.call("GET", f"/volumes/{volume['id']}").status == 404


def test_old_paths_carry_the_project(api: Client) -> None:
    """Below 3.67 the project's id is in the path, and must be the token's."""
    project = api.whole.project("demo")
    assert api.call("GET", "/volumes", version="3.66").status == 404
    assert api.call("GET", f"/{project}/volumes", version="3.0").status == 200
    assert api.call("GET", f"/{uuid.uuid4().hex}/volumes", version="3.0").status == 400


def test_lists(api: Client) -> None:
    """Filters, sorting, pages, counts; another project sees none of it."""
    made = [api.make(name=f"list-{n}", metadata={"k": str(n % 2)}) for n in range(3)]
    got = api.call("GET", "/volumes?sort=name:asc&limit=2&with_count=true")
    names = [v["name"] for v in got.json["volumes"]]
    assert names == ["list-0", "list-1"] and got.json["count"] == 3
    path = got.json["volumes_links"][0]["href"].partition("/volume/v3")[2]
    assert [v["name"] for v in api.call("GET", path).json["volumes"]] == ["list-2"]
    got = api.call("GET", "/volumes/detail?metadata=%7B%27k%27%3A%20%271%27%7D")
    assert [v["name"] for v in got.json["volumes"]] == ["list-1"]
    got = api.call("GET", "/volumes?name~=st-2")
    assert [v["name"] for v in got.json["volumes"]] == ["list-2"]
    assert api.call("GET", "/volumes", who="other").json["volumes"] == []
    assert api.call("GET", "/volumes?all_tenants=1", who="other").json["volumes"] == []
    assert len(api.call("GET", "/volumes?all_tenants=1", who="admin").json["volumes"]) == 3
    got = api.call("GET", "/volumes/summary").json["volume-summary"]
    assert (got["total_count"], got["total_size"], got["metadata"]) == (3, 3, {"k": ["0", "1"]})
    for volume_id in made:
        api.delete(volume_id)


@pytest.mark.parametrize(
    "query", ["limit=-1", "limit=x", "offset=y", "marker=nope", "sort=nope:asc", "sort_dir=up"]
)
def test_bad_queries(api: Client, query: str) -> None:
    """400, in words; 404 for a marker that is not there, as Cinder."""
    assert api.call("GET", f"/volumes?{query}").status == (404 if "marker" in query else 400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"size": 0},
        {"size": -1},
        {"size": "many"},
        {"size": 1, "name": "x" * 256},
        {"size": 1, "availability_zone": "mars"},
        {"size": 1, "metadata": {"": "x"}},
        {"size": 1, "metadata": {"k": "v" * 256}},
        {"size": 1, "multiattach": True},
        {"size": 1, "snapshot_id": "no-uuid"},
        {"size": 1, "imageRef": str(uuid.UUID(int=1))},
        {"size": 1, "imageRef": "../../etc/passwd"},
    ],
    ids=str,
)
def test_bad_bodies(api: Client, body: dict[str, object]) -> None:
    """Refused before anything is made."""
    assert api.call("POST", "/volumes", {"volume": body}).status == 400
    assert api.call("GET", "/volumes").json["volumes"] == []


def test_missing_sources(api: Client) -> None:
    """404 alike for a missing and a foreign one."""
    foreign = api.make()
    for body in (
        {"snapshot_id": str(uuid.uuid4())},
        {"source_volid": str(uuid.uuid4())},
        {"volume_type": "none"},
    ):
        assert api.call("POST", "/volumes", {"volume": {"size": 1, **body}}).status == 404
    got = api.call(
        "POST", "/volumes", {"volume": {"size": 1, "source_volid": foreign}}, who="other"
    )
    assert got.status == 404
    api.delete(foreign)


def test_others_see_nothing(api: Client) -> None:
    """Another project's volume is not there; a reader may look and not touch."""
    mine = api.make()
    for method, body in (("GET", None), ("PUT", {"volume": {"name": "x"}}), ("DELETE", None)):
        assert api.call(method, f"/volumes/{mine}", body, who="other").status == 404
    assert api.call("GET", f"/volumes/{mine}", who="reader").status == 200
    assert api.call("DELETE", f"/volumes/{mine}", who="reader").status == 403
    api.delete(mine)


def test_quota(api: Client) -> None:
    """The eleventh volume and the thousandth GiB are refused with 413, in Cinder's words."""
    got = api.call("POST", "/volumes", {"volume": {"size": 1001}})
    assert got.status == 413 and "gigabytes quota" in got.json["overLimit"]["message"]
    made = [
        api.call("POST", "/volumes", {"volume": {"size": 1}}).json["volume"]["id"]
        for _ in range(10)
    ]
    got = api.call("POST", "/volumes", {"volume": {"size": 1}})
    assert (
        got.status == 413
        and "Maximum number of volumes allowed (10)" in got.json["overLimit"]["message"]
    )
    for volume_id in made:
        api.becomes(volume_id, "available")
        api.delete(volume_id)


def test_no_host_has_room(api: Client) -> None:
    """A volume that fits nowhere is in error, and can be deleted."""
    limits = {"quota": {}}
    assert limits
    size = 8192 + 1
    got = api.call("POST", "/volumes", {"volume": {"size": size}}, who="admin")
    assert got.status == 413
    api.whole.cloud.volumes.db.write(_no_limit)
    got = api.call("POST", "/volumes", {"volume": {"size": 1 << 30}}, who="admin")
    assert got.status == 202, got
    volume_id = got.json["volume"]["id"]
    api.becomes(volume_id, "error")
    api.delete(volume_id)


def _no_limit(tx: object) -> None:
    from kilonova.volume.embedded.store import quotas

    quotas.put(tx, "class", "default", {"gigabytes": -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "'; DROP TABLE volume;--",
        "../../etc/passwd",
        "\U0001f98a" * 255,
        "<b>%(x)s{y}</b>",
        "a\tb\u202ec",
        '"{\\"',
    ],
    ids=range(6),
)
def test_hostile_names(api: Client, name: str) -> None:
    """What a tenant writes comes back as it was, and finds itself."""
    volume = api.make(name=name, description=name, metadata={"k": name[:255]})
    assert api.show(volume)["name"] == name.strip()
    query = urlencode({"name": name.strip(), "metadata": str({"k": name[:255]})})
    assert [v["id"] for v in api.call("GET", f"/volumes?{query}").json["volumes"]] == [volume]
    api.delete(volume)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "-" * 5000 + "1",
        "{'a': 0x" + "f" * 5000 + "}",
        "[]",
        "{1, 2}",
        "__import__('os')",
        "{'a'",
    ],
)
def test_hostile_filters(api: Client, text: str) -> None:
    """A dictionary in a query is read, never run."""
    assert api.call("GET", f"/volumes?{urlencode({'metadata': text})}").status == 400
