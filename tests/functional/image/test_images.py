"""Images from record to bytes and back, through the API."""

import hashlib

from tests.functional.image.conftest import Cloud


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
