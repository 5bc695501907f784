"""Your code under test would stand where openstacksdk is used here."""

from typing import Any

import openstack
import pytest


@pytest.mark.filterwarnings("ignore")
def test_a_server_is_built(openstack_env: dict[str, Any]) -> None:
    """The build is seen as BUILD first, since the fixture asked for half a second."""
    connection = openstack.connect()
    server = connection.create_server(
        "mine", image="tiny-linux", flavor="m1.tiny", network="private", auto_ip=False
    )
    assert connection.compute.wait_for_server(server, interval=0.1, wait=30).status == "ACTIVE"
    assert connection.delete_server(server.id, wait=True)
    connection.close()


@pytest.mark.filterwarnings("ignore")
def test_a_failing_build_is_handled(openstack_env: dict[str, Any]) -> None:
    """Faults can be asked for by server metadata, so that error paths are tested too."""
    connection = openstack.connect()
    server = connection.create_server(
        "broken",
        image="tiny-linux",
        flavor="m1.tiny",
        network="private",
        auto_ip=False,
        meta={"kilonova:fault": "build_fail_everywhere"},
    )
    with pytest.raises(openstack.exceptions.ResourceFailure):
        connection.compute.wait_for_server(server, interval=0.1, wait=30)
    assert "fault" in connection.compute.get_server(server.id).to_dict()
    assert connection.delete_server(server.id, wait=True)
    connection.close()
