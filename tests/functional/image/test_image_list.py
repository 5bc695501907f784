"""Lists: who sees what, filters, sorting, paging."""

from typing import Any

import pytest

from tests.functional.image.conftest import Cloud


def names(cloud: Cloud, query: str = "", who: str = "alpha:member") -> list[str]:
    got = cloud.call("GET", f"/v2/images{query}", who)
    assert got.status_code == 200, got.text
    return [i["name"] for i in got.json["images"]]


@pytest.fixture
def shelf(cloud: Cloud) -> Cloud:
    """Ten images: of alpha a0..a4 with sizes 100..500, one each for every visibility, of beta."""
    for i in range(5):
        cloud.active(
            b"x" * 100 * (i + 1), name=f"a{i}", min_disk=i, group="even" if i % 2 == 0 else "odd"
        )
        cloud.clock.advance(10)
    for visibility in ("private", "shared", "community", "public"):
        cloud.make("beta:admin", name=f"b-{visibility}", visibility=visibility)
        cloud.clock.advance(10)
    cloud.make(name="a-hidden", os_hidden=True)
    return cloud


def test_who_sees_what(shelf: Cloud) -> None:
    """S19, S22"""
    own = ["a4", "a3", "a2", "a1", "a0"]
    assert names(shelf) == ["b-public", *own]
    assert names(shelf, who="gamma:reader") == ["b-public"]
    assert names(shelf, who="beta:member") == ["b-public", "b-community", "b-shared", "b-private"]
    assert names(shelf, "?visibility=community") == ["b-community"]
    assert names(shelf, "?visibility=all") == ["b-public", "b-community", *own]
    assert names(shelf, "?visibility=private") == []
    assert names(shelf, "?visibility=shared") == own
    assert names(shelf, who="root:admin") == ["b-public", "b-shared", "b-private", *own]
    assert names(shelf, "?owner=beta") == ["b-public"]
    assert names(shelf, "?os_hidden=true") == ["a-hidden"]


def test_shared_images_appear_when_they_are_accepted(shelf: Cloud) -> None:
    shared = shelf.call("GET", "/v2/images?name=b-shared", "beta:member").json["images"][0]["id"]
    members = f"/v2/images/{shared}/members"
    assert shelf.call("GET", f"/v2/images/{shared}").status_code == 404
    assert shelf.call("POST", members, "beta:member", {"member": "alpha"}).status_code == 200
    assert shelf.call("GET", f"/v2/images/{shared}").status_code == 200
    assert "b-shared" not in names(shelf)
    assert names(shelf, "?visibility=shared&member_status=pending&owner=beta") == ["b-shared"]
    got = shelf.call("PUT", f"{members}/alpha", "alpha:member", {"status": "accepted"})
    assert got.status_code == 200
    assert "b-shared" in names(shelf)
    got = shelf.call("PUT", f"{members}/alpha", "alpha:member", {"status": "rejected"})
    assert "b-shared" not in names(shelf)
    assert names(shelf, "?visibility=shared&member_status=all&owner=beta") == ["b-shared"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=a1", ["a1"]),
        ("name=in:a1,a3", ["a3", "a1"]),
        ('name=in:"a1",zzz', ["a1"]),
        ("status=queued", ["b-public"]),
        ("status=in:queued,active&name=a0", ["a0"]),
        ("size_min=300&size_max=400", ["a3", "a2"]),
        ("size=100", ["a0"]),
        ("min_disk=2", ["a2"]),
        ("disk_format=raw&group=odd", ["a3", "a1"]),
        ("group=nothing", []),
        ("disk_format=qcow2", []),
        ("protected=false&name=a0", ["a0"]),
        ("created_at=gte:2023-11-14T22:13:40Z&owner=alpha", ["a4", "a3", "a2"]),
        ("created_at=lt:2023-11-14T22:13:30Z", ["a0"]),
        ("created_at=2023-11-14T22:13:20Z", ["a0"]),
        ("sort_key=name&sort_dir=asc&owner=alpha", ["a0", "a1", "a2", "a3", "a4"]),
        ("sort=group:asc", None),
        ("sort=disk_format:desc,size:asc&owner=alpha", ["a0", "a1", "a2", "a3", "a4"]),
        ("sort_key=status&sort_key=size&sort_dir=asc&owner=alpha", ["a0", "a1", "a2", "a3", "a4"]),
        ("limit=0", []),
    ],
)
def test_filters(shelf: Cloud, query: str, found: list[str] | None) -> None:
    if found is None:
        assert shelf.call("GET", f"/v2/images?{query}").status_code == 400
    else:
        assert names(shelf, "?" + query) == found


@pytest.mark.parametrize(
    ("query", "names_what"),
    [
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("marker=nonsense", "marker"),
        ("marker=11111111-2222-3333-4444-555555555555", "marker"),
        ("visibility=secret", "visibility"),
        ("member_status=perhaps", "member_status"),
        ("sort_key=colour", "sort key"),
        ("sort_dir=up", "sort direction"),
        ("sort=name&sort_key=id", "combined"),
        ("sort_key=name&sort_key=id&sort_dir=asc&sort_dir=asc&sort_dir=asc", "sort dirs"),
        ("size_min=big", "size_min"),
        ("created_at=gt:yesterday", "created_at"),
        ("protected=perhaps", "protected"),
        ('name=in:"a', "quote"),
    ],
)
def test_queries_that_are_refused_say_why(shelf: Cloud, query: str, names_what: str) -> None:
    got = shelf.call("GET", f"/v2/images?{query}")
    assert got.status_code == 400 and names_what in got.json["message"]


@pytest.mark.parametrize(
    "order", ["", "&sort=name:asc", "&sort=size:asc", "&sort=status:desc,name:asc"]
)
def test_pages_join_to_the_whole(shelf: Cloud, order: str) -> None:
    whole = names(shelf, "?limit=1000" + order)
    pages: list[str] = []
    link = "/v2/images?limit=2" + order
    while link:
        got: dict[str, Any] = shelf.call("GET", link).json
        assert len(got["images"]) <= 2
        pages += [i["name"] for i in got["images"]]
        link = got.get("next", "")
    assert pages == whole and len(whole) == 6


def test_a_marker_of_another_project_tells_nothing(shelf: Cloud) -> None:
    """S19"""
    private = shelf.call("GET", "/v2/images?name=b-private", "beta:member").json["images"][0]["id"]
    got = shelf.call("GET", f"/v2/images?marker={private}")
    assert got.status_code == 400


def test_a_list_costs_a_fixed_number_of_statements(shelf: Cloud) -> None:
    shelf.call("GET", "/v2/images?limit=1")
    before = shelf.database.statements
    shelf.call("GET", "/v2/images?limit=1")
    one = shelf.database.statements - before
    shelf.call("GET", "/v2/images?limit=1000")
    assert shelf.database.statements - before == 2 * one
