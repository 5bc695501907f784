"""A cloud that has stopped holds nothing: no descriptor, no thread, no file outside of its directory."""

import collections
import gc
import os
import threading
from pathlib import Path

from tests.whole import Whole, running


def held() -> tuple[collections.Counter[str], list[str]]:
    """Count what this process has open, by what it is, and name its threads."""
    gc.collect()
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{name}").partition("[")[0].rstrip(":")] += 1
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found, sorted(t.name for t in threading.enumerate())


def use(cloud: Whole) -> None:
    """Have each part open what it opens while it works."""
    cloud.image()
    body = {"volume": {"size": 1, "name": "v"}}
    project = cloud.content.projects["demo"]
    assert cloud.call("POST", f"/volume/v3/{project}/volumes", body).status == 202
    kept = cloud.server("kept")
    cloud.gone(cloud.server("gone"))
    console = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    asked = cloud.call(
        "POST", f"/compute/v2.1/servers/{kept}/remote-consoles", console, version="2.90"
    )
    assert asked.status == 200, asked
    assert (
        cloud.call("GET", "/compute/v2.1/servers/detail?all_tenants=1", who="admin").status == 200
    )
    assert cloud.audit() == []
    cloud.at_rest()


def test_a_cloud_that_stopped_holds_nothing(tmp_path: Path) -> None:
    """R1: twice with one directory, then another with agents that keep journals; the first shows what imports keep."""
    with running(tmp_path / "first", hosts=1) as cloud:
        use(cloud)
    before = held()
    for directory, shares in (("first", False), ("second", False), ("third", True)):
        with running(tmp_path / directory, hosts=2, cells=2, shares=shares) as cloud:
            use(cloud)
            during = held()
            assert during[0].total() > before[0].total() and len(during[1]) > len(before[1])
        assert held() == before, directory
