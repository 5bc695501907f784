"""A whole simulated cloud on databases of a PostgreSQL or a MariaDB server: create, list, resize, delete."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.functional.volumes_kit import Kit
from tests.whole import Whole, running

S = "/compute/v2.1/servers"


@pytest.fixture(scope="module", params=[k for k in databases.KINDS if k != "sqlite"])
def whole(request: pytest.FixtureRequest) -> Iterator[Whole]:
    urls = {n: databases.url(request.param, Path("unused")) for n in databases.CLOUD}
    with running(cells=2, hosts=2, databases=urls) as made:
        yield made


@pytest.fixture(scope="module")
def kit(whole: Whole) -> Kit:
    return Kit(whole)


def listed(whole: Whole, query: str, who: str = "demo") -> list[str]:
    got = whole.call("GET", f"{S}/detail?{query}", who=who, version="2.96")
    assert got.status == 200, got
    return [s["name"] for s in got.json["servers"]]


def test_lists_filter_sort_and_page_as_on_files(whole: Whole) -> None:
    made = {}
    for name in ("web_1", "Web-2", "db.3"):
        more = {
            "metadata": {"tier": name[:3], "a b:c": "x"},
            "tags": ["all", name.replace("_", "-")],
        }
        made[name] = whole.server(name, description=f"{name} 50%", **more)
    try:
        by = "sort_key=display_name&sort_dir=asc"
        assert listed(whole, by) == ["Web-2", "db.3", "web_1"], "sorted by bytes"
        for query, names in {
            "name=WEB": ["Web-2", "web_1"],
            "name=web_": ["web_1"],
            "name=^web.[12]$": ["Web-2", "web_1"],
            "tags=all,web-1": ["web_1"],
            "tags-any=Web-2,db.3": ["Web-2", "db.3"],
            "not-tags=web-1": ["Web-2", "db.3"],
            "status=ACTIVE": ["Web-2", "db.3", "web_1"],
            "vm_state=stopped": [],
            "locked=true": [],
            "changes-since=2001-01-01T00:00:00Z&limit=2": ["Web-2", "db.3"],
        }.items():
            assert listed(whole, f"{query}&{by}") == names, query
        for key in ("host", "task_state", "launched_at", "display_description", "updated_at"):
            for direction in ("asc", "desc"):
                order = f"all_tenants=1&sort_key={key}&sort_dir={direction}"
                every = listed(whole, order, "admin")
                paged, marker = [], ""
                while page := listed(whole, f"{order}&limit=1{marker}", "admin"):
                    paged += page
                    marker = f"&marker={made[page[-1]]}"
                assert paged == every and len(every) == 3, (key, direction)
    finally:
        for server in made.values():
            whole.gone(server)


LISTS = (
    *(f"/volume/v3/{n}?all_tenants=1" for n in ("volumes/detail", "snapshots", "backups", "types")),
    "/volume/v3/volumes?all_tenants=1&sort=created_at:desc,size:asc&limit=1&with_count=true",
    "/volume/v3/volumes?all_tenants=1&name~=x&metadata=%7B'a':'b'%7D",
    *(f"/network/v2.0/{n}" for n in ("networks", "subnets", "ports", "routers", "floatingips")),
    "/network/v2.0/ports?fixed_ips=ip_address_substr%3D10&sort_key=name&sort_dir=desc&limit=1",
    "/network/v2.0/security-groups?tags-any=a,b&not-tags=c",
    "/image/v2/images?sort=name:asc,created_at:desc&tag=a&size_min=1",
    *(f"/identity/v3/{n}" for n in ("users?name__icontains=a", "role_assignments?include_names=1")),
    *(f"/compute/v2.1/{n}" for n in ("flavors/detail?minRam=1", "os-hypervisors/detail")),
    *(f"/compute/v2.1/{n}" for n in ("os-services", "os-aggregates", "os-migrations", "limits")),
    "/compute/v2.1/os-server-groups?all_projects=1",
    "/placement/resource_providers?resources=VCPU:1",
    "/placement/allocation_candidates?resources=VCPU:1,MEMORY_MB:64&limit=2",
    "/placement/traits?associated=true",
    "/kilonova/v1/operations?state=done",
)


@pytest.mark.parametrize("path", LISTS)
def test_every_service_answers_lists(whole: Whole, path: str) -> None:
    head = {"OpenStack-API-Version": "volume 3.70"} if path.startswith("/volume") else None
    version = None if head else "1.39" if path.startswith("/placement") else "2.87"
    got = whole.call("GET", path, who="admin", headers=head, version=version)
    assert got.status == 200, got


def test_resize_volumes_and_delete_leave_nothing(whole: Whole, kit: Kit) -> None:
    volume = kit.volume()
    server = whole.server("one")
    path = f"{S}/{server}"
    body = {"volumeAttachment": {"volumeId": volume}}
    assert whole.call("POST", f"{path}/os-volume_attachments", body).status == 200
    kit.becomes(volume, "in-use")
    assert whole.call("POST", f"{path}/action", {"resize": {"flavorRef": "1"}}).status == 202
    assert whole.settled(server).json["server"]["status"] == "VERIFY_RESIZE"
    assert whole.call("POST", f"{path}/action", {"confirmResize": None}).status == 204
    assert whole.settled(server).json["server"]["status"] == "ACTIVE"
    whole.gone(server)
    kit.becomes(volume, "available")
    assert kit.block("DELETE", f"/volumes/{volume}").status == 202
    kit.becomes(volume, None)
    assert whole.audit() == []
    held = {k for k in whole.ledger() if k.split(":")[0] in {"server", "allocation", "port"}}
    assert held == set()


def test_requests_that_come_together_keep_the_quota(whole: Whole) -> None:
    """R10: more creates than the quota allows, at once: exactly as many as it allows are accepted."""
    project = whole.project("demo")
    quota = {"instances": 5, "cores": -1, "ram": -1}
    path = f"/compute/v2.1/os-quota-sets/{project}"
    assert whole.call("PUT", path, {"quota_set": quota}, who="admin").status == 200
    image, answers = whole.image(), []
    whole.token("demo")
    body = {"name": "q", "flavorRef": "42", "imageRef": image, "networks": "none"}

    def ask() -> None:
        for _ in range(2):
            answers.append(whole.call("POST", S, {"server": body}, version="2.90"))
        whole.hang_up()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    made = [a.json["server"]["id"] for a in answers if a.status == 202]
    refused = [a for a in answers if a.status == 403]
    assert len(made) == 5 and len(refused) == 7, answers
    for server in made:
        whole.settled(server)
        whole.gone(server)
    assert whole.audit() == []


def test_the_same_key_twice_at_once_is_one_server(whole: Whole) -> None:
    image = whole.image()
    body = {"name": "k", "flavorRef": "42", "imageRef": image, "networks": "none"}
    answers: list[Any] = []

    def ask() -> None:
        head = {"Idempotency-Key": "the-same"}
        answers.append(whole.call("POST", S, {"server": body}, version="2.90", headers=head))
        whole.hang_up()

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert {a.status for a in answers} <= {202, 409}, answers
    made = {a.json["server"]["id"] for a in answers if a.status == 202}
    assert len(made) == 1
    server = made.pop()
    whole.settled(server)
    assert listed(whole, "name=^k$") == ["k"]
    whole.gone(server)
