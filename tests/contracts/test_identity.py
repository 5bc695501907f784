"""One contract for whatever implements Identity."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilonova.common.errors import NotFound, Unauthorized
from kilonova.identity.embedded import passwords
from kilonova.identity.embedded.identity import EmbeddedIdentity
from kilonova.identity.embedded.login import login
from kilonova.identity.embedded.seed import seed
from kilonova.identity.interface import Identity
from tests import databases


@dataclass
class Side:
    """An implementation, and how to get tokens from it. token: (user, project or None) -> token."""

    identity: Identity
    token: Callable[[str, str | None], str]
    project_id: str


@pytest.fixture(params=["embedded"])
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    monkeypatch.setattr(passwords, "LOG2_N", 4)
    database = databases.at(tmp_path / "identity.db", "identity")
    identity = EmbeddedIdentity(
        database, tmp_path / "keys", catalog=[("compute", "nova", "http://x/compute/v2.1")]
    )
    seeded = seed(identity, {"admin": "a", "demo": "d"})

    def token(user: str, project: str | None) -> str:
        who = {"name": user, "domain": {"id": "default"}, "password": user[0]}
        scope = (
            {"project": {"name": project, "domain": {"id": "default"}}} if project else "unscoped"
        )
        auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}
        return identity.seal(login(identity, auth))

    yield Side(identity, token, seeded.projects["demo"])
    database.close()


def test_a_token_says_who_and_where(side: Side) -> None:
    ctx = side.identity.authenticate(side.token("demo", "demo"), None, "req-1")
    assert (ctx.request_id, ctx.user_name, ctx.project_name) == ("req-1", "demo", "demo")
    assert ctx.project_id == side.project_id
    assert ctx.project_domain_id == ctx.user_domain_id == "default"
    assert set(ctx.roles) == {"member", "reader"}, "implied roles are in it"
    assert not ctx.is_admin
    assert not ctx.is_service
    assert ctx.system_scope is None


def test_without_scope_there_are_no_roles(side: Side) -> None:
    ctx = side.identity.authenticate(side.token("admin", None), None, "r")
    assert (ctx.project_id, ctx.roles) == (None, ())


@pytest.mark.parametrize("token", [None, "", "nonsense", "gAAAAA" + "A" * 200])
def test_anything_else_is_refused(side: Side, token: str | None) -> None:
    with pytest.raises(Unauthorized):
        side.identity.authenticate(token, None, "r")


def test_a_bad_service_token_is_refused(side: Side) -> None:
    with pytest.raises(Unauthorized):
        side.identity.authenticate(side.token("demo", "demo"), "nonsense", "r")


def test_our_own_token_vouches(side: Side) -> None:
    own = side.identity.service_token()
    assert repr(own) == "***"
    ctx = side.identity.authenticate(side.token("demo", "demo"), own.reveal(), "r")
    assert ctx.is_service
    assert ctx.user_name == "demo"


def test_projects_and_users(side: Side) -> None:
    assert side.identity.project_exists(side.project_id)
    assert not side.identity.project_exists("0" * 32)
    project = side.identity.get_project(side.project_id)
    assert (project.name, project.domain_id, project.enabled) == ("demo", "default", True)
    user_id = side.identity.authenticate(side.token("demo", "demo"), None, "r").user_id
    assert side.identity.get_user(str(user_id)).name == "demo"
    for ask in (side.identity.get_project, side.identity.get_user):
        with pytest.raises(NotFound):
            ask("0" * 32)


def test_endpoints(side: Side) -> None:
    assert side.identity.endpoint("compute") == "http://x/compute/v2.1"
    assert side.identity.endpoint("compute", "public") == "http://x/compute/v2.1"
    with pytest.raises(NotFound):
        side.identity.endpoint("dns")
