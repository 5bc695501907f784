"""Everything that can be made, listed, changed and deleted; and bodies that are wrong."""

import re
from typing import Any

import pytest

from tests.functional.identity.conftest import URL, Cloud


def test_projects(cloud: Cloud, admin: str) -> None:
    made = cloud.make(
        admin,
        "projects",
        "project",
        name="räksmörgås 🚀",
        description="d",
        tags=["a", "b"],
        color="red",
    )
    assert made["domain_id"] == made["parent_id"] == "default"
    assert made["enabled"] is True
    assert made["color"] == "red", "other attributes are kept, as Keystone does"
    assert made["links"] == {"self": f"{URL}/identity/v3/projects/{made['id']}"}
    again = cloud.call("POST", "/projects", admin, {"project": {"name": "räksmörgås 🚀"}})
    assert again.status_code == 409
    child = cloud.make(admin, "projects", "project", name="child", parent_id=made["id"])
    assert child["parent_id"] == made["id"]
    tree = cloud.call("GET", f"/projects/{child['id']}?parents_as_ids", admin).json["project"]
    assert tree["parents"] == {made["id"]: {"default": None}}
    tree = cloud.call("GET", f"/projects/{made['id']}?subtree_as_ids", admin).json["project"]
    assert tree["subtree"] == {child["id"]: None}
    one = f"/projects/{made['id']}"
    assert cloud.call("DELETE", one, admin).status_code == 403, "it has a child"
    assert cloud.call("PATCH", one, admin, {"project": {"enabled": False}}).status_code == 403
    changed = cloud.call("PATCH", one, admin, {"project": {"description": None, "color": None}})
    assert changed.json["project"]["description"] == ""
    assert "color" not in changed.json["project"]
    assert cloud.call("DELETE", f"/projects/{child['id']}", admin).status_code == 204
    assert cloud.call("DELETE", one, admin).status_code == 204
    assert cloud.call("GET", one, admin).status_code == 404
    own = cloud.seeded.projects["service"]
    assert cloud.call("DELETE", f"/projects/{own}", admin).status_code == 403


def test_tags(cloud: Cloud, admin: str) -> None:
    made = cloud.make(admin, "projects", "project", name="p", tags=["x", "y"])
    tags = f"/projects/{made['id']}/tags"
    assert cloud.call("PUT", f"{tags}/z", admin).status_code == 201
    assert cloud.call("GET", tags, admin).json["tags"] == ["x", "y", "z"]
    assert cloud.call("HEAD", f"{tags}/z", admin).status_code == 204
    assert cloud.call("DELETE", f"{tags}/x", admin).status_code == 204
    assert cloud.call("DELETE", f"{tags}/x", admin).status_code == 404
    assert cloud.call("PUT", f"{tags}/{'t' * 300}", admin).status_code == 400
    for query, hit in (
        ("tags=y,z", True),
        ("tags=y,q", False),
        ("tags-any=q,z", True),
        ("not-tags=y,z", False),
        ("not-tags-any=q", True),
    ):
        names = [p["name"] for p in cloud.call("GET", f"/projects?{query}", admin).json["projects"]]
        assert ("p" in names) is hit, query
    assert cloud.call("PUT", tags, admin, {"tags": ["n"]}).json["tags"] == ["n"]
    assert cloud.call("DELETE", tags, admin).status_code == 204
    assert cloud.call("GET", tags, admin).json["tags"] == []


def test_lists_filter_and_page(cloud: Cloud, admin: str) -> None:
    for n in range(5):
        cloud.make(admin, "projects", "project", name=f"P{n}", enabled=n != 3)

    def names(query: str) -> list[str]:
        answer = cloud.call("GET", f"/projects?{query}", admin)
        assert answer.status_code == 200
        return [p["name"] for p in answer.json["projects"]]

    assert names("name=P1") == ["P1"]
    assert names("name=nothing") == []
    assert names("enabled=false") == ["P3"]
    assert len(names("domain_id=default")) == 8
    assert names("domain_id=other") == []
    assert names("name__icontains=p4") == ["P4"]
    assert names("name__startswith=P") == ["P0", "P1", "P2", "P3", "P4"]
    first = cloud.call("GET", "/projects?limit=3&name__startswith=P", admin).json
    assert [p["name"] for p in first["projects"]] == ["P0", "P1", "P2"]
    following = first["links"]["next"]
    assert following.startswith(f"{URL}/identity/v3/projects?limit=3")
    rest = cloud.call("GET", following.removeprefix(f"{URL}/identity/v3"), admin).json
    assert [p["name"] for p in rest["projects"]] == ["P3", "P4"]
    assert rest["links"]["next"] is None
    for bad in ("limit=x", "limit=0", "limit=-1", "marker=none"):
        assert cloud.call("GET", f"/projects?{bad}", admin).status_code == 400


def test_users_and_passwords(cloud: Cloud, admin: str) -> None:
    made = cloud.make(
        admin,
        "users",
        "user",
        name="ünï",
        password="old",
        email="u@example.org",
        default_project_id=cloud.seeded.projects["demo"],
        options={"ignore_password_expiry": True},
    )
    assert "password" not in made
    assert made["email"] == "u@example.org"
    one = f"/users/{made['id']}"
    assert cloud.call("POST", "/users", admin, {"user": {"name": "ünï"}}).status_code == 409
    mine = cloud.token("ünï", "old", scope=None)
    change = {"user": {"original_password": "old", "password": "new"}}
    wrong = {"user": {"original_password": "bad", "password": "new"}}
    assert cloud.call("POST", one + "/password", mine, wrong).status_code == 401
    assert cloud.call("POST", one + "/password", mine, change).status_code == 204
    assert cloud.call("GET", one, mine).status_code == 401, "the old tokens are gone"
    assert cloud.login("ünï", "old", scope=None).status_code == 401
    assert cloud.login("ünï", "new", scope=None).status_code == 201
    for option in ("lock_password", "multi_factor_auth_enabled"):
        body = {"user": {"options": {option: True}}}
        assert cloud.call("PATCH", one, admin, body).status_code == 400
    assert cloud.call("PATCH", one, admin, {"user": {"domain_id": "other"}}).status_code == 400
    assert cloud.call("PATCH", one, admin, {"user": {"name": "demo"}}).status_code == 409
    assert cloud.call("DELETE", one, admin).status_code == 204
    assert cloud.call("DELETE", one, admin).status_code == 404
    assert cloud.call("DELETE", "/users/kilonova", admin).status_code == 403


def test_groups_give_roles(cloud: Cloud, admin: str) -> None:
    group = cloud.make(admin, "groups", "group", name="crew")
    user = cloud.make(admin, "users", "user", name="sailor", password="s")
    member = f"/groups/{group['id']}/users/{user['id']}"
    assert cloud.call("HEAD", member, admin).status_code == 404
    assert cloud.call("PUT", member, admin).status_code == 204
    assert cloud.call("HEAD", member, admin).status_code == 204
    project, role = cloud.seeded.projects["demo"], cloud.seeded.roles["member"]
    grant = f"/projects/{project}/groups/{group['id']}/roles/{role}"
    assert cloud.login("sailor", "s").status_code == 401
    assert cloud.call("PUT", grant, admin).status_code == 204
    token = cloud.token("sailor", "s")
    assert [p["name"] for p in cloud.call("GET", "/auth/projects", token).json["projects"]] == [
        "demo"
    ]
    mine = cloud.call("GET", f"/users/{user['id']}/projects", token).json["projects"]
    assert [p["id"] for p in mine] == [project]
    assert [
        g["name"] for g in cloud.call("GET", f"/users/{user['id']}/groups", token).json["groups"]
    ] == ["crew"]
    assert [
        u["name"] for u in cloud.call("GET", f"/groups/{group['id']}/users", admin).json["users"]
    ] == ["sailor"]
    assert cloud.call("DELETE", member, admin).status_code == 204
    assert cloud.call("GET", "/auth/projects", token).status_code == 401
    assert cloud.call("DELETE", f"/groups/{group['id']}", admin).status_code == 204
    assert cloud.call("HEAD", grant, admin).status_code == 404


def test_roles_and_what_they_imply(cloud: Cloud, admin: str) -> None:
    auditor = cloud.make(admin, "roles", "role", name="auditor", description="looks")
    assert auditor["domain_id"] is None
    assert cloud.call("POST", "/roles", admin, {"role": {"name": "auditor"}}).status_code == 409
    reader, admin_role = cloud.seeded.roles["reader"], cloud.seeded.roles["admin"]
    imply = f"/roles/{auditor['id']}/implies/"
    assert cloud.call("PUT", imply + reader, admin).status_code == 201
    assert cloud.call("HEAD", imply + reader, admin).status_code == 204
    assert cloud.call("PUT", imply + admin_role, admin).status_code == 403
    found = cloud.call("GET", imply.rstrip("/"), admin).json["role_inference"]
    assert [r["name"] for r in found["implies"]] == ["reader"]
    every = cloud.call("GET", "/role_inferences", admin).json["role_inferences"]
    assert len(every) == 4
    grant = f"/projects/{cloud.seeded.projects['demo']}/users/{cloud.seeded.users['demo']}/roles/{auditor['id']}"
    cloud.call("PUT", grant, admin)
    roles = {r["name"] for r in cloud.login("demo").json["token"]["roles"]}
    assert roles == {"member", "reader", "auditor"}
    for change in ({"name": "x"}, {"description": "x"}):
        assert (
            cloud.call("PATCH", f"/roles/{admin_role}", admin, {"role": change}).status_code == 403
        )
    assert cloud.call("DELETE", f"/roles/{admin_role}", admin).status_code == 403
    assert cloud.call("DELETE", imply + reader, admin).status_code == 204
    assert cloud.call("GET", imply + reader, admin).status_code == 404
    assert cloud.call("DELETE", f"/roles/{auditor['id']}", admin).status_code == 204
    assert {r["name"] for r in cloud.login("demo").json["token"]["roles"]} == {"member", "reader"}
    listed = cloud.call("GET", "/roles?name=member", admin).json["roles"]
    assert [r["id"] for r in listed] == [cloud.seeded.roles["member"]]


def test_role_assignments(cloud: Cloud, admin: str) -> None:
    seeded = cloud.seeded

    def ask(query: str) -> list[Any]:
        answer = cloud.call("GET", f"/role_assignments?{query}", admin)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json["role_assignments"]
        return found

    assert len(ask("")) == 6
    one = ask(f"user.id={seeded.users['demo']}")
    assert len(one) == 1
    assert one[0]["role"] == {"id": seeded.roles["member"]}
    assert one[0]["scope"] == {"project": {"id": seeded.projects["demo"]}}
    assert one[0]["links"]["assignment"].startswith(f"{URL}/identity/v3/projects/")
    named = ask(f"user.id={seeded.users['demo']}&include_names=True")[0]
    assert named["user"]["name"] == "demo"
    assert named["user"]["domain"] == {"id": "default", "name": "Default"}
    assert named["scope"]["project"]["name"] == "demo"
    assert named["role"]["name"] == "member"
    effective = ask(f"user.id={seeded.users['demo']}&effective")
    assert {e["role"]["id"] for e in effective} == {seeded.roles[r] for r in ("member", "reader")}
    assert ask("scope.system=all")[0]["scope"] == {"system": {"all": True}}
    assert len(ask(f"role.id={seeded.roles['service']}")) == 1
    group = cloud.make(admin, "groups", "group", name="g")
    cloud.call("PUT", f"/groups/{group['id']}/users/{seeded.users['demo']}", admin)
    cloud.call(
        "PUT",
        f"/projects/{seeded.projects['admin']}/groups/{group['id']}/roles/{seeded.roles['member']}",
        admin,
    )
    assert len(ask(f"group.id={group['id']}")) == 1
    by_group = ask(
        f"effective&user.id={seeded.users['demo']}&scope.project.id={seeded.projects['admin']}"
    )
    assert len(by_group) == 2
    assert "membership" in by_group[0]["links"]
    child = cloud.make(admin, "projects", "project", name="c", parent_id=seeded.projects["admin"])
    cloud.call(
        "PUT",
        f"/projects/{child['id']}/users/{seeded.users['demo']}/roles/{seeded.roles['reader']}",
        admin,
    )
    deep = ask(f"scope.project.id={seeded.projects['admin']}&include_subtree=1")
    assert {a["scope"]["project"]["id"] for a in deep} == {child["id"], seeded.projects["admin"]}
    refused = cloud.call("GET", f"/role_assignments?effective&group.id={group['id']}", admin)
    assert refused.status_code == 400


def test_the_catalog(cloud: Cloud, admin: str) -> None:
    listed = cloud.call("GET", "/services", admin).json["services"]
    assert [s["type"] for s in listed][:2] == ["identity", "compute"]
    own = listed[1]
    assert cloud.call("GET", f"/services/{own['id']}", admin).status_code == 200
    assert cloud.call("DELETE", f"/services/{own['id']}", admin).status_code == 403
    made = cloud.make(admin, "services", "service", type="object-store", name="swift")
    region = cloud.make(admin, "regions", "region", id="Elsewhere")
    url = "http://swift.example/v1/AUTH_$(project_id)s"
    point = cloud.make(
        admin,
        "endpoints",
        "endpoint",
        service_id=made["id"],
        interface="public",
        url=url,
        region_id=region["id"],
    )
    assert point["region"] == "Elsewhere"
    token = cloud.login("demo").json["token"]
    entry = next(s for s in token["catalog"] if s["type"] == "object-store")
    assert entry["endpoints"][0]["url"].endswith("AUTH_" + cloud.seeded.projects["demo"])
    system = cloud.login("admin", scope={"system": {"all": True}}).json["token"]
    entry = next(s for s in system["catalog"] if s["type"] == "object-store")
    assert entry["endpoints"] == [], "an endpoint of a project means nothing without one"
    assert cloud.call("GET", f"/endpoints?service_id={made['id']}", admin).json["endpoints"] == [
        point
    ]
    assert cloud.call("DELETE", "/regions/Elsewhere", admin).status_code == 403
    off = cloud.call("PATCH", f"/endpoints/{point['id']}", admin, {"endpoint": {"enabled": False}})
    assert off.json["endpoint"]["enabled"] is False
    assert cloud.call("DELETE", f"/services/{made['id']}", admin).status_code == 204
    assert cloud.call("GET", f"/endpoints/{point['id']}", admin).status_code == 404
    assert cloud.call("DELETE", "/regions/Elsewhere", admin).status_code == 204
    for body in (
        {"service_id": "x", "interface": "public", "url": "http://x"},
        {"service_id": own["id"], "interface": "side", "url": "http://x"},
        {"service_id": own["id"], "interface": "public", "url": "not a url"},
        {"service_id": own["id"], "interface": "public", "url": "http://x", "region_id": "none"},
    ):
        assert cloud.call("POST", "/endpoints", admin, {"endpoint": body}).status_code == 400


@pytest.mark.parametrize(
    ("path", "noun", "body", "names"),
    [
        ("projects", "project", {"name": "x" * 65}, "name"),
        ("projects", "project", {"name": ""}, "name"),
        ("projects", "project", {"name": "   "}, "name"),
        ("projects", "project", {"name": "a\x00b"}, "name"),
        ("projects", "project", {"name": 7}, "name"),
        ("projects", "project", {}, "name"),
        ("projects", "project", {"name": "x", "enabled": "yes"}, "enabled"),
        ("projects", "project", {"name": "x", "domain_id": "nowhere"}, "domain_id"),
        ("projects", "project", {"name": "x", "parent_id": "f" * 32}, "domain_id"),
        ("projects", "project", {"name": "x", "tags": ["a,b"]}, "tags"),
        ("projects", "project", {"name": "x", "is_domain": True}, "is_domain"),
        ("projects", "project", {"name": "x", "junk": "j" * 70000}, "additional"),
        ("users", "user", {"name": "x" * 256}, "name"),
        ("users", "user", {"name": "x", "password": 7}, "password"),
        ("users", "user", {"name": "x", "password": "p" * 4097}, "password"),
        ("groups", "group", {"name": "x" * 65}, "name"),
        ("domains", "domain", {"name": "x" * 65}, "name"),
        ("roles", "role", {"name": "x" * 256}, "name"),
        ("regions", "region", {"parent_region_id": "none"}, "parent_region_id"),
        ("services", "service", {"name": "no type"}, "type"),
    ],
)
def test_a_wrong_body_is_told_by_field(
    cloud: Cloud, admin: str, path: str, noun: str, body: Any, names: str
) -> None:
    answer = cloud.call("POST", f"/{path}", admin, {noun: body})
    assert answer.status_code == 400, answer.text
    assert names in answer.json["error"]["message"]
    assert answer.json["error"]["title"] == "Bad Request"


def test_bodies_that_are_none(cloud: Cloud, admin: str) -> None:
    def raw(body: bytes | None, path: str = "/identity/v3/projects") -> int:
        answer = cloud.client.simulate_post(path, body=body, headers={"X-Auth-Token": admin})
        return answer.status_code

    for body in (
        None,
        b"",
        b"{",
        b"[]",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"project": "x"}',
    ):
        assert raw(body) == 400, body
        assert raw(body, "/identity/v3/auth/tokens") == 400, body
    assert raw(b'{"auth": "' + b"x" * (1 << 17) + b'"}', "/identity/v3/auth/tokens") == 413
    for path in (
        "/identity/v3/trusts",
        "/identity/v3/OS-TRUST/trusts",
        "/identity/v3/credentials",
        "/identity/v2.0",
    ):
        assert cloud.client.simulate_get(path, headers={"X-Auth-Token": admin}).status_code == 404


def test_seeding_again_changes_nothing(cloud: Cloud) -> None:
    from kilonova.identity.embedded.seed import seed

    before = cloud.login("demo").json["token"]
    again = seed(cloud.identity, {"demo": "another"})
    assert again.passwords == {}
    assert (again.projects, again.users, again.roles) == (
        cloud.seeded.projects,
        cloud.seeded.users,
        cloud.seeded.roles,
    )
    assert cloud.login("demo").json["token"]["user"] == before["user"]


def test_many_at_once_make_a_name_once(cloud: Cloud, admin: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def make(_: int) -> int:
        return cloud.call("POST", "/users", admin, {"user": {"name": "same"}}).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(make, range(16)))
    assert statuses == [201] + [409] * 15


def test_the_questions_of_every_request_use_an_index(cloud: Cloud) -> None:
    """S38: no question that grows with the cloud walks a whole table."""
    from kilonova.db.sql import Q
    from kilonova.identity.embedded import records, store

    asked = {n: q for n, q in vars(store).items() if isinstance(q, Q) and n != "_IMPLIED"}
    for name, table in vars(records).items():
        if isinstance(table, records.Records):
            asked |= {name + k: q for k, q in vars(table).items() if isinstance(q, Q)}
    assert len(asked) > 40

    def plan(text: str, values: dict[str, Any]) -> list[str]:
        return cloud.database.read(
            lambda tx: [r[3] for r in tx._conn.execute("EXPLAIN QUERY PLAN " + text, values)]
        )

    for name, q in asked.items():
        text, given = q.bound({})
        values = dict.fromkeys(re.findall(r":(\w+)", text), "x") | dict(given)
        steps = plan(text, values)
        assert not [s for s in steps if s.startswith("SCAN") and "changes" not in s], (name, steps)
