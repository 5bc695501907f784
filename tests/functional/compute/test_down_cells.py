"""Lists and reads while a cell's database is dead: it hides what only it knows, and nothing else (R11, 2.69)."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from kilonova.common.config import Settings
from tests.cells import Moody
from tests.whole import Whole, running, until

C = "/compute/v2.1"
CELLS = ("cell1", "cell2", "cell3")
BOUND_S = 20.0  # the promise is 1 s and the list; this only tells waiting from hanging


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """Three cells, two servers in each."""
    with running(cells=3, hosts=1, settings=Settings(fake_host_vcpus=2)) as cloud:
        limits = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
        path = f"{C}/os-quota-sets/{cloud.project('demo')}"
        assert cloud.call("PUT", path, limits, who="admin").status == 200
        for name in CELLS:
            cloud.cloud.cells[name] = Moody(cloud.cloud.cells[name])
        yield cloud


@pytest.fixture(scope="module")
def servers(whole: Whole) -> dict[str, list[str]]:
    """Cell -> its servers."""
    found: dict[str, list[str]] = {name: [] for name in CELLS}
    for n in range(6):
        for cell in sorted(CELLS, key=lambda name: len(found[name]))[:1]:
            host = next(h for h in whole.services.hosts.all() if h.cell == cell).host
            body = {
                "name": f"s{n}",
                "flavorRef": "42",
                "imageRef": whole.image(),
                "networks": "none",
            }
            got = whole.call(
                "POST",
                f"{C}/servers",
                {"server": {**body, "host": host}},
                who="admin",
                version="2.90",
            )
            assert got.status == 202, got
            server = str(got.json["server"]["id"])
            assert whole.settled(server).json["server"]["status"] == "ACTIVE"
            found[cell].append(server)
    return found


def cell(whole: Whole, name: str) -> Any:
    return whole.cloud.cells[name]


@pytest.fixture(params=["error", "hang"])
def dead(
    request: pytest.FixtureRequest, whole: Whole, servers: dict[str, list[str]]
) -> Iterator[str]:
    """cell2 is dead, and was asked."""
    broken = cell(whole, "cell2")
    until(lambda: not whole.services.lists.ask_cells(lambda tx: 1)[1] or None)
    before = broken.reached
    broken.mood = request.param
    yield "cell2"
    assert broken.reached > before
    broken.mood = ""


def listed(
    whole: Whole, query: str = "", version: str = "2.69", detail: bool = True
) -> list[dict[str, Any]]:
    path = f"{C}/servers{'/detail' if detail else ''}?all_tenants=1&{query}"
    began = time.monotonic()
    got = whole.call("GET", path, who="admin", version=version)
    assert got.status == 200, got
    assert time.monotonic() - began < BOUND_S
    return list(got.json["servers"])


def test_a_list_names_the_servers_of_a_dead_cell(
    whole: Whole, servers: dict[str, list[str]], dead: str
) -> None:
    """At their places; with what is known without their cell."""
    order = [s for pair in zip(*servers.values(), strict=True) for s in pair][::-1]
    for detail in (True, False):
        found = listed(whole, detail=detail)
        assert [s["id"] for s in found] == order
        unknown = [s for s in found if s.get("status") == "UNKNOWN"]
        assert {s["id"] for s in unknown} == set(servers[dead])
        wanted = {"id", "status", "links"} | ({"tenant_id", "created"} if detail else set())
        assert all(set(s) == wanted for s in unknown)


def test_pages_and_orders(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """Page by page every server comes once, whatever the order; also from a marker that is in the dead cell."""
    everything = {s for some in servers.values() for s in some}
    for order in ("", "sort_key=created_at&sort_dir=asc", "sort_key=display_name", "sort_key=uuid"):
        whole_list = [s["id"] for s in listed(whole, order)]
        assert len(whole_list) == 6 and set(whole_list) == everything
        marker, seen = "", []
        while True:
            page = listed(whole, f"{order}&limit=2{marker}", detail=False)
            if not page:
                break
            seen += [s["id"] for s in page]
            marker = f"&marker={page[-1]['id']}"
        assert seen == whole_list


def test_filters(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """What only the cell knows cannot be asked of it: then its servers are left out."""
    project = whole.project("admin")
    assert len(listed(whole, f"project_id={project}")) == 6
    assert len(listed(whole, f"project_id={whole.project('demo')}")) == 0
    one = servers[dead][0]
    assert [s["status"] for s in listed(whole, f"uuid={one}")] == ["UNKNOWN"]
    assert len(listed(whole, "status=ACTIVE")) == 4
    assert len(listed(whole, "deleted=true")) == 0


def test_before_2_69(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """They are left out; or, where that is set, the list is refused."""
    found = listed(whole, version="2.68")
    assert {s["id"] for s in found} == set(servers["cell1"]) | set(servers["cell3"])
    services = whole.services
    settings = services.settings
    strict = replace(settings["settings"], list_records_by_skipping_down_cells=False)
    services.settings = {**settings, "settings": strict}
    try:
        got = whole.call("GET", f"{C}/servers?all_tenants=1", who="admin", version="2.68")
        assert got.status == 503 and "cell" in got.raw.decode().lower()
        assert len(listed(whole)) == 6
    finally:
        services.settings = settings


def test_one_server(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """It is shown from 2.69 on; what would change it says that its cell cannot be reached; others go on."""
    one = servers[dead][0]
    path = f"{C}/servers/{one}"
    shown = whole.call("GET", path, who="admin", version="2.71").json["server"]
    assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("UNKNOWN", 0)
    assert shown["OS-EXT-AZ:availability_zone"] == "UNKNOWN"
    assert shown["flavor"]["vcpus"] == 1 and shown["image"]["id"] == whole.image()
    assert whole.call("GET", path, who="other", version="2.71").status == 404
    assert whole.call("GET", path, who="admin", version="2.68").status == 503
    stop: dict[str, Any] = {"os-stop": None}
    assert whole.call("POST", f"{path}/action", stop, who="admin").status == 503
    well = servers["cell1"][0]
    assert whole.call("POST", f"{C}/servers/{well}/action", stop, who="admin").status == 202
    assert whole.settled(well).json["server"]["status"] == "SHUTOFF"
    assert (
        whole.call("POST", f"{C}/servers/{well}/action", {"os-start": None}, who="admin").status
        == 202
    )
    assert whole.settled(well).json["server"]["status"] == "ACTIVE"


def test_other_lists(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """Services say UNKNOWN; hypervisors, migrations, usage and actions show what the other cells know."""
    found = whole.call("GET", f"{C}/os-services", who="admin", version="2.69").json["services"]
    assert [s["host"] for s in found if s["status"] == "UNKNOWN"] == [f"{dead}-host1"]
    assert len(found) == 3
    found = whole.call("GET", f"{C}/os-services", who="admin", version="2.68").json["services"]
    assert len(found) == 2
    got = whole.call("GET", f"{C}/os-hypervisors", who="admin", version="2.88")
    assert [h["hypervisor_hostname"] for h in got.json["hypervisors"]] == [
        f"{c}-host1" for c in CELLS
    ]
    got = whole.call("GET", f"{C}/os-hypervisors", who="admin", version="2.52")
    assert len(got.json["hypervisors"]) == 2
    got = whole.call("GET", f"{C}/os-migrations?limit=5", who="admin", version="2.80")
    assert (got.status, got.json["migrations"]) == (200, [])
    nobody = "00000000-0000-4000-8000-000000000000"
    path = f"{C}/os-migrations?marker={nobody}"
    assert whole.call("GET", path, who="admin", version="2.80").status == 503
    assert (
        whole.call(
            "GET", f"{C}/os-simple-tenant-usage?start=2020-01-01T00:00:00", who="admin"
        ).status
        == 200
    )
    one, well = servers[dead][0], servers["cell1"][0]
    actions = f"{C}/servers/{{}}/os-instance-actions"
    assert whole.call("GET", actions.format(one), who="admin").status == 503
    assert whole.call("GET", actions.format(well), who="admin").status == 200
    status = whole.call("GET", "/kilonova/v1/status", who="admin").json
    assert {c["name"]: c["state"] for c in status["cells"]}[dead] == "down"


def test_a_cell_that_answers_again_in_between(whole: Whole, servers: dict[str, list[str]]) -> None:
    """What a change answers is whole, also when the look before it found the cell silent."""
    found = whole.call("GET", f"{C}/os-services?host=cell2-host1", who="admin", version="2.69")
    known = found.json["services"][0]
    broken = cell(whole, "cell2")
    broken.mood, before, write = "error", broken.reached, broken.real.write

    def well_by_now(fn: Any) -> Any:
        broken.mood = ""
        return write(fn)

    broken.write = well_by_now
    try:
        path = f"{C}/os-services/{known['id']}"
        got = whole.call("PUT", path, {"forced_down": False}, who="admin", version="2.69")
    finally:
        broken.mood = ""
        del broken.write
    assert got.status == 200 and broken.reached > before
    assert got.json["service"].keys() == known.keys()
    until(lambda: [s["status"] for s in listed(whole)] == ["ACTIVE"] * 6 or None)


def test_new_servers_go_elsewhere(whole: Whole, servers: dict[str, list[str]], dead: str) -> None:
    """Nothing is placed in a cell that does not answer; the scheduler looks every 5 s, here at once."""
    whole.services.scheduling.cells_changed()
    made = [whole.server(f"n{n}") for n in range(4)]
    for server in made:
        shown = whole.settled(server).json["server"]
        assert shown["status"] == "ACTIVE"
        assert not shown["OS-EXT-SRV-ATTR:host"].startswith(dead)
    for server in made:
        whole.gone(server)
    cell(whole, dead).mood = ""
    until(lambda: listed(whole)[0]["status"] == "ACTIVE" or None)
    whole.services.scheduling.cells_changed()
    assert all(h.enabled for h in whole.services.scheduling.view.facts.values())


def test_a_hanging_cell_does_not_use_up_the_api(
    whole: Whole, servers: dict[str, list[str]]
) -> None:
    """After two questions without an answer it is down at once, and well again when it answers."""
    broken = cell(whole, "cell2")
    broken.mood = "hang"
    before = broken.reached
    for _ in range(40):
        assert len(listed(whole)) == 6
    assert broken.reached - before <= 4
    broken.mood = ""
    until(lambda: [s["status"] for s in listed(whole)] == ["ACTIVE"] * 6 or None)
