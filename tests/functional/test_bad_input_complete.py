"""Every kind of bad input that was asked for has its test; the tokens that others do not try are tried here."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.functional.bad_input_table import ADMIN, TABLE
from tests.whole import Answer, Client, Whole, running, until

HERE, V = Path(__file__).parent, "/compute/v2.1"
BAD = "test_bad_input.py"
# what was asked for -> a row of the table, or a test: (file, name)
ASKED: dict[str, str | tuple[str, str]] = {
    "a wrong password": (BAD, "test_a_wrong_password_and_an_unknown_user_look_alike"),
    "an expired token": ("test_bad_input_complete.py", "test_an_expired_token"),
    "a foreign token": ("test_bad_input_complete.py", "test_a_token_of_another_cloud"),
    "another project's id": (BAD, "test_another_projects_server_is_missing"),
    "an unknown microversion": "an unknown microversion",
    "malformed JSON": "malformed JSON",
    "an unknown property": "an unknown property",
    "an over-long name": "an over-long name",
    "Unicode and emoji names": (BAD, "test_strange_names_are_only_names"),
    "a wrong UUID": "a wrong UUID",
    "a negative number": "a negative count",
    "a huge number": "a huge count",
    "a body of 1 GB": (BAD, "test_a_body_of_one_gibibyte"),
    "user_data of 10 MB": "user_data of 10 MB",
    "an image that lies about its format": (BAD, "test_an_image_that_lies"),
    "an image that points at a host file": (BAD, "test_an_image_that_lies"),
    "an unknown image property": (BAD, "test_an_unknown_image_property_is_named"),
    "a quota that is full": (BAD, "test_a_quota_that_is_full"),
    "no host that fits": (BAD, "test_no_host_fits"),
    "a disk of hosts that is full": (BAD, "test_a_disk_that_is_full_on_every_host"),
    "the cloud's own disk that is full": ("../processes/test_full_disk.py", "test_"),
    "a port in use": (BAD, "test_a_port_in_use"),
    "a state directory of a newer version": (BAD, "test_a_state_directory_of_a_newer_version"),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_was_asked_for_is_tried(what: str) -> None:
    place = ASKED[what]
    if isinstance(place, str):
        assert place in {bad.what for bad in (*TABLE, *ADMIN)}
    else:
        assert re.search(rf"^def {place[1]}", (HERE / place[0]).read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with running(tmp_path_factory.mktemp("tokens") / "state", hosts=1) as x:
        yield x


def _asks(url: str, token: str | None) -> list[Answer]:
    """Return what each API answers to a token."""
    paths = (f"{V}/servers", "/identity/v3/auth/catalog", "/image/v2/images", "/network/v2.0/ports")
    return [Client(url, token, None).call("GET", path) for path in paths]


def test_an_expired_token(cloud: Whole) -> None:
    """S24: good until its last second, in every API, and refused after it like none at all."""
    ends = datetime.now(UTC) + timedelta(seconds=3)
    users = cloud.admin.get("/identity/v3/users?name=demo")["users"]
    brief = {"name": "brief", "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S")}
    path = f"/identity/v3/users/{users[0]['id']}/application_credentials"
    made = cloud.demo.post(path, {"application_credential": brief})["application_credential"]
    secret = {"id": made["id"], "secret": made["secret"]}
    methods = {"methods": ["application_credential"], "application_credential": secret}
    nobody = Client(cloud.url, None, None)
    reply = nobody.call("POST", "/identity/v3/auth/tokens", {"auth": {"identity": methods}})
    token = reply.headers["x-subject-token"]
    assert {r.status for r in _asks(cloud.url, token)} == {200}
    old = until(
        lambda: [r for r in _asks(cloud.url, token) if r.status == 401][3:] and _asks(cloud.url, token),
        "the token's end",
    )  # fmt: skip
    none = _asks(cloud.url, None)
    assert [(r.status, r.message) for r in old] == [(r.status, r.message) for r in none]


def test_a_token_of_another_cloud(cloud: Whole, tmp_path: Path) -> None:
    """S22: well-formed, and sealed with keys that are not ours."""
    with running(tmp_path / "state", hosts=1) as other:
        foreign = other.demo.token
    answers = _asks(cloud.url, foreign)
    assert {r.status for r in answers} == {401}
    assert [r.message for r in answers] == [r.message for r in _asks(cloud.url, None)]
    headers = {"X-Subject-Token": str(foreign)}
    reply = cloud.admin.call("GET", "/identity/v3/auth/tokens", headers=headers)
    assert reply.status == 404
