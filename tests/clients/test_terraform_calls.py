"""The calls that Terraform's OpenStack provider makes for its documented resources, in the shapes that it makes them.

The provider itself cannot be fetched where these tests were written. source: its resource pages (compute_instance_v2,
compute_keypair_v2, compute_servergroup_v2, compute_interface_attach_v2, networking_*_v2), and gophercloud, which makes
the requests: no microversion unless a resource needs one, waits by GET, updates by PUT with what changed.
"""

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.whole import Answer, Whole, running, until

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2M9DnSGRcyRvuPtVMSLYiPrN5tLxQVvNPpqM4WmXJH tf@nowhere"
AGENT = "HashiCorp Terraform/1.9 terraform-provider-openstack/3.0 gophercloud/v2.4"


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with running(hosts=2) as made:
        yield made


class Provider:
    """One configured provider: finds its endpoints in the catalog and speaks as gophercloud does."""

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        root = whole.call("GET", "/identity/", who=None)
        (version,) = [v for v in root.json["versions"]["values"] if v["id"].startswith("v3")]
        assert root.status in (200, 300) and version["status"] in ("stable", "current")
        (own,) = [link["href"] for link in version["links"] if link["rel"] == "self"]
        user = {
            "name": "demo",
            "password": whole.passwords["demo"],
            "domain": {"name": "Default"},
        }
        scope = {"project": {"name": "demo", "domain": {"name": "Default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        path = urlsplit(own).path.rstrip("/") + "/auth/tokens"
        got = whole.call("POST", path, {"auth": {"identity": identity, "scope": scope}}, who=None)
        assert got.status == 201, got
        self.token = got.headers["x-subject-token"]
        self.catalog = got.json["token"]["catalog"]

    def endpoint(self, kind: str) -> str:
        """Return the path of the public endpoint of a type in the region."""
        (service,) = [s for s in self.catalog if s["type"] == kind]
        (found,) = [
            e
            for e in service["endpoints"]
            if e["interface"] == "public" and e["region_id"] == "RegionOne"
        ]
        return urlsplit(found["url"]).path.rstrip("/") + "/"

    def compute(self, method: str, path: str, body: Any = None, **kw: Any) -> Any:
        """Call the compute API; at: a microversion, sent under both names as gophercloud does."""
        at = kw.pop("at", None)
        more = {} if at is None else {"X-OpenStack-Nova-API-Version": at}
        if at is not None:
            more["OpenStack-API-Version"] = f"compute {at}"
        return self.send(method, self.endpoint("compute") + path, body, more, **kw)

    def network(self, method: str, path: str, body: Any = None, **kw: Any) -> Any:
        """Call the network API."""
        return self.send(method, self.endpoint("network") + "v2.0/" + path, body, {}, **kw)

    def send(
        self, method: str, path: str, body: Any, more: dict[str, str], ok: tuple[int, ...] = ()
    ) -> Any:
        """Send a request that must be answered with one of the statuses that gophercloud takes."""
        usual = {
            "GET": (200,),
            "POST": (200, 201, 202),
            "PUT": (200, 201, 202),
            "DELETE": (202, 204),
        }
        headers = {"Accept": "application/json", "User-Agent": AGENT, **more}
        got = self.whole.call(method, path, body, token=self.token, headers=headers)
        assert got.status in (ok or usual[method]), f"{method} {path}: {got}"
        return got.json


@pytest.fixture(scope="module")
def tf(whole: Whole) -> Provider:
    return Provider(whole)


@pytest.fixture(scope="module")
def net(tf: Provider) -> Iterator[dict[str, str]]:
    """A network, a subnet, a router with a leg, a security group with a rule: as one plan would make them."""
    made = tf.network("POST", "networks", {"network": {"name": "tf-net", "admin_state_up": True}})[
        "network"
    ]
    assert until(lambda: _status(tf, f"networks/{made['id']}", "network", "ACTIVE"))
    subnet = tf.network(
        "POST",
        "subnets",
        {
            "subnet": {
                "network_id": made["id"],
                "name": "tf-subnet",
                "cidr": "192.168.199.0/24",
                "ip_version": 4,
                "enable_dhcp": True,
                "dns_nameservers": ["192.0.2.53"],
                "allocation_pools": [{"start": "192.168.199.10", "end": "192.168.199.200"}],
            }
        },
    )["subnet"]
    (public,) = tf.network("GET", "networks?name=public&router%3Aexternal=true")["networks"]
    router = tf.network(
        "POST",
        "routers",
        {
            "router": {
                "name": "tf-router",
                "admin_state_up": True,
                "external_gateway_info": {"network_id": public["id"]},
            }
        },
    )["router"]
    leg = tf.network(
        "PUT", f"routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]}
    )
    until(lambda: _status(tf, f"ports/{leg['port_id']}", "port", "ACTIVE", "DOWN"))
    out = {
        "network": made["id"],
        "subnet": subnet["id"],
        "router": router["id"],
        "public": public["id"],
    }
    yield {**out, "leg": leg["port_id"]}
    tf.network(
        "PUT", f"routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]}
    )
    tf.network("GET", f"ports/{leg['port_id']}", ok=(404,))
    for path in (f"routers/{router['id']}", f"subnets/{subnet['id']}", f"networks/{made['id']}"):
        tf.network("DELETE", path)
        tf.network("GET", path, ok=(404,))


def _status(tf: Provider, path: str, name: str, *wanted: str) -> bool | None:
    return True if tf.network("GET", path)[name]["status"] in wanted else None


def test_network_resources_read_and_update(tf: Provider, net: dict[str, str]) -> None:
    """networking_network_v2, subnet_v2, router_v2: read back what was given; update what changed; tags."""
    path = f"networks/{net['network']}"
    tf.network("PUT", path, {"network": {"name": "tf-net2", "description": "by terraform"}})
    tags = tf.network("PUT", path + "/tags", {"tags": ["a", "b"]})
    assert sorted(tags["tags"]) == ["a", "b"]
    shown = tf.network("GET", path)["network"]
    for field in (
        "shared",
        "router:external",
        "mtu",
        "availability_zone_hints",
        "port_security_enabled",
    ):
        assert field in shown, field
    assert (shown["name"], sorted(shown["tags"])) == ("tf-net2", ["a", "b"])
    path = f"subnets/{net['subnet']}"
    subnet = tf.network("PUT", path, {"subnet": {"dns_nameservers": ["192.0.2.54", "192.0.2.53"]}})
    assert subnet["subnet"]["dns_nameservers"] == ["192.0.2.54", "192.0.2.53"]
    no_gateway = tf.network(
        "PUT", f"routers/{net['router']}", {"router": {"external_gateway_info": {}}}
    )
    assert no_gateway["router"]["external_gateway_info"] is None
    again = {"router": {"external_gateway_info": {"network_id": net["public"]}}}
    tf.network("PUT", f"routers/{net['router']}", again)
    listed = tf.network("GET", f"ports?device_id={net['router']}&network_id={net['network']}")[
        "ports"
    ]
    assert [p["id"] for p in listed] == [net["leg"]]


def test_a_security_group_and_its_rules(tf: Provider) -> None:
    """networking_secgroup_v2 with delete_default_rules, networking_secgroup_rule_v2."""
    body = {"security_group": {"name": "tf-sg", "description": "ssh"}}
    group = tf.network("POST", "security-groups", body)["security_group"]
    for rule in group["security_group_rules"]:
        tf.network("DELETE", f"security-group-rules/{rule['id']}")
    rule = {
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": "tcp",
        "port_range_min": 22,
        "port_range_max": 22,
        "remote_ip_prefix": "0.0.0.0/0",
        "security_group_id": group["id"],
    }
    made = tf.network("POST", "security-group-rules", {"security_group_rule": rule})
    shown = tf.network("GET", f"security-group-rules/{made['security_group_rule']['id']}")
    assert {k: shown["security_group_rule"][k] for k in rule} == rule
    tf.network("POST", "security-group-rules", {"security_group_rule": rule}, ok=(409,))
    path = f"security-groups/{group['id']}"
    tf.network("PUT", path, {"security_group": {"name": "tf-sg2", "description": ""}})
    tf.network("DELETE", path)
    tf.network("GET", path, ok=(404,))


def test_a_key_pair(tf: Provider) -> None:
    """compute_keypair_v2."""
    made = tf.compute("POST", "os-keypairs", {"keypair": {"name": "tf-key", "public_key": KEY}})
    assert made["keypair"]["fingerprint"]
    shown = tf.compute("GET", "os-keypairs/tf-key")["keypair"]
    assert shown["public_key"] == KEY
    tf.compute("DELETE", "os-keypairs/tf-key")
    tf.compute("GET", "os-keypairs/tf-key", ok=(404,))


@pytest.mark.parametrize(
    ("at", "group"),
    [
        (None, {"name": "tf-group", "policies": ["anti-affinity"]}),
        (
            "2.64",
            {"name": "tf-group", "policy": "anti-affinity", "rules": {"max_server_per_host": 2}},
        ),
    ],
)
def test_a_server_group(tf: Provider, at: str | None, group: dict[str, Any]) -> None:
    """compute_servergroup_v2, without and with rules."""
    made = tf.compute("POST", "os-server-groups", {"server_group": group}, at=at)["server_group"]
    shown = tf.compute("GET", f"os-server-groups/{made['id']}", at=at)["server_group"]
    assert {k: shown[k] for k in group} == group and shown["members"] == []
    tf.compute("DELETE", f"os-server-groups/{made['id']}", at=at)
    tf.compute("GET", f"os-server-groups/{made['id']}", at=at, ok=(404,))


def _boot(tf: Provider, net: dict[str, str], **more: Any) -> dict[str, Any]:
    """The POST of compute_instance_v2 and its wait; image and flavor by name."""
    images = tf.send("GET", tf.endpoint("image") + "v2/images?name=tiny-linux", None, {})["images"]
    flavors = tf.compute("GET", "flavors/detail")["flavors"]
    flavor = next(f["id"] for f in flavors if f["name"] == "m1.nano")
    server = {
        "name": "tf-instance",
        "imageRef": images[0]["id"],
        "flavorRef": flavor,
        "networks": [{"uuid": net["network"]}],
        "security_groups": [{"name": "default"}],
        **more,
    }
    made = tf.compute("POST", "servers", {"server": server})["server"]
    assert made["adminPass"]

    def built() -> dict[str, Any] | None:
        shown: dict[str, Any] = tf.compute("GET", f"servers/{made['id']}")["server"]
        assert shown["status"] in ("BUILD", "ACTIVE"), shown
        return shown if shown["status"] == "ACTIVE" else None

    found: dict[str, Any] = until(built)
    return found


def _gone(tf: Provider, server: str) -> None:
    tf.compute("DELETE", f"servers/{server}")

    def look() -> bool | None:
        answer = tf.compute("GET", f"servers/{server}", ok=(200, 404))
        return True if "itemNotFound" in answer else None

    until(look)


def test_an_instance(tf: Provider, net: dict[str, str]) -> None:
    """compute_instance_v2: create, read with all that the provider reads, update in place, delete."""
    tf.compute("POST", "os-keypairs", {"keypair": {"name": "tf-ssh", "public_key": KEY}})
    data = base64.b64encode(b"#cloud-config\n{}\n").decode()
    fields = {"user_data": data, "config_drive": True, "metadata": {"role": "web"}}
    server = _boot(tf, net, key_name="tf-ssh", **fields)
    path = f"servers/{server['id']}"
    (address,) = server["addresses"]["tf-net2" if "tf-net2" in server["addresses"] else "tf-net"]
    assert address["OS-EXT-IPS:type"] == "fixed" and address["OS-EXT-IPS-MAC:mac_addr"]
    (nic,) = tf.compute("GET", path + "/os-interface")["interfaceAttachments"]
    assert nic["net_id"] == net["network"] and nic["fixed_ips"][0]["ip_address"] == address["addr"]
    assert server["key_name"] == "tf-ssh" and server["metadata"] == {"role": "web"}
    assert server["config_drive"] == "True" and server["security_groups"] == [{"name": "default"}]
    assert tf.compute("GET", f"flavors/{server['flavor']['id']}")["flavor"]["name"] == "m1.nano"
    image = tf.send("GET", tf.endpoint("image") + f"v2/images/{server['image']['id']}", None, {})
    assert image["name"] == "tiny-linux"
    assert tf.compute("GET", path + "/os-volume_attachments")["volumeAttachments"] == []
    tf.compute("PUT", path, {"server": {"name": "tf-renamed"}})
    tf.compute("POST", path + "/metadata", {"metadata": {"stage": "test"}})
    tf.compute("DELETE", path + "/metadata/role")
    tags = tf.compute("PUT", path + "/tags", {"tags": ["x"]}, at="2.52")["tags"]
    assert tags == tf.compute("GET", path + "/tags", at="2.52")["tags"] == ["x"]
    for state, action in (("SHUTOFF", "os-stop"), ("ACTIVE", "os-start")):
        tf.compute("POST", path + "/action", {action: None})
        until(lambda s=state: tf.compute("GET", path)["server"]["status"] == s or None)
    shown = tf.compute("GET", path)["server"]
    assert (shown["name"], shown["metadata"]) == ("tf-renamed", {"stage": "test"})
    _gone(tf, server["id"])
    tf.compute("DELETE", "os-keypairs/tf-ssh")


def test_an_instance_is_resized_in_place(tf: Provider, net: dict[str, str]) -> None:
    """compute_instance_v2 with another flavor: resize, wait for VERIFY_RESIZE, confirm (204), wait for ACTIVE."""
    server = _boot(tf, net)
    path, flavors = f"servers/{server['id']}", tf.compute("GET", "flavors/detail")["flavors"]
    bigger = next(f["id"] for f in flavors if f["name"] == "m1.tiny")
    tf.compute("POST", path + "/action", {"resize": {"flavorRef": bigger}})
    until(lambda: tf.compute("GET", path)["server"]["status"] == "VERIFY_RESIZE" or None)
    tf.compute("POST", path + "/action", {"confirmResize": None}, ok=(201, 202, 204))
    until(lambda: tf.compute("GET", path)["server"]["status"] == "ACTIVE" or None)
    assert tf.compute("GET", path)["server"]["flavor"]["id"] == bigger
    _gone(tf, server["id"])


def test_a_port_and_a_floating_address(tf: Provider, net: dict[str, str]) -> None:
    """networking_port_v2 given to an instance, networking_floatingip_v2 and its associate."""
    fixed = {"subnet_id": net["subnet"], "ip_address": "192.168.199.23"}
    body = {
        "port": {
            "network_id": net["network"],
            "name": "tf-port",
            "admin_state_up": True,
            "fixed_ips": [fixed],
        }
    }
    port = tf.network("POST", "ports", body)["port"]
    until(lambda: _status(tf, f"ports/{port['id']}", "port", "ACTIVE", "DOWN"))
    server = _boot(tf, net, networks=[{"port": port["id"]}])
    made = tf.network("POST", "floatingips", {"floatingip": {"floating_network_id": net["public"]}})
    path = f"floatingips/{made['floatingip']['id']}"
    until(lambda: _status(tf, path, "floatingip", "ACTIVE", "DOWN"))
    lead = {"floatingip": {"port_id": port["id"], "fixed_ip_address": "192.168.199.23"}}
    shown = tf.network("PUT", path, lead)["floatingip"]
    assert (shown["port_id"], shown["fixed_ip_address"]) == (port["id"], "192.168.199.23")
    assert shown["router_id"] == net["router"]
    listed = tf.network("GET", f"floatingips?floating_ip_address={shown['floating_ip_address']}")
    assert [f["id"] for f in listed["floatingips"]] == [made["floatingip"]["id"]]
    kinds = {a["OS-EXT-IPS:type"] for a in _addresses(tf, server["id"], 2)}
    assert kinds == {"fixed", "floating"}
    tf.network("PUT", path, {"floatingip": {"port_id": None}})
    tf.network("DELETE", path)
    tf.network("GET", path, ok=(404,))
    _gone(tf, server["id"])
    assert tf.network("GET", f"ports/{port['id']}")["port"]["device_id"] == "", "it was not ours"
    tf.network("DELETE", f"ports/{port['id']}")


def _addresses(tf: Provider, server: str, count: int) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]] | None:
        shown = tf.compute("GET", f"servers/{server}")["server"]["addresses"]
        found = [a for part in shown.values() for a in part]
        return found if len(found) == count else None

    seen: list[dict[str, Any]] = until(look)
    return seen


def test_an_interface_is_attached_and_detached(tf: Provider, net: dict[str, str]) -> None:
    """compute_interface_attach_v2: POST, wait until GET shows it, DELETE, wait until it is 404."""
    server = _boot(tf, net)
    path = f"servers/{server['id']}/os-interface"
    body = {"interfaceAttachment": {"net_id": net["network"]}}
    made = tf.compute("POST", path, body)["interfaceAttachment"]
    one = f"{path}/{made['port_id']}"
    until(lambda: "interfaceAttachment" in tf.compute("GET", one, ok=(200, 404)) or None)
    until(
        lambda: (
            tf.compute("GET", f"servers/{server['id']}")["server"]["OS-EXT-STS:task_state"] is None
            or None
        )
    )
    tf.compute("DELETE", one)
    until(lambda: "itemNotFound" in tf.compute("GET", one, ok=(200, 404)) or None)
    _gone(tf, server["id"])


def test_refusals_are_what_the_provider_branches_on(tf: Provider) -> None:
    """It looks at the status alone: 404 is gone, 409 is try again, anything else ends the run."""
    answer: Answer = tf.whole.call("GET", "/compute/v2.1/servers/none", token=tf.token)
    assert answer.status == 404 and answer.json["itemNotFound"]["code"] == 404
    bad = tf.whole.call("GET", "/compute/v2.1/servers", token="expired")
    assert bad.status == 401, "gophercloud logs in again on 401"
