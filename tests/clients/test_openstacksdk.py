"""openstacksdk, as Ansible and others use it, against a simulated cloud."""

import time
from typing import Any

import openstack
import pytest

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def sdk(cloud: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A connection as the demo user, configured by the clouds.yaml that ``up`` wrote."""
    config = openstack.config.OpenStackConfig(config_files=[cloud["clouds_yaml"]], vendor_files=[])
    connection = openstack.connection.Connection(config=config.get_one(cloud="kilonova"))
    yield connection
    connection.close()


def test_every_service_of_the_catalog_answers(sdk: Any) -> None:
    """The catalog names only what works."""
    for kind in ("compute", "image", "network", "identity"):
        assert sdk.session.get_endpoint(service_type=kind, interface="public")
    assert [i.name for i in sdk.image.images()] == ["tiny-linux"]
    assert {f.name for f in sdk.compute.flavors()} >= {
        "m1.nano",
        "m1.tiny",
        "m1.small",
        "m1.medium",
    }
    assert {n.name for n in sdk.network.networks()} == {"private", "public"}


def test_a_server_from_create_to_delete(sdk: Any) -> None:
    """What every playbook does: create, wait, floating address, stop, start, delete."""
    server = sdk.create_server(
        name="sdk",
        image="tiny-linux",
        flavor="m1.tiny",
        network="private",
        wait=True,
        auto_ip=False,
        timeout=60,
    )
    assert server.status == "ACTIVE"
    address = sdk.create_floating_ip(network="public", server=server)
    for _ in range(300):  # the network tells compute by an event, as Neutron does
        if address.floating_ip_address in str(sdk.compute.get_server(server.id).addresses):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the floating address never showed in the server's addresses")
    sdk.compute.stop_server(server.id)
    sdk.compute.wait_for_server(server, status="SHUTOFF", interval=0.2, wait=30)
    sdk.compute.start_server(server.id)
    sdk.compute.wait_for_server(server, status="ACTIVE", interval=0.2, wait=30)
    assert [a.action for a in sdk.compute.server_actions(server)][-1] == "create"
    assert sdk.delete_server(server.id, wait=True, timeout=60)
    assert sdk.compute.find_server(server.id) is None
    assert sdk.delete_floating_ip(address.id)


def test_metadata_tags_and_names(sdk: Any) -> None:
    """Record changes: rename, metadata and tags, emoji included."""
    server = sdk.create_server(
        name="names",
        image="tiny-linux",
        flavor="m1.nano",
        network="private",
        wait=True,
        auto_ip=False,
    )
    try:
        sdk.compute.update_server(server.id, name="zwölf 🚀")
        sdk.compute.set_server_metadata(server.id, role="web")
        sdk.compute.add_tag_to_server(server.id, "blue")
        found = sdk.compute.get_server(server.id)
        assert (found.name, found.metadata) == ("zwölf 🚀", {"role": "web"})
    finally:
        sdk.delete_server(server.id, wait=True)


def test_quotas_limits_and_keypairs(sdk: Any) -> None:
    """The small reads that modules make before they do anything."""
    key = sdk.compute.create_keypair(name="sdk")
    assert key.private_key.startswith("-----BEGIN")
    assert [k.name for k in sdk.compute.keypairs()] == ["sdk"]
    sdk.compute.delete_keypair("sdk")
    assert sdk.compute.get_limits().absolute.instances > 0
    assert [z.name for z in sdk.compute.availability_zones()] == ["nova"]


def test_a_refusal_is_an_exception_with_words(sdk: Any) -> None:
    """A wrong id is a 404 with Nova's words, never a 500."""
    with pytest.raises(openstack.exceptions.NotFoundException) as caught:
        sdk.compute.get_server("00000000-0000-4000-8000-000000000000")
    assert "could not be found" in str(caught.value)
