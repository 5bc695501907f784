"""Tokens: methods, scopes, expiry, revocation."""

from typing import Any

from tests.functional.identity.conftest import URL, Cloud

SAME_WORDS = "The request you have made requires authentication."


def test_a_password_gives_a_project_token(cloud: Cloud) -> None:
    answer = cloud.login("demo")
    token = answer.json["token"]
    assert answer.status_code == 201
    assert token["methods"] == ["password"]
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["project"]["name"] == "demo"
    assert token["is_domain"] is False
    assert {r["name"] for r in token["roles"]} == {"member", "reader"}
    assert token["expires_at"].endswith(".000000Z")
    kinds = [s["type"] for s in token["catalog"]]
    assert kinds == ["identity", "compute", "image", "network", "placement"]
    assert all(len(s["endpoints"]) == 3 for s in token["catalog"])
    assert token["catalog"][0]["endpoints"][0]["region_id"] == "RegionOne"


def test_validation_shows_the_same_body(cloud: Cloud) -> None:
    made = cloud.login("demo")
    token = made.headers["X-Subject-Token"]
    for method in ("GET", "HEAD"):
        seen = cloud.call(method, "/auth/tokens", token, X_Subject_Token=token)
        assert seen.status_code == 200
        assert seen.headers["X-Subject-Token"] == token
        if method == "GET":
            assert seen.json == made.json
    bare = cloud.call("GET", "/auth/tokens?nocatalog", token, X_Subject_Token=token)
    assert "catalog" not in bare.json["token"]


def test_discovery_has_absolute_links(cloud: Cloud) -> None:
    top = cloud.client.simulate_get("/identity")
    assert top.status_code == 300
    v3: Any = top.json["versions"]["values"][0]
    assert v3["links"] == [{"rel": "self", "href": f"{URL}/identity/v3/"}]
    assert cloud.client.simulate_get("/identity/").status_code == 300
    for path in ("/identity/v3", "/identity/v3/"):
        assert cloud.client.simulate_get(path).json["version"] == v3
