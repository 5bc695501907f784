"""Key pairs at the microversions where they change."""

import pytest

from kilonova.operations import keys
from tests.functional.compute.conftest import Cloud

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK0wmN/Cr3JXqmLW7u+g9pTh+wyqDHpSQEIQczXkVx9q me@here"
LATE = {"user_id", "created_at", "deleted", "deleted_at", "id", "updated_at"}
BASE = {"name", "public_key", "fingerprint"}


@pytest.mark.parametrize(
    ("at", "status", "gone", "more"),
    [(1, 200, 202, set()), (2, 201, 204, {"type"}), (104, 201, 204, {"type"})],
)
def test_fields_and_statuses(cloud: Cloud, at: int, status: int, gone: int, more: set[str]) -> None:
    body = {"keypair": {"name": "k", "public_key": KEY}}
    made = cloud.call("POST", "/os-keypairs", body, at=at, status=status)["keypair"]
    assert set(made) == BASE | more | {"user_id"}
    assert made["fingerprint"].count(":") == 15
    assert set(cloud.get("/os-keypairs/k", at=at)["keypair"]) == BASE | LATE | more
    (listed,) = cloud.get("/os-keypairs", at=at)["keypairs"]
    assert set(listed["keypair"]) == BASE | more
    say = cloud.message("POST", "/os-keypairs", body, at=at, status=409)
    assert say == "Key pair 'k' already exists."
    cloud.call("DELETE", "/os-keypairs/k", at=at, status=gone)
    say = cloud.message("DELETE", "/os-keypairs/k", at=at, status=404)
    assert say == "Keypair k not found for user u-demo"


def test_generated_until_2_91(cloud: Cloud) -> None:
    made = cloud.call("POST", "/os-keypairs", {"keypair": {"name": "g"}}, at=91, status=201)
    pair = made["keypair"]
    assert pair["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert pair["public_key"].startswith("ssh-rsa ")
    assert keys.ssh_fingerprint(pair["public_key"]) == pair["fingerprint"]
    assert "private_key" not in cloud.get("/os-keypairs/g", at=91)["keypair"]
    cloud.call("POST", "/os-keypairs", {"keypair": {"name": "h"}}, at=92, status=400)


def test_x509(cloud: Cloud) -> None:
    body = {"keypair": {"name": "c", "type": "x509"}}
    cloud.call("POST", "/os-keypairs", body, at=1, status=400)
    pair = cloud.call("POST", "/os-keypairs", body, at=2, status=201)["keypair"]
    assert pair["public_key"].startswith("-----BEGIN CERTIFICATE-----")
    assert pair["fingerprint"].count(":") == 19
    again = {"keypair": {"name": "d", "type": "x509", "public_key": pair["public_key"]}}
    assert (
        cloud.call("POST", "/os-keypairs", again, status=201)["keypair"]["fingerprint"]
        == pair["fingerprint"]
    )
    wrong = {"keypair": {"name": "e", "type": "x509", "public_key": KEY}}
    cloud.call("POST", "/os-keypairs", wrong, status=400)


@pytest.mark.parametrize(
    "key", ["", "ssh-rsa", "ssh-rsa AAAA", "nonsense", "ssh-foo AAAA x", "\u2603"]
)
def test_nonsense_keys(cloud: Cloud, key: str) -> None:
    body = {"keypair": {"name": "n", "public_key": key}}
    cloud.call("POST", "/os-keypairs", body, status=400)


def test_names(cloud: Cloud) -> None:
    for name, at, status in (
        ("a@b.c", 91, 400),
        ("a@b.c", 92, 201),
        ("a/b", 92, 400),
        (" a", 1, 400),
    ):
        body = {"keypair": {"name": name, "public_key": KEY}}
        cloud.call("POST", "/os-keypairs", body, at=at, status=status)
    assert cloud.get("/os-keypairs/a@b.c")["keypair"]["name"] == "a@b.c"


def test_other_users_from_2_10(cloud: Cloud) -> None:
    body = {"keypair": {"name": "o", "public_key": KEY, "user_id": "u-demo"}}
    cloud.call("POST", "/os-keypairs", body, at=9, as_="admin", status=400)
    cloud.call("POST", "/os-keypairs", body, at=10, as_="admin", status=201)
    cloud.get("/os-keypairs/o")
    assert cloud.get("/os-keypairs?user_id=u-demo", as_="admin", at=9)["keypairs"] == []
    assert len(cloud.get("/os-keypairs?user_id=u-demo", as_="admin", at=10)["keypairs"]) == 1
    cloud.get("/os-keypairs?user_id=u-demo", as_="other", at=10, status=403)
    cloud.call("POST", "/os-keypairs", body, as_="other", status=403)
    cloud.get("/os-keypairs?x=1", at=74)
    cloud.get("/os-keypairs?x=1", at=75, status=400)


def test_pages_from_2_35(cloud: Cloud) -> None:
    for name in ("b", "a", "c"):
        body = {"keypair": {"name": name, "public_key": KEY}}
        cloud.call("POST", "/os-keypairs", body, status=201)
    assert len(cloud.get("/os-keypairs?limit=1", at=34)["keypairs"]) == 3
    first = cloud.get("/os-keypairs?limit=2", at=35)
    assert [k["keypair"]["name"] for k in first["keypairs"]] == ["a", "b"]
    rest = cloud.get("/os-keypairs?" + first["keypairs_links"][0]["href"].partition("?")[2], at=35)
    assert [k["keypair"]["name"] for k in rest["keypairs"]] == ["c"]
    say = cloud.message("GET", "/os-keypairs?marker=zz", at=35, status=400)
    assert say == "Marker zz could not be found."


def test_quota(cloud: Cloud) -> None:
    limit = {"quota_set": {"key_pairs": 1}}
    cloud.call("PUT", "/os-quota-sets/demo0000", limit, as_="admin", status=200)
    cloud.call("POST", "/os-keypairs", {"keypair": {"name": "1", "public_key": KEY}}, status=201)
    body = {"keypair": {"name": "2", "public_key": KEY}}
    say = cloud.message("POST", "/os-keypairs", body, status=403)
    assert say == "Quota exceeded, too many key pairs."
