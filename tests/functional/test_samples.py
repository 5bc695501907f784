"""Our own API samples: made by real requests, replayed at their own version and at the latest on every run (TAG-5).

Each file of docs/api/samples holds a request, its answer, and how the answer to the same request at the latest version
differs; a difference that is not declared there fails. When a change is meant:
KILONOVA_GOLDEN=write .venv/bin/python -m pytest tests/functional/test_samples.py
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.api.compute.service import service
from tests.functional.samples import KEY, Same, Sample, fill, keys
from tests.functional.samples_more import ALL
from tests.whole import Answer, Whole, running, until

DIRECTORY = Path(__file__).parents[2] / "docs" / "api" / "samples"
LATEST = "2.104"
BASE = "/compute/v2.1"
VOLUMES = {"OpenStack-API-Version": "volume 3.70"}
Run = dict[str, dict[str, Any]]


def _set_up(whole: Whole) -> dict[str, str]:
    networks = whole.call("GET", "/network/v2.0/networks?name=private").json["networks"]
    known = {
        "image": whole.image(),
        "network": networks[0]["id"],
        "project": whole.content.projects["demo"],
    }
    limits = {"quota_set": {"instances": 100, "cores": 100, "ram": -1}}
    whole.call("PUT", f"{BASE}/os-quota-sets/{known['project']}", limits, who="admin")
    key = {"keypair": {"name": "mine", "public_key": KEY}}
    assert whole.call("POST", f"{BASE}/os-keypairs", key, version="2.2").status == 201
    aggregate = {"aggregate": {"name": "racks", "availability_zone": None}}
    whole.call("POST", f"{BASE}/os-aggregates", aggregate, who="admin")
    group = {"server_group": {"name": "g0", "policy": "soft-affinity"}}
    made = whole.call("POST", f"{BASE}/os-server-groups", group, version="2.64")
    known["group"] = made.json["server_group"]["id"]
    known["web"] = whole.server(
        "web", networks=[{"uuid": known["network"]}], key_name="mine", metadata={"role": "web"}
    )
    known["agent"] = _with_agent(whole, known["image"])
    path = f"{BASE}/servers/{known['web']}"
    known["port"] = whole.call("GET", f"{path}/os-interface").json["interfaceAttachments"][0][
        "port_id"
    ]
    actions = whole.call("GET", f"{path}/os-instance-actions").json["instanceActions"]
    known["request"] = actions[0]["request_id"]
    services = whole.call(
        "GET", f"{BASE}/os-services?binary=nova-compute", who="admin", version="2.53"
    ).json["services"]
    known["service"] = services[0]["id"]
    hypervisors = whole.call("GET", f"{BASE}/os-hypervisors", who="admin", version="2.53").json[
        "hypervisors"
    ]
    known["hypervisor"] = hypervisors[0]["id"]
    body = {"volume": {"size": 1, "name": "data"}}
    path = "/volume/v3/volumes"
    made = whole.call("POST", path, body, headers=VOLUMES)
    volume = known["volume"] = made.json["volume"]["id"]

    def there() -> bool | None:
        shown = whole.call("GET", f"{path}/{volume}", headers=VOLUMES).json["volume"]
        return shown["status"] == "available" or None

    until(there, "the volume")
    return known


def _with_agent(whole: Whole, image: str) -> str:
    """Return a server whose image has the guest agent, for the time that this takes."""
    path = f"/image/v2/images/{image}"
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    name = "/hw_qemu_guest_agent"
    add, remove = {"op": "add", "path": name, "value": "yes"}, {"op": "remove", "path": name}
    assert whole.call("PATCH", path, [add], who="admin", headers=kind).status == 200
    made = whole.server("agent")
    assert whole.call("PATCH", path, [remove], who="admin", headers=kind).status == 200
    return made


def _ask(whole: Whole, known: dict[str, str], sample: Sample, version: str) -> Answer:
    path = BASE + fill(sample.path, known)
    body = fill(sample.body, known)
    return whole.call(sample.method, path, body, who=sample.who, version=version)


def _quiet(whole: Whole) -> bool | None:
    shown = whole.call("GET", f"{BASE}/servers/detail?all_tenants=1", who="admin").json["servers"]
    busy = [s for s in shown if s["status"] == "BUILD" or s["OS-EXT-STS:task_state"]]
    held = whole.call("GET", "/volume/v3/volumes", headers=VOLUMES).json["volumes"]
    shown = [whole.cloud.volumes.find(v["id"]) for v in held]
    moving = [v for v in shown if v is not None and v.status not in ("available", "in-use")]
    return None if busy or moving else True


def _run(version: str | None) -> Run:
    """Make every request against a cloud of its own, each at its version or all at one."""
    out: Run = {}
    with running(hosts=1) as whole:
        known = _set_up(whole)
        for sample in ALL:
            got = _ask(whole, known, sample, version or sample.version)
            if sample.method != "GET" and got.status in (200, 202, 204):
                until(lambda: _quiet(whole), "servers were not built")
                whole.at_rest()  # a NIC comes and goes without a task state
            same = Same()
            body = fill(sample.body, known)
            out[sample.name] = {
                "request": {
                    "method": sample.method,
                    "path": same.text(BASE + fill(sample.path, known)),
                    "version": version or sample.version,
                    "body": same.value(body),
                },
                "response": {"status": got.status, "body": same.value(got.json)},
            }
    return out


def _difference(mine: dict[str, Any], latest: dict[str, Any]) -> dict[str, Any]:
    before, after = mine["response"], latest["response"]
    old, new = keys(before["body"]), keys(after["body"])
    return {
        "status": after["status"],
        "added": sorted(new - old),
        "removed": sorted(old - new),
    }


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Any]]:
    own, latest = _run(None), _run(LATEST)
    out = {name: {**own[name], "at_latest": _difference(own[name], latest[name])} for name in own}
    if os.environ.get("KILONOVA_GOLDEN") == "write":
        for old in DIRECTORY.glob("*.json"):
            old.unlink()
        for name, content in out.items():
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (DIRECTORY / f"{name}.json").write_text(text + "\n")
    yield out


@pytest.mark.parametrize("name", [s.name for s in ALL])
def test_a_sample_is_answered_as_it_says(made: dict[str, Any], name: str) -> None:
    """TAG-5: at its own version exactly so; at the latest with the declared differences only."""
    known = json.loads((DIRECTORY / f"{name}.json").read_text())
    assert made[name]["request"] == known["request"]
    assert made[name]["response"] == known["response"]
    assert made[name]["at_latest"] == known["at_latest"]


def test_no_sample_is_left_over(made: dict[str, Any]) -> None:
    assert {p.stem for p in DIRECTORY.glob("*.json")} == set(made)
    assert len({s.name for s in ALL}) == len(ALL)


def test_samples_that_end_before_the_latest_say_why(made: dict[str, Any]) -> None:
    """TAG-5: what no longer works at the latest version is named here, with the version that took it away."""
    ended = {
        name
        for name, m in made.items()
        if m["response"]["status"] < 400 <= m["at_latest"]["status"]
    }
    assert ended == {
        "server-create-2.1",  # 2.37: networks is required
        "server-create-2.19",
        "server-group-create-2.1",  # 2.64: one policy
        "host-disable-2.1",  # 2.43: services instead of hosts
        "host-enable-2.1",
        "host-show-2.1",
        "hosts-list-2.1",
        "hypervisor-uptime-2.53",  # 2.88: part of the hypervisor
        "hypervisors-search-2.1",  # 2.53: a parameter of the list
        "hypervisors-servers-2.1",
        "hypervisors-statistics-2.1",  # 2.88
        "server-addFixedIp-2.1",  # 2.44: interfaces
        "server-os-getSerialConsole-2.1",  # 2.6: remote-consoles
        "server-os-getVNCConsole-2.1",
    }


DAILY = "/os-instance_usage_audit_log"  # answers with the month that it is


def test_every_route_that_works_has_a_sample() -> None:
    """TAG-5: routes that Nova gave up, and those that are not built (501), have none."""
    lacking = []
    for route in service().routes:
        path = route.path.removeprefix("/v2.1")
        shape = re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path) + "/?")
        found = [
            s for s in ALL if s.method == route.method and shape.fullmatch(s.path.partition("?")[0])
        ]
        acted = [s for s in found if route.action is None or route.action in s.body]
        if not acted and not {410, 501} & set(route.errors) and path != DAILY:
            lacking.append((route.method, path, route.action))
    assert lacking == []
