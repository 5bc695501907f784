"""Images from record to bytes and back, through the API."""

import hashlib
from typing import Any

import pytest

from kilonova.image.embedded.store import EmbeddedImages
from tests.functional.image.conftest import Cloud
from tests.security import image_fixtures as fx

MISSING = "11111111-2222-3333-4444-555555555555"


def test_create_upload_show_download(cloud: Cloud) -> None:
    made = cloud.make(name="tiny ☺", min_disk=1, my_key="my value", tags=["b", "a"])
    assert made["status"] == "queued" and made["size"] is None and made["checksum"] is None
    data = bytes(range(256)) * 5000
    put = cloud.call("PUT", f"/v2/images/{made['id']}/file", body=data)
    assert put.status_code == 204, put.text
    shown = cloud.call("GET", f"/v2/images/{made['id']}").json
    assert shown["status"] == "active"
    assert shown["size"] == shown["virtual_size"] == len(data)
    assert shown["checksum"] == hashlib.md5(data).hexdigest()
    assert shown["os_hash_algo"] == "sha512"
    assert shown["os_hash_value"] == hashlib.sha512(data).hexdigest()
    assert shown["my_key"] == "my value" and shown["tags"] == ["a", "b"]
    assert shown["name"] == "tiny ☺" and shown["owner"] == "alpha"
    assert "locations" not in shown and "direct_url" not in shown
    got = cloud.call("GET", f"/v2/images/{made['id']}/file")
    assert got.content == data
    assert got.headers["content-md5"] == shown["checksum"]
    assert got.headers["content-length"] == str(len(data))
    listed = cloud.call("GET", "/v2/images").json
    assert [i["id"] for i in listed["images"]] == [made["id"]]
    assert listed["first"] == "/v2/images" and "next" not in listed


def test_data_is_immutable_once_active(cloud: Cloud) -> None:
    """S9"""
    image = cloud.active(b"first" * 200)
    again = cloud.call("PUT", f"/v2/images/{image['id']}/file", body=b"second")
    assert again.status_code == 409
    staged = cloud.call("PUT", f"/v2/images/{image['id']}/stage", body=b"second")
    assert staged.status_code == 409
    assert cloud.call("GET", f"/v2/images/{image['id']}/file").content == b"first" * 200
    assert cloud.files() == [image["id"]]


def test_a_queued_image_has_no_content(cloud: Cloud) -> None:
    image = cloud.make()
    assert cloud.call("GET", f"/v2/images/{image['id']}/file").status_code == 204


def test_head_of_a_file_opens_nothing_for_long(cloud: Cloud) -> None:
    image = cloud.active()
    got = cloud.call("HEAD", f"/v2/images/{image['id']}/file")
    assert got.status_code == 200 and got.headers["content-length"] == "1024"


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-2", 206, b"89"),
        ("bytes=5-500", 206, b"56789"),
        ("bytes=10-", 416, None),
        ("bytes=5-4", 416, None),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(cloud: Cloud, asked: str, status: int, content: bytes | None) -> None:
    image = cloud.active(b"0123456789")
    got = cloud.call("GET", f"/v2/images/{image['id']}/file", Range=asked)
    assert got.status_code == status
    if content is not None:
        assert got.content == content and got.headers["content-length"] == str(len(content))
    if status == 206:
        assert got.headers["content-range"].endswith("/10")


def test_stage_and_import_as_the_stock_client_does(cloud: Cloud) -> None:
    image = cloud.make()
    assert cloud.call("GET", "/v2/info/import").json["import-methods"]["value"] == ["glance-direct"]
    one = f"/v2/images/{image['id']}"
    body = {"method": {"name": "glance-direct"}}
    assert cloud.call("POST", one + "/import", json_body=body).status_code == 409
    assert cloud.call("PUT", one + "/stage", body=b"s" * 1000).status_code == 204
    staged = cloud.call("GET", one).json
    assert (staged["status"], staged["checksum"]) == ("uploading", None)
    assert cloud.call("PUT", one + "/file", body=b"other").status_code == 409
    assert cloud.call("GET", one + "/file").status_code == 204
    assert cloud.call("POST", one + "/import", json_body=body).status_code == 202
    shown = cloud.call("GET", one).json
    assert shown["status"] == "active" and shown["size"] == 1000
    assert shown["os_hash_value"] == hashlib.sha512(b"s" * 1000).hexdigest()
    assert cloud.call("GET", one + "/file").content == b"s" * 1000
    assert cloud.files() == [image["id"]]


@pytest.mark.parametrize("name", ["web-download", "copy-image", "glance-download", "nonsense"])
def test_nothing_is_fetched_from_urls(cloud: Cloud, name: str) -> None:
    """S12, S14: refused by name, and the staged bytes stay."""
    image = cloud.make()
    body = {"method": {"name": name, "uri": "http://169.254.169.254/"}}
    got = cloud.call("POST", f"/v2/images/{image['id']}/import", json_body=body)
    assert got.status_code == 400 and name in got.json["message"]


@pytest.mark.parametrize("by_import", [False, True])
def test_bytes_that_are_not_what_they_were_declared(
    cloud: Cloud, tmp_path: Any, by_import: bool
) -> None:
    """S1, S4: 400 with the reason; queued again; nothing stored; a sound upload still works."""
    bad = fx.create(tmp_path / "bad", "qcow2").read_bytes()
    image = cloud.make()
    one = f"/v2/images/{image['id']}"
    if by_import:
        assert cloud.call("PUT", one + "/stage", body=bad).status_code == 204
        body = {"method": {"name": "glance-direct"}}
        got = cloud.call("POST", one + "/import", json_body=body)
    else:
        got = cloud.call("PUT", one + "/file", body=bad)
    assert got.status_code == 400 and "qcow2" in got.json["message"]
    shown = cloud.call("GET", one).json
    assert (shown["status"], shown["size"], shown["checksum"]) == ("queued", None, None)
    assert cloud.files() == []
    assert cloud.call("PUT", one + "/file", body=b"sound" * 99).status_code == 204


def test_formats_must_be_known_before_data(cloud: Cloud) -> None:
    image = cloud.call("POST", "/v2/images", json_body={"name": "x"}).json
    got = cloud.call("PUT", f"/v2/images/{image['id']}/file", body=b"x")
    assert got.status_code == 400 and "disk_format" in got.json["message"]


def test_delete_removes_record_and_bytes_and_the_id_for_good(cloud: Cloud) -> None:
    image = cloud.active()
    one = f"/v2/images/{image['id']}"
    assert cloud.call("DELETE", one).status_code == 204
    assert cloud.call("GET", one).status_code == 404
    assert cloud.call("DELETE", one).status_code == 404
    assert cloud.files() == []
    again = cloud.call("POST", "/v2/images", json_body={"id": image["id"], "name": "again"})
    assert again.status_code == 409


def test_a_protected_image_stays(cloud: Cloud) -> None:
    image = cloud.active(protected=True)
    one = f"/v2/images/{image['id']}"
    assert cloud.call("DELETE", one).status_code == 403
    assert cloud.patch(image["id"], [{"op": "replace", "path": "/protected", "value": False}]).json
    assert cloud.call("DELETE", one).status_code == 204


def test_deactivated_bytes_are_for_administrators(cloud: Cloud) -> None:
    image = cloud.active()
    one = f"/v2/images/{image['id']}"
    assert cloud.call("POST", one + "/actions/deactivate").status_code == 204
    assert cloud.call("POST", one + "/actions/deactivate").status_code == 204
    assert cloud.call("GET", one).json["status"] == "deactivated"
    assert cloud.call("GET", one + "/file").status_code == 403
    assert cloud.call("GET", one + "/file", "root:admin").status_code == 200
    assert cloud.call("POST", one + "/actions/reactivate").status_code == 204
    assert cloud.call("GET", one + "/file").status_code == 200
    queued = cloud.make()
    got = cloud.call("POST", f"/v2/images/{queued['id']}/actions/deactivate")
    assert got.status_code == 403 and "queued" in got.json["message"]


def test_tags(cloud: Cloud) -> None:
    image = cloud.make()
    tag = f"/v2/images/{image['id']}/tags/blue%20moon"
    assert cloud.call("PUT", tag).status_code == 204
    assert cloud.call("PUT", tag).status_code == 204
    assert cloud.call("GET", f"/v2/images/{image['id']}").json["tags"] == ["blue moon"]
    found = cloud.call("GET", "/v2/images?tag=blue%20moon").json["images"]
    assert [i["id"] for i in found] == [image["id"]]
    assert cloud.call("GET", "/v2/images?tag=blue%20moon&tag=red").json["images"] == []
    assert cloud.call("DELETE", tag).status_code == 204
    assert cloud.call("DELETE", tag).status_code == 404


def test_patch_changes_fields_and_properties(cloud: Cloud) -> None:
    image = cloud.make(colour="red")
    ops = [
        {"op": "replace", "path": "/name", "value": "new"},
        {"op": "add", "path": "/a~1b~0c", "value": "slash and tilde"},
        {"op": "replace", "path": "/colour", "value": "blue"},
        {"op": "add", "path": "/min_ram", "value": 64},
        {"op": "replace", "path": "/tags", "value": ["x", "y", "x"]},
        {"op": "replace", "path": "/os_hidden", "value": True},
    ]
    got = cloud.patch(image["id"], ops)
    assert got.status_code == 200, got.text
    shown = got.json
    assert shown["name"] == "new" and shown["a/b~c"] == "slash and tilde"
    assert shown["colour"] == "blue" and shown["min_ram"] == 64 and shown["tags"] == ["x", "y"]
    assert shown["os_hidden"] is True
    gone = cloud.patch(image["id"], [{"op": "remove", "path": "/colour"}]).json
    assert "colour" not in gone
    old = "application/openstack-images-v2.0-json-patch"
    body = [{"replace": "/name", "value": "older"}]
    got = cloud.call("PATCH", f"/v2/images/{image['id']}", json_body=body, Content_Type=old)
    assert got.json["name"] == "older"


@pytest.mark.parametrize(
    ("op", "status", "names"),
    [
        ({"op": "replace", "path": "/id", "value": MISSING}, 403, "id"),
        ({"op": "replace", "path": "/status", "value": "active"}, 403, "status"),
        ({"op": "replace", "path": "/checksum", "value": "x"}, 403, "checksum"),
        (
            {"op": "add", "path": "/locations/-", "value": {"url": "file:///etc/passwd"}},
            403,
            "ocations",
        ),
        ({"op": "replace", "path": "/locations", "value": []}, 403, "ocations"),
        ({"op": "add", "path": "/os_glance_x", "value": "x"}, 403, "os_glance_x"),
        ({"op": "replace", "path": "/owner", "value": "beta"}, 403, "beta"),
        ({"op": "replace", "path": "/visibility", "value": "public"}, 403, "publicize_image"),
        ({"op": "remove", "path": "/disk_format"}, 403, "disk_format"),
        ({"op": "remove", "path": "/nothing"}, 409, "nothing"),
        ({"op": "replace", "path": "/nothing", "value": "x"}, 409, "nothing"),
        ({"op": "replace", "path": "/min_disk", "value": -1}, 400, "min_disk"),
        ({"op": "replace", "path": "/min_disk", "value": 1 << 40}, 400, "min_disk"),
        ({"op": "replace", "path": "/name", "value": "x" * 256}, 400, "name"),
        ({"op": "replace", "path": "/visibility", "value": "secret"}, 400, "visibility"),
        ({"op": "add", "path": "/colour", "value": 5}, 400, "colour"),
        ({"op": "add", "path": "/a/b", "value": "x"}, 400, "a/b"),
        ({"op": "add", "path": "colour", "value": "x"}, 400, "colour"),
        ({"op": "add", "path": "/~2", "value": "x"}, 400, "tilde"),
        ({"op": "add", "path": "/colour"}, 400, "value"),
        ({"op": "move", "path": "/colour", "from": "/x"}, 400, "move"),
        ("nonsense", 400, "object"),
    ],
)
def test_patches_that_are_refused_say_why(cloud: Cloud, op: Any, status: int, names: str) -> None:
    image = cloud.make()
    before = cloud.call("GET", f"/v2/images/{image['id']}").json
    got = cloud.patch(image["id"], [{"op": "add", "path": "/first", "value": "1"}, op])
    assert got.status_code == status, got.text
    assert names in got.json["message"]
    assert cloud.call("GET", f"/v2/images/{image['id']}").json == before, "half of it was done"


def test_patch_needs_its_media_type_and_a_list(cloud: Cloud) -> None:
    image = cloud.make()
    one = f"/v2/images/{image['id']}"
    assert cloud.call("PATCH", one, json_body=[]).status_code == 415
    assert cloud.patch(image["id"], {"op": "add"}).status_code == 400
    assert cloud.patch(image["id"], []).status_code == 200


def test_formats_are_fixed_once_there_is_data(cloud: Cloud) -> None:
    image = cloud.active()
    op = {"op": "replace", "path": "/disk_format", "value": "qcow2"}
    assert cloud.patch(image["id"], [op]).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"disk_format": "warp"}, 400, "disk_format"),
        ({"container_format": "docker"}, 400, "container_format"),
        ({"name": "n" * 256}, 400, "name"),
        ({"min_ram": "lots"}, 400, "min_ram"),
        ({"protected": "yes"}, 400, "protected"),
        ({"id": "../../etc/passwd"}, 400, "id"),
        ({"id": "a b"}, 400, "id"),
        ({"visibility": "public"}, 403, "publicize_image"),
        ({"owner": "beta"}, 403, "beta"),
        ({"status": "active"}, 403, "status"),
        ({"locations": [{"url": "file:///etc/passwd"}]}, 403, "locations"),
        ({"os_glance_import": "x"}, 403, "os_glance"),
        ({"colour": None}, 400, "colour"),
        ({"tags": ["t" * 256]}, 400, "tags"),
        ({f"p{i}": "x" for i in range(200)}, 413, "128"),
        ([], 400, "object"),
        ("text", 400, "object"),
    ],
)
def test_records_that_are_refused_say_why(cloud: Cloud, body: Any, status: int, names: str) -> None:
    got = cloud.call("POST", "/v2/images", json_body=body)
    assert got.status_code == status, got.text
    assert names in got.json["message"]
    assert cloud.call("GET", "/v2/images").json["images"] == []


def test_other_media_types_are_refused(cloud: Cloud) -> None:
    image = cloud.make()
    path = f"/v2/images/{image['id']}/file"
    assert cloud.call("PUT", path, body=b"x", Content_Type="application/json").status_code == 415
    assert cloud.call("GET", f"/v2/images/{image['id']}").json["status"] == "queued"


def test_an_image_of_volumes_may_be_empty(cloud: Cloud) -> None:
    image = cloud.active(b"", block_device_mapping="[]")
    assert (image["status"], image["size"], image["virtual_size"]) == ("active", 0, 0)
    plain = cloud.make()
    got = cloud.call("PUT", f"/v2/images/{plain['id']}/file", body=b"")
    assert got.status_code == 400 and "empty" in got.json["message"]


def test_what_the_service_says_of_itself(cloud: Cloud) -> None:
    top = cloud.call("GET", "", who="")
    assert top.status_code == 300
    assert top.json["versions"][0]["links"][0]["href"] == "http://cloud:8774/image/v2/"
    assert cloud.call("GET", "/versions", who="").status_code == 200
    assert cloud.call("GET", "/v2/", who="").status_code == 300
    for name in ("image", "images", "member", "members"):
        assert cloud.call("GET", f"/v2/schemas/{name}").json["name"] == name
    assert cloud.call("GET", "/v2/info/stores").json["stores"][0]["id"] == "local"
    assert cloud.call("GET", "/v2/tasks", "root:admin").json["tasks"] == []
    assert cloud.call("GET", f"/v2/tasks/{MISSING}", "root:admin").status_code == 404
    assert cloud.call("GET", "/v2/images", who="").status_code == 401
    assert cloud.call("GET", "/v3").status_code == 404


def test_the_schema_describes_what_is_shown(cloud: Cloud) -> None:
    import jsonschema_rs

    schema = cloud.call("GET", "/v2/schemas/image").json
    for image in (cloud.make(colour="red"), cloud.active()):
        jsonschema_rs.validate(schema, image)
        assert set(image) - {"colour"} <= set(schema["properties"])


def test_restart_keeps_everything(cloud: Cloud) -> None:
    image = cloud.active(b"kept" * 300, name="kept")
    staged = cloud.make()
    assert cloud.call("PUT", f"/v2/images/{staged['id']}/stage", body=b"s" * 99).status_code == 204
    EmbeddedImages(cloud.database, cloud.root / "data", cloud.clock)
    assert cloud.call("GET", f"/v2/images/{image['id']}/file").content == b"kept" * 300
    body = {"method": {"name": "glance-direct"}}
    got = cloud.call("POST", f"/v2/images/{staged['id']}/import", json_body=body)
    assert got.status_code == 202


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "\\ud800"}',
        b'{"min_disk": 1180591620717411303424}',
        b'{"min_disk": 1e400}',
        b'{"min_ram": 1.5}',
        b'{"\\u0000": "x"}',
        b'{"": "x"}',
        b'{"tags": {}}',
        b"[" * 100_000,
        b'{"name": "x"',
        b"\xff\xfe",
    ],
)
def test_odd_json_is_refused(cloud: Cloud, body: bytes) -> None:
    got = cloud.call("POST", "/v2/images", body=body, Content_Type="application/json")
    assert got.status_code == 400, got.text


@pytest.mark.parametrize(
    "query",
    [
        "created_at=gt:0001-01-01T00:00:00%2B14:00",
        "created_at=gt:9999-12-31T23:59:59-14:00",
        "updated_at=:",
        "name=%ff",
        "name=in:",
        "size_min=999999999999999999",
        "a%00b=c%00d",
        "limit=%C2%B2",
        "%F0%9F%98%80=%F0%9F%98%80",
        "sort=",
        "sort=:",
        "marker=",
        "id=in:" + "x," * 3000,
        "&".join(f"p{i}=1" for i in range(490)),
    ],
)
def test_odd_queries_are_answered(cloud: Cloud, query: str) -> None:
    assert cloud.call("GET", f"/v2/images?{query}").status_code in (200, 400)
