"""Tokens: methods, scopes, expiry, revocation."""

import stat
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.errors import Unauthorized
from kilonova.identity.embedded.identity import EmbeddedIdentity
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


def test_every_scope(cloud: Cloud) -> None:
    ids = cloud.seeded.projects
    by_id = cloud.login("demo", scope={"project": {"id": ids["demo"]}})
    assert by_id.json["token"]["project"]["id"] == ids["demo"]
    system = cloud.login("admin", scope={"system": {"all": True}}).json["token"]
    assert system["system"] == {"all": True}
    assert "project" not in system
    assert {r["name"] for r in system["roles"]} == {"admin", "manager", "member", "reader"}
    none = cloud.login("demo", scope="unscoped").json["token"]
    assert not {"project", "roles", "catalog", "system", "domain"} & none.keys()
    default = cloud.login("demo", scope=None).json["token"]
    assert default["project"]["id"] == ids["demo"], (
        "the default project is used when no scope is named"
    )
    assert cloud.login("demo", scope={"system": {"all": True}}).status_code == 401
    assert cloud.login("demo", scope="admin").status_code == 401
    assert cloud.login("demo", scope={"domain": {"id": "default"}}).status_code == 401
    assert cloud.login("demo", scope="no-such-project").status_code == 401


def test_domain_scope(cloud: Cloud, admin: str) -> None:
    role = cloud.seeded.roles["manager"]
    path = f"/domains/default/users/{cloud.seeded.users['demo']}/roles/{role}"
    assert cloud.call("PUT", path, admin).status_code == 204
    token = cloud.login("demo", scope={"domain": {"name": "Default"}}).json["token"]
    assert token["domain"] == {"id": "default", "name": "Default"}
    assert {r["name"] for r in token["roles"]} == {"manager", "member", "reader"}


def rescope(cloud: Cloud, token: str, scope: Any) -> Any:
    auth: Any = {"identity": {"methods": ["token"], "token": {"id": token}}}
    if scope is not None:
        auth["scope"] = scope
    return cloud.call("POST", "/auth/tokens", body={"auth": auth})


def test_rescoping_keeps_the_end_and_the_history(cloud: Cloud) -> None:
    first = cloud.login("admin", scope="unscoped")
    cloud.clock.advance(600)
    second = rescope(
        cloud,
        first.headers["X-Subject-Token"],
        {"project": {"id": cloud.seeded.projects["demo"]}},
    )
    assert second.status_code == 201
    a, b = first.json["token"], second.json["token"]
    assert b["expires_at"] == a["expires_at"], "a token made from another does not outlive it"
    assert b["issued_at"] > a["issued_at"]
    assert b["methods"] == ["token", "password"]
    assert b["audit_ids"][1] == a["audit_ids"][0]
    third = rescope(cloud, second.headers["X-Subject-Token"], {"system": {"all": True}})
    assert third.json["token"]["expires_at"] == a["expires_at"]
    refused = rescope(
        cloud, cloud.token("demo"), {"project": {"name": "admin", "domain": {"id": "default"}}}
    )
    assert refused.status_code == 401


def alive(cloud: Cloud, token: str) -> bool:
    answer = cloud.call("GET", "/auth/catalog", token)
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def test_a_token_ends_at_its_time(cloud: Cloud) -> None:
    """S24"""
    token = cloud.token("demo")
    cloud.clock.advance(4 * 3600 - 1)
    assert alive(cloud, token)
    cloud.clock.advance(1)
    assert not alive(cloud, token)
    fresh = cloud.token("admin", scope="admin")
    seen = cloud.call("GET", "/auth/tokens", fresh, X_Subject_Token=token)
    assert seen.status_code == 404


def test_a_token_is_revoked_by_its_owner_alone(cloud: Cloud, admin: str) -> None:
    """S24"""
    one, two = cloud.token("demo"), cloud.token("demo")
    stranger = cloud.make(admin, "users", "user", name="eve", password="x")
    role = cloud.seeded.roles["member"]
    cloud.call(
        "PUT",
        f"/projects/{cloud.seeded.projects['demo']}/users/{stranger['id']}/roles/{role}",
        admin,
    )
    eve = cloud.token("eve", "x")
    assert cloud.call("DELETE", "/auth/tokens", eve, X_Subject_Token=one).status_code == 403
    assert cloud.call("GET", "/auth/tokens", eve, X_Subject_Token=one).status_code == 403
    assert alive(cloud, one)
    assert cloud.call("DELETE", "/auth/tokens", one, X_Subject_Token=one).status_code == 204
    assert not alive(cloud, one)
    assert alive(cloud, two), "only the token named is revoked"
    assert cloud.call("DELETE", "/auth/tokens", admin, X_Subject_Token=two).status_code == 204
    assert not alive(cloud, two)


def test_what_a_token_rests_on_ends_it_at_once(cloud: Cloud, admin: str) -> None:
    """S24: password change, disabled or deleted user, project and domain, lost roles."""
    demo, project = cloud.seeded.users["demo"], cloud.seeded.projects["demo"]

    def patch(path: str, noun: str, **values: Any) -> None:
        answer = cloud.call("PATCH", path, admin, {noun: values})
        assert answer.status_code == 200, answer.text

    token = cloud.token("demo")
    assert alive(cloud, token)
    patch(f"/users/{demo}", "user", password="new")
    assert not alive(cloud, token)
    token = cloud.token("demo", "new")
    patch(f"/users/{demo}", "user", enabled=False)
    assert not alive(cloud, token)
    assert cloud.login("demo", "new").status_code == 401
    patch(f"/users/{demo}", "user", enabled=True)
    assert not alive(cloud, token), "a token of before does not come back"
    token = cloud.token("demo", "new")
    patch(f"/projects/{project}", "project", enabled=False)
    assert not alive(cloud, token)
    assert cloud.login("demo", "new").status_code == 401
    patch(f"/projects/{project}", "project", enabled=True)
    assert not alive(cloud, token)
    token = cloud.token("demo", "new")
    grant = f"/projects/{project}/users/{demo}/roles/{cloud.seeded.roles['member']}"
    assert cloud.call("DELETE", grant, admin).status_code == 204
    assert not alive(cloud, token)
    assert cloud.call("PUT", grant, admin).status_code == 204
    token = cloud.token("demo", "new")
    assert cloud.call("DELETE", f"/users/{demo}", admin).status_code == 204
    assert not alive(cloud, token)


def test_a_role_taken_away_is_gone_from_the_token(cloud: Cloud, admin: str) -> None:
    demo, project = cloud.seeded.users["demo"], cloud.seeded.projects["demo"]
    grant = f"/projects/{project}/users/{demo}/roles/{cloud.seeded.roles['admin']}"
    cloud.call("PUT", grant, admin)
    token = cloud.token("demo")
    assert cloud.call("GET", "/users", token).status_code == 200
    cloud.call("DELETE", grant, admin)
    assert cloud.call("GET", "/users", token).status_code == 403
    assert alive(cloud, token)


def test_another_process_sees_a_revocation_within_half_a_second(cloud: Cloud, admin: str) -> None:
    other = EmbeddedIdentity(cloud.database, cloud.identity.keys._dir, cloud.clock)
    token = cloud.token("demo")
    assert other.authenticate(token, None, "req-1").user_name == "demo"
    cloud.call("DELETE", "/auth/tokens", token, X_Subject_Token=token)
    cloud.clock.advance(0.6)
    with pytest.raises(Unauthorized):
        other.authenticate(token, None, "req-2")


def test_keys_rotate_and_old_tokens_live_on(cloud: Cloud, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    token = cloud.token("demo")
    cloud.clock.advance(60)
    cloud.identity.keys.rotate()
    assert len(list(keys.iterdir())) == 2
    assert all(stat.S_IMODE(k.stat().st_mode) == 0o600 for k in keys.iterdir())
    fresh = EmbeddedIdentity(cloud.database, keys, cloud.clock)
    assert fresh.authenticate(token, None, "r").user_name == "demo", "restart keeps sessions"
    # one process rotates, another meets the new key
    cloud.clock.advance(60)
    cloud.identity.keys.rotate()
    assert fresh.authenticate(cloud.token("demo"), None, "r").user_name == "demo"
    cloud.clock.advance(8 * 86400)
    cloud.token("demo")  # the newest key is too old: it is replaced
    names = sorted(k.name for k in keys.iterdir())
    assert len(names) == 2, "keys that no living token needs are gone"


def test_the_clouds_own_token(cloud: Cloud) -> None:
    token = cloud.identity.service_token()
    assert cloud.identity.service_token() == token
    ctx = cloud.identity.authenticate(token.reveal(), None, "r")
    assert ctx.is_service
    assert {"admin", "service"} <= set(ctx.roles)
    assert ctx.user_id == "kilonova"
    cloud.clock.advance(4 * 3600 - 800)
    renewed = cloud.identity.service_token()
    assert renewed != token
    user = cloud.identity.authenticate(cloud.token("demo"), renewed.reveal(), "r")
    assert user.is_service
    assert user.user_name == "demo"
    other = cloud.identity.authenticate(cloud.token("demo"), cloud.token("demo"), "r")
    assert not other.is_service, "a token without the role service vouches for nobody"
