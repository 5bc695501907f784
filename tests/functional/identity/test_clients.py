"""The stock clients against identity on a loopback port: the openstack command, openstacksdk, keystoneauth."""

import json
import os
import shlex
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.conftest import Client, stock_client
from tests.functional.identity.serving import serving

# What the clients warn of is theirs to mend.
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]
openstack = pytest.importorskip("openstack", reason="openstacksdk is not installed")
PASSWORDS = {"admin": "admin-secret", "demo": "demo-secret"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("identity"), PASSWORDS) as url:
        yield url


def names(url: str, user: str) -> Json:
    return {
        "auth_url": f"{url}/identity",
        "username": user,
        "password": PASSWORDS[user],
        "project_name": user,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }


def connect(**auth: Any) -> Any:
    kind = auth.pop("auth_type", "password")
    return openstack.connection.Connection(
        auth=auth, auth_type=kind, region_name="RegionOne", identity_api_version="3"
    )


@pytest.fixture(scope="module")
def stock() -> Iterator[Client]:
    """The openstack command with no configuration: who calls is said on each command line."""
    pytest.importorskip("openstackclient", reason="python-openstackclient is not installed")
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "OS_IDENTITY_API_VERSION": "3"}
    with stock_client(env) as client:
        yield client


def cli(stock: Client, who: Json, *words: str, fails: bool = False) -> Any:
    """Run the openstack command; return what it printed as JSON, or its error text."""
    given = [f"--os-{k.replace('_', '-')}={v}" for k, v in who.items()]
    prints = words[-1] not in ("nothing",)
    words = words if prints else words[:-1]
    [done] = stock.run(shlex.join([*given, *words, *(["-f", "json"] if prints else [])]))
    if fails:
        assert done["code"] != 0
        return done["err"]
    assert done["code"] == 0, done["err"]
    return json.loads(done["out"]) if prints else done["out"]


def test_the_walk(url: str, stock: Client) -> None:
    """Issue 2, §1.4: token issue, catalog list, project list (admin), application credential create."""
    admin, demo = names(url, "admin"), names(url, "demo")
    token = cli(stock, demo, "token", "issue")
    assert token["id"].startswith("gAAAAA")
    assert token["expires"].endswith("+0000")
    assert {s["Type"] for s in cli(stock, demo, "catalog", "list")} == {"identity", "compute"}
    assert {p["Name"] for p in cli(stock, admin, "project", "list")} == {"admin", "demo", "service"}
    assert [p["Name"] for p in cli(stock, demo, "project", "list")] == ["demo"]
    made = cli(stock, demo, "application", "credential", "create", "walk")
    robot = {
        "auth_type": "v3applicationcredential",
        "auth_url": f"{url}/identity",
        "application_credential_id": made["ID"],
        "application_credential_secret": made["Secret"],
    }
    assert cli(stock, robot, "token", "issue")["project_id"] == token["project_id"]
    refused = cli(stock, robot, "application", "credential", "create", "child", fails=True)
    assert "restricted" in refused
    cli(stock, demo, "application", "credential", "delete", "walk", "nothing")
    assert "requires authentication" in cli(stock, robot, "token", "issue", fails=True)
    assert "requires authentication" in cli(
        stock, {**demo, "password": "no"}, "token", "issue", fails=True
    )


def test_an_admin_sets_up_a_project(url: str, stock: Client) -> None:
    admin = names(url, "admin")
    tag = uuid.uuid4().hex[:8]
    project = cli(stock, admin, "project", "create", "--description", "größe", f"p-{tag}")
    user = cli(
        stock, admin, "user", "create", "--project", f"p-{tag}", "--password", "pw", f"u-{tag}"
    )
    cli(
        stock,
        admin,
        "role",
        "add",
        "--project",
        f"p-{tag}",
        "--user",
        f"u-{tag}",
        "member",
        "nothing",
    )
    held = cli(stock, admin, "role", "assignment", "list", "--names", "--user", f"u-{tag}")
    assert [(h["Role"], h["Project"]) for h in held] == [("member", f"p-{tag}@Default")]
    mine = {**admin, "username": f"u-{tag}", "password": "pw", "project_name": f"p-{tag}"}
    assert cli(stock, mine, "token", "issue")["user_id"] == user["id"]
    cli(stock, admin, "project", "set", "--disable", f"p-{tag}", "nothing")
    cli(stock, mine, "token", "issue", fails=True)
    cli(stock, admin, "user", "delete", f"u-{tag}", "nothing")
    cli(stock, admin, "project", "delete", f"p-{tag}", "nothing")
    assert cli(stock, admin, "project", "show", project["id"], fails=True)


def test_openstacksdk(url: str) -> None:
    cloud = connect(**names(url, "admin"))
    identity = cloud.identity
    assert {d.name for d in identity.domains()} == {"Default"}
    assert {r.name for r in identity.roles()} == {"admin", "manager", "member", "reader", "service"}
    assert {s.type for s in identity.services()} == {"identity", "compute"}
    assert len(list(identity.endpoints())) == 6
    project = identity.create_project(name="sdk", description="made by the SDK", tags=["t"])
    assert identity.find_project("sdk").id == project.id
    assert identity.find_project("none") is None
    user = identity.create_user(name="sdk", password="x", default_project_id=project.id)
    role = identity.find_role("member")
    identity.assign_project_role_to_user(project, user, role)
    assert identity.validate_user_has_project_role(project, user, role)
    identity.unassign_project_role_from_user(project, user, role)
    assert not identity.validate_user_has_project_role(project, user, role)
    group = identity.create_group(name="sdk")
    identity.add_user_to_group(user, group)
    assert identity.check_user_in_group(user, group)
    identity.remove_user_from_group(user, group)
    assert not identity.check_user_in_group(user, group)
    assert len(list(identity.role_assignments(scope_system=True))) >= 1
    found = cloud.list_role_assignments({"project": project.id})
    assert found == []
    for thing, delete in (
        (group, identity.delete_group),
        (user, identity.delete_user),
        (project, identity.delete_project),
    ):
        delete(thing, ignore_missing=False)
    with pytest.raises(openstack.exceptions.NotFoundException):
        identity.get_project(project.id)
    with pytest.raises(openstack.exceptions.ConflictException):
        identity.create_project(name="demo")


def test_every_way_in(url: str) -> None:
    system = connect(
        auth_url=f"{url}/identity",
        username="admin",
        password=PASSWORDS["admin"],
        user_domain_name="Default",
        system_scope="all",
    )
    assert system.session.auth.get_access(system.session).system_scoped
    assert {p.name for p in system.identity.projects()} >= {"admin", "demo"}
    token = system.session.get_token()
    rescoped = connect(
        auth_type="token",
        auth_url=f"{url}/identity/v3",
        token=token,
        project_name="demo",
        project_domain_id="default",
    )
    assert rescoped.session.get_project_id() == rescoped.identity.find_project("demo").id
    demo = connect(**names(url, "demo"))
    made = demo.identity.create_application_credential(demo.session.get_user_id(), "sdk")
    robot = connect(
        auth_type="v3applicationcredential",
        auth_url=f"{url}/identity",
        application_credential_id=made.id,
        application_credential_secret=made.secret,
    )
    assert robot.session.get_project_id() == demo.session.get_project_id()
    access = robot.session.auth.get_access(robot.session)
    assert access.service_catalog.url_for(service_type="compute", interface="public").startswith(
        url
    )
    demo.session.invalidate()
    assert demo.session.get_token()


def test_keystoneclient_validates_and_revokes(url: str) -> None:
    """What keystonemiddleware does in front of a real service."""
    client = pytest.importorskip("keystoneclient.v3.client")
    admin = client.Client(session=connect(**names(url, "admin")).session)
    demo = connect(**names(url, "demo"))
    token = demo.session.get_token()
    body = admin.tokens.get_token_data(token)
    assert body["token"]["user"]["name"] == "demo"
    assert admin.tokens.validate(token).username == "demo"
    admin.tokens.revoke_token(token)
    from keystoneauth1.exceptions import NotFound

    with pytest.raises(NotFound):
        admin.tokens.validate(token)
