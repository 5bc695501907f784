"""Application credentials."""

from typing import Any

from falcon.testing import Result

from kilonova.common.clock import iso
from tests.functional.identity.conftest import Cloud


def path(cloud: Cloud, user: str = "demo") -> str:
    return f"users/{cloud.seeded.users[user]}/application_credentials"


def enter(cloud: Cloud, scope: Any = None, **given: Any) -> Result:
    auth: Any = {
        "identity": {"methods": ["application_credential"], "application_credential": given}
    }
    if scope is not None:
        auth["scope"] = scope
    return cloud.call("POST", "/auth/tokens", body={"auth": auth})


def test_a_credential_from_birth_to_death(cloud: Cloud, demo: str) -> None:
    made = cloud.make(demo, path(cloud), "application_credential", name="robot")
    assert len(made["secret"]) >= 64
    assert {r["name"] for r in made["roles"]} == {"member", "reader"}
    assert made["unrestricted"] is False
    assert made["project_id"] == cloud.seeded.projects["demo"]
    answer = enter(cloud, id=made["id"], secret=made["secret"])
    token = answer.json["token"]
    assert answer.status_code == 201
    assert token["methods"] == ["application_credential"]
    assert token["application_credential"] == {
        "id": made["id"],
        "name": "robot",
        "restricted": True,
    }
    assert token["project"]["name"] == "demo"
    user = {"name": "demo", "domain": {"id": "default"}}
    assert enter(cloud, name="robot", user=user, secret=made["secret"]).status_code == 201
    assert enter(cloud, id=made["id"], secret="wrong").status_code == 401
    assert enter(cloud, id="0" * 32, secret="wrong").status_code == 401
    shown = cloud.call("GET", f"/{path(cloud)}/{made['id']}", demo).json["application_credential"]
    assert "secret" not in shown
    listed = cloud.call("GET", f"/{path(cloud)}?name=robot", demo).json["application_credentials"]
    assert [c["id"] for c in listed] == [made["id"]]
    live = answer.headers["X-Subject-Token"]
    assert cloud.call("GET", "/auth/catalog", live).status_code == 200
    assert cloud.call("DELETE", f"/{path(cloud)}/{made['id']}", demo).status_code == 204
    assert cloud.call("GET", "/auth/catalog", live).status_code == 401, "its tokens die with it"
    assert enter(cloud, id=made["id"], secret=made["secret"]).status_code == 401


def test_a_restricted_one_makes_no_more(cloud: Cloud, demo: str) -> None:
    made = cloud.make(demo, path(cloud), "application_credential", name="narrow")
    token = enter(cloud, id=made["id"], secret=made["secret"]).headers["X-Subject-Token"]
    body = {"application_credential": {"name": "child"}}
    assert cloud.call("POST", f"/{path(cloud)}", token, body).status_code == 403
    assert cloud.call("DELETE", f"/{path(cloud)}/{made['id']}", token).status_code == 403
    # nor by way of a token made from that token
    again: Any = {"identity": {"methods": ["token"], "token": {"id": token}}}
    second = cloud.call("POST", "/auth/tokens", body={"auth": again})
    assert second.json["token"]["application_credential"]["restricted"] is True
    child = second.headers["X-Subject-Token"]
    assert cloud.call("POST", f"/{path(cloud)}", child, body).status_code == 403
    old = {"user": {"password": "p", "original_password": "demo-secret"}}
    user = cloud.seeded.users["demo"]
    assert cloud.call("POST", f"/users/{user}/password", token, old).status_code == 403
    free = cloud.make(demo, path(cloud), "application_credential", name="wide", unrestricted=True)
    wide = enter(cloud, id=free["id"], secret=free["secret"]).headers["X-Subject-Token"]
    assert cloud.call("POST", f"/{path(cloud)}", wide, body).status_code == 201


def test_it_cannot_leave_its_project(cloud: Cloud, admin: str) -> None:
    made = cloud.make(admin, path(cloud, "admin"), "application_credential", name="here")
    other = {"project": {"id": cloud.seeded.projects["demo"]}}
    assert enter(cloud, other, id=made["id"], secret=made["secret"]).status_code == 400
    token = enter(cloud, id=made["id"], secret=made["secret"]).headers["X-Subject-Token"]
    for scope in (other, {"system": {"all": True}}, "unscoped"):
        auth: Any = {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}
        assert cloud.call("POST", "/auth/tokens", body={"auth": auth}).status_code == 403
    same: Any = {
        "identity": {"methods": ["token"], "token": {"id": token}},
        "scope": {"project": {"id": cloud.seeded.projects["admin"]}},
    }
    assert cloud.call("POST", "/auth/tokens", body={"auth": same}).status_code == 201


def test_roles_are_a_choice_of_ones_own(cloud: Cloud, admin: str, demo: str) -> None:
    reader = cloud.make(
        demo, path(cloud), "application_credential", name="r", roles=[{"name": "reader"}]
    )
    token = enter(cloud, id=reader["id"], secret=reader["secret"]).json["token"]
    assert [r["name"] for r in token["roles"]] == ["reader"]
    for roles in ([{"name": "admin"}], [{"id": cloud.seeded.roles["admin"]}]):
        body = {"application_credential": {"name": "x", "roles": roles}}
        assert cloud.call("POST", f"/{path(cloud)}", demo, body).status_code == 400
    # it dies when its user loses a role that it has
    member = cloud.make(demo, path(cloud), "application_credential", name="m")
    live = enter(cloud, id=member["id"], secret=member["secret"]).headers["X-Subject-Token"]
    where = f"/projects/{cloud.seeded.projects['demo']}/users/{cloud.seeded.users['demo']}/roles/"
    cloud.call("PUT", where + cloud.seeded.roles["reader"], admin)
    cloud.call("DELETE", where + cloud.seeded.roles["member"], admin)
    assert cloud.call("GET", "/auth/catalog", live).status_code == 401
    assert enter(cloud, id=member["id"], secret=member["secret"]).status_code == 401
    assert enter(cloud, id=reader["id"], secret=reader["secret"]).status_code == 201


def test_it_ends_at_its_time(cloud: Cloud, demo: str) -> None:
    ends = iso(cloud.clock.now() + 600)
    made = cloud.make(demo, path(cloud), "application_credential", name="brief", expires_at=ends)
    answer = enter(cloud, id=made["id"], secret=made["secret"])
    assert answer.json["token"]["expires_at"][:19] == ends[:19]
    cloud.clock.advance(601)
    token = answer.headers["X-Subject-Token"]
    assert cloud.call("GET", "/auth/catalog", token).status_code == 401
    assert enter(cloud, id=made["id"], secret=made["secret"]).status_code == 401
    for wrong in (iso(cloud.clock.now() - 1), "soon", "9999-99-99"):
        body = {"application_credential": {"name": "x", "expires_at": wrong}}
        assert cloud.call("POST", f"/{path(cloud)}", demo, body).status_code == 400


def test_it_is_ones_own(cloud: Cloud, admin: str, demo: str) -> None:
    """S19"""
    made = cloud.make(
        demo, path(cloud), "application_credential", name="mine", secret="my own secret"
    )
    assert made["secret"] == "my own secret"
    body = {"application_credential": {"name": "mine"}}
    assert cloud.call("POST", f"/{path(cloud)}", demo, body).status_code == 409
    assert cloud.call("POST", f"/{path(cloud)}", admin, body).status_code == 403, (
        "not even an admin for others"
    )
    assert cloud.call("GET", f"/{path(cloud, 'admin')}", demo).status_code == 403
    wrong = f"/{path(cloud, 'admin')}/{made['id']}"
    assert cloud.call("GET", wrong, admin).status_code == 404, "it is not that user's"
    assert cloud.call("DELETE", wrong, admin).status_code == 404
    unscoped = cloud.token("demo", scope="unscoped")
    assert cloud.call("POST", f"/{path(cloud)}", unscoped, body).status_code == 400
