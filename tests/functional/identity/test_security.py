"""Who may do what: no token, forged headers, guessing, roles against routes, secrets in answers and logs."""

import re
from typing import Any

import pytest

from kilonova.http.policy import PUBLIC
from kilonova.identity.embedded import passwords
from kilonova.identity.embedded.service import routes
from tests.functional.identity.conftest import Cloud

SAME_WORDS = "The request you have made requires authentication."


def fill(cloud: Cloud, path: str) -> str:
    """Put ids of things that exist into a path."""
    ids = {
        "project_id": cloud.seeded.projects["admin"],
        "user_id": cloud.seeded.users["admin"],
        "role_id": cloud.seeded.roles["reader"],
        "implied_id": cloud.seeded.roles["reader"],
        "domain_id": "default",
        "region_id": "RegionOne",
    }
    return re.sub(r"\{(\w+)\}", lambda m: ids.get(m[1], "x"), path.removeprefix("/v3"))


def test_nothing_without_a_token(cloud: Cloud) -> None:
    """S22: every route but version documents and login refuses alike."""
    bad = [None, "", "x", "x" * 300, "gAAAAA" + "A" * 200, "ä" * 150, "é", "\x00"]
    for route in routes(cloud.identity):
        if route.policy == PUBLIC:
            continue
        for token in bad if "tokens" in route.path else [None, "gAAAAA" + "A" * 200]:
            answer = cloud.call(route.method, fill(cloud, route.path), token, {"x": 1})
            assert answer.status_code == 401, (route.method, route.path, token)
            if route.method != "HEAD":
                assert answer.json["error"]["message"] == SAME_WORDS
            assert answer.headers["WWW-Authenticate"].startswith("Keystone uri=")


def test_a_member_changes_nothing_and_reads_only_itself(cloud: Cloud, demo: str) -> None:
    """S19: what a member may do, route by route; a new route must be placed here."""
    allowed = {
        "identity:get_auth_catalog",
        "identity:get_auth_projects",
        "identity:get_auth_domains",
        "identity:get_auth_system",
        "identity:get_domain",
        "identity:get_region",
        "identity:list_regions",
    }
    knowing = {
        "identity:change_password": 400
    }  # whoever knows the old password: the body is looked at
    for route in routes(cloud.identity):
        if route.policy == PUBLIC:
            continue
        body = {"x": 1} if route.method in ("POST", "PUT", "PATCH") else None
        answer = cloud.call(route.method, fill(cloud, route.path), demo, body)
        if route.path.endswith("/auth/tokens"):
            assert answer.status_code == 404, "no subject: Keystone looks for the token first"
        elif route.policy in allowed:
            assert answer.status_code == 200, (route.method, route.path)
        else:
            wanted = knowing.get(route.policy, 403)
            assert answer.status_code == wanted, (route.method, route.path, answer.text)


def test_missing_and_foreign_look_alike(cloud: Cloud, demo: str) -> None:
    """S19"""
    for path, id_ in (
        ("/projects/", cloud.seeded.projects["admin"]),
        ("/users/", cloud.seeded.users["admin"]),
    ):
        foreign = cloud.call("GET", path + id_, demo)
        missing = cloud.call("GET", path + "0" * 32, demo)
        assert foreign.status_code == missing.status_code == 403
        assert foreign.json == missing.json
    assert cloud.call("GET", "/users/" + cloud.seeded.users["demo"], demo).status_code == 200
    assert cloud.call("GET", "/projects/" + cloud.seeded.projects["demo"], demo).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "X-Roles",
        "X-Role",
        "X-User-Id",
        "X-Project-Id",
        "X-Tenant-Id",
        "X-Domain-Id",
        "X-Is-Admin",
        "X-Is-Admin-Project",
        "X-Service-Roles",
        "X-Service-User-Id",
        "X-Identity-Status",
        "OpenStack-System-Scope",
        "X-System-Scope",
    ],
)
def test_forged_headers_do_nothing(cloud: Cloud, demo: str, header: str) -> None:
    """S23"""
    for value in ("admin", cloud.seeded.users["admin"], "all", "True"):
        assert cloud.call("GET", "/users", demo, **{header: value}).status_code == 403
        assert cloud.call("GET", "/users", **{header: value}).status_code == 401


def test_all_wrong_proofs_read_alike(cloud: Cloud, admin: str) -> None:
    cloud.make(admin, "users", "user", name="off", password="right", enabled=False)
    cloud.make(admin, "users", "user", name="keyless")
    answers = [
        cloud.login("demo", "wrong"),
        cloud.login("nobody", "wrong"),
        cloud.login("off", "right"),
        cloud.login("keyless", "wrong"),
        cloud.login("demo", scope="admin"),
        cloud.login("demo", scope="missing"),
    ]
    assert {a.status_code for a in answers} == {401}
    assert {a.json["error"]["message"] for a in answers} == {SAME_WORDS}


def test_wrong_and_unknown_cost_the_same(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal derives exactly one key: there is nothing to tell them apart by time."""
    made: list[Any] = []
    derive = passwords._derive
    monkeypatch.setattr(passwords, "_derive", lambda *a: made.append(a[2:]) or derive(*a))
    for user in ("demo", "nobody"):
        cloud.login(user, "wrong")
    assert len(made) == 2
    assert made[0] == made[1]


@pytest.mark.parametrize("user", ["demo", "nobody"])
def test_guessing_is_stopped_for_a_minute(
    cloud: Cloud, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(10):
        assert cloud.login(user, f"guess-{n}").status_code == 401
    monkeypatch.setattr(
        passwords, "matches", lambda *a: pytest.fail("a locked name costs no check")
    )
    assert cloud.login(user).status_code == 401, "even the right password"
    monkeypatch.undo()
    monkeypatch.setattr(passwords, "LOG2_N", 4)
    cloud.clock.advance(61)
    assert cloud.login(user).status_code == (201 if user == "demo" else 401)


def test_a_right_password_forgets_failures(cloud: Cloud) -> None:
    for _ in range(3):
        for n in range(9):
            cloud.login("demo", f"guess-{n}")
        assert cloud.login("demo").status_code == 201


def test_a_flood_of_guesses_leaves_room_for_others(cloud: Cloud, demo: str) -> None:
    for n in range(20):
        cloud.login(f"user{n}", "x")
    check = cloud.identity.passwords
    with check._slots, check._slots:  # both places are taken
        answer = cloud.login("admin", scope="admin")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert cloud.call("GET", "/auth/catalog", demo).status_code == 200
    assert cloud.login("admin", scope="admin").status_code == 201


def test_strangers_leave_nothing_behind(cloud: Cloud) -> None:
    """S39: neither in the database nor without bound in memory."""
    rows = cloud.database.read(lambda tx: tx._conn.total_changes)
    before = (cloud.database.commits, len(cloud.identity._cache))
    for n in range(50):
        cloud.login(f"stranger{n}", "x")
        cloud.call("GET", "/auth/catalog", "gAAAAA" + "A" * 200)
    assert (cloud.database.commits, len(cloud.identity._cache)) == before
    assert cloud.database.read(lambda tx: tx._conn.total_changes) == rows
    passwords.REMEMBERED, kept = 8, passwords.REMEMBERED
    try:
        for n in range(50):
            cloud.login(f"other{n}", "x")
        assert len(cloud.identity.passwords._failures) <= 8
    finally:
        passwords.REMEMBERED = kept


def test_no_secret_in_answers_logs_or_files(
    cloud: Cloud, admin: str, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """S35: a canary in every field that holds a secret, also in bodies that are refused."""
    canary = "CANARY-92f1"
    caplog.set_level("DEBUG")
    seen = []
    user = cloud.call(
        "POST", "/users", admin, {"user": {"name": "u", "password": canary, "options": {}}}
    )
    seen.append(user)
    uid = user.json["user"]["id"]
    for body in (
        {"user": {"name": 1, "password": canary}},
        {"user": {"password": canary}},
        {"user": {"name": "v", "password": {"deep": canary}}},
        {"user": canary},
        {"user": {"name": "x" * 300, "password": canary}},
        {"user": {"name": "v", "password": canary + "x" * 5000}},
        {"user": {"name": "v", "password": canary, "domain_id": "nowhere"}},
    ):
        refused = cloud.call("POST", "/users", admin, body)
        assert refused.status_code == (404 if "nowhere" in str(body) else 400)
        seen.append(refused)
    for auth in (
        {"identity": {"methods": ["password"], "password": {"user": {"password": canary}}}},
        {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"id": uid, "password": [canary]}},
            }
        },
        {"identity": {"methods": ["token"], "token": {"id": canary}}},
        {
            "identity": {
                "methods": ["application_credential"],
                "application_credential": {"secret": canary},
            }
        },
        {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"id": uid, "password": canary}},
            }
        },
    ):
        seen.append(cloud.call("POST", "/auth/tokens", body={"auth": auth}))
    seen.append(cloud.call("PATCH", f"/users/{uid}", admin, {"user": {"password": canary + "2"}}))
    for answer in seen:
        assert canary not in answer.text, answer.text
        assert canary not in str(answer.headers)
    assert canary not in caplog.text
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert canary.encode() not in file.read_bytes(), file


def test_a_domain_manager_stays_in_its_domain(cloud: Cloud, admin: str) -> None:
    acme = cloud.make(admin, "domains", "domain", name="acme")
    boss = cloud.make(admin, "users", "user", name="boss", domain_id=acme["id"], password="b")
    roles = cloud.seeded.roles
    grant = f"/domains/{acme['id']}/users/{boss['id']}/roles/{roles['manager']}"
    assert cloud.call("PUT", grant, admin).status_code == 204
    auth = {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"id": boss["id"], "password": "b"}},
        },
        "scope": {"domain": {"id": acme["id"]}},
    }
    token = cloud.call("POST", "/auth/tokens", body={"auth": auth}).headers["X-Subject-Token"]
    user = cloud.make(token, "users", "user", name="worker", password="w")
    project = cloud.make(token, "projects", "project", name="works")
    assert user["domain_id"] == project["domain_id"] == acme["id"]
    place = f"/projects/{project['id']}/users/{user['id']}/roles/"
    assert cloud.call("PUT", place + roles["member"], token).status_code == 204
    assert cloud.call("PUT", place + roles["admin"], token).status_code == 403
    foreign = {"user": {"name": "x", "domain_id": "default"}}
    assert cloud.call("POST", "/users", token, foreign).status_code == 403
    demo = cloud.seeded.users["demo"]
    assert (
        cloud.call("PATCH", f"/users/{demo}", token, {"user": {"enabled": False}}).status_code
        == 403
    )
    assert cloud.call("GET", f"/users/{demo}", token).status_code == 403
    theirs = f"/projects/{cloud.seeded.projects['demo']}/users/{user['id']}/roles/{roles['member']}"
    assert cloud.call("PUT", theirs, token).status_code == 403
    mine = f"/projects/{project['id']}/users/{demo}/roles/{roles['member']}"
    assert cloud.call("PUT", mine, token).status_code == 403
    listed = cloud.call("GET", "/users", token).json["users"]
    assert {u["name"] for u in listed} == {"boss", "worker"}
    assert cloud.call("GET", "/users?domain_id=default", token).json["users"] == []
    assert [p["name"] for p in cloud.call("GET", "/projects", token).json["projects"]] == ["works"]
    held = cloud.call("GET", "/role_assignments", token).json["role_assignments"]
    assert len(held) == 2
    # the end of the domain takes everything with it
    assert cloud.call("DELETE", f"/domains/{acme['id']}", admin).status_code == 403
    off = {"domain": {"enabled": False}}
    assert cloud.call("PATCH", f"/domains/{acme['id']}", admin, off).status_code == 200
    assert cloud.call("GET", "/users", token).status_code == 401
    assert cloud.call("DELETE", f"/domains/{acme['id']}", admin).status_code == 204
    assert cloud.call("GET", f"/projects/{project['id']}", admin).status_code == 404
    assert cloud.call("GET", f"/users/{user['id']}", admin).status_code == 404


def test_a_system_reader_sees_and_changes_nothing(cloud: Cloud, admin: str) -> None:
    demo = cloud.seeded.users["demo"]
    path = f"/system/users/{demo}/roles/{cloud.seeded.roles['reader']}"
    assert cloud.call("PUT", path, admin).status_code == 204
    assert cloud.call("HEAD", path, admin).status_code == 204
    token = cloud.token("demo", scope={"system": {"all": True}})
    for list_ in (
        "users",
        "projects",
        "domains",
        "roles",
        "services",
        "endpoints",
        "groups",
        "role_assignments",
    ):
        assert cloud.call("GET", f"/{list_}", token).status_code == 200
    assert cloud.call("POST", "/users", token, {"user": {"name": "x"}}).status_code == 403
    assert cloud.call("GET", "/auth/system", token).json["system"] == [{"all": True}]
    assert cloud.call("DELETE", path, admin).status_code == 204
    assert cloud.call("GET", "/users", token).status_code == 401
