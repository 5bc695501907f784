"""The embedded network describes a server's security groups with their ingress rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.bus.memory import MemoryBus
from kilonova.common.clock import ManualClock
from kilonova.common.context import Context
from kilonova.db.sqlite import SqliteDatabase
from kilonova.network.embedded.network import EmbeddedNetwork
from kilonova.network.embedded.seed import seed

CTX = Context(request_id="req-1", user_id="u", project_id="demo", roles=("member", "reader"))


@pytest.fixture
def network(tmp_path: Path) -> Iterator[EmbeddedNetwork]:
    database, bus = SqliteDatabase(tmp_path / "n.db", "network"), MemoryBus()
    made = EmbeddedNetwork(database, bus, ManualClock(), lambda: ["h"])
    made.start()
    seed(made, "admin", "demo")
    yield made
    made.stop()
    bus.close()
    database.close()


def test_the_default_group_of_a_server(network: EmbeddedNetwork) -> None:
    (plan,) = network.plan(CTX, "demo", "auto")
    network.ensure_port(
        ("op", "0"), project_id="demo", device_id="s1", host="h", network_id=plan.network_id
    )
    (group,) = network.describe_groups("s1")
    assert (group.name, group.project_id) == ("default", "demo")
    assert [r.remote_group for r in group.rules] == [("default", "demo")] * 2
    assert all(r.cidr is None and r.protocol is None for r in group.rules)
    assert network.describe_groups("nobody") == []
