"""The table of nonsense: what is sent, which refusals are right, and what they must name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.client import Answer, Client

V = "/compute/v2.1"


@dataclass(frozen=True)
class Bad:
    """One row. send: makes the request; says: words that the refusal must have (any case); one of ``status``."""

    what: str
    send: Callable[[Client], Answer]
    status: tuple[int, ...]
    says: str = ""


def servers(**more: Any) -> Callable[[Client], Answer]:
    """POST /servers with some fields replaced."""
    return lambda c: c.call("POST", f"{V}/servers", c.server_body(**more))


def call(method: str, path: str, body: Any = None, **kw: Any) -> Callable[[Client], Answer]:
    return lambda c: c.call(method, path, body, **kw)


def image(**more: Any) -> Callable[[Client], Answer]:
    body = {"name": "i", "disk_format": "qcow2", "container_format": "bare", **more}
    return call("POST", "/image/v2/images", body)


def flavor(**more: Any) -> Callable[[Client], Answer]:
    return call(
        "POST", f"{V}/flavors", {"flavor": {"name": "f", "vcpus": 1, "ram": 1, "disk": 1, **more}}
    )


def net(c: Client) -> dict[str, str]:
    return {"uuid": c.first("/network/v2.0/networks", "private")}


UNKNOWN = "11111111-2222-4333-8444-555555555555"
JSON = {"Content-Type": "application/json"}
TABLE = [
    # who asks
    Bad("no token", lambda c: Client(c.url, None, None).call("GET", f"{V}/servers"), (401,)),
    Bad(
        "a made-up token",
        lambda c: Client(c.url, "x" * 40, None).call("GET", f"{V}/servers"),
        (401,),
    ),
    Bad(
        "a token of 60 kB",
        lambda c: Client(c.url, "x" * 60_000, None).call("GET", f"{V}/servers"),
        (400, 401, 431, 413),
    ),
    Bad(
        "a token with strange letters",
        lambda c: Client(c.url, "\u00e9\u00ff", None).call("GET", f"{V}/servers"),
        (401,),
    ),
    # versions and forms
    Bad("an unknown microversion", call("GET", f"{V}/servers", version="2.999"), (406,), "2.999"),
    Bad("a malformed microversion", call("GET", f"{V}/servers", version="two"), (400,), "two"),
    Bad(
        "malformed JSON",
        lambda c: c.call("POST", f"{V}/servers", body=b'{"server":', headers=JSON),
        (400,),
        "malformed",
    ),
    Bad(
        "not JSON at all",
        lambda c: c.call("POST", f"{V}/servers", body=b"\xff\xfe\x00", headers=JSON),
        (400,),
        "json",
    ),
    Bad("a list instead of an object", call("POST", f"{V}/servers", [1]), (400,)),
    Bad("no body", lambda c: c.call("POST", f"{V}/servers", body=b"", headers=JSON), (400,)),
    Bad(
        "deeply nested JSON",
        lambda c: c.call("POST", f"{V}/servers", body=b"[" * 100_000, headers=JSON),
        (400,),
    ),
    Bad(
        "another content type",
        lambda c: c.call(
            "POST", f"{V}/servers", body=b"<a/>", headers={"Content-Type": "text/xml"}
        ),
        (400, 415),
    ),
    Bad("an unknown path", call("GET", f"{V}/nothing"), (404,)),
    Bad("an unknown method", call("PATCH", f"{V}/servers"), (405,)),
    Bad("a path that climbs", call("GET", f"{V}/../../../etc/passwd"), (400, 404)),
    Bad("a path with NUL", call("GET", f"{V}/servers/%00"), (400, 404)),
    Bad("a path that is no UTF-8", call("GET", f"{V}/servers/%ff%fe"), (400, 404)),
    Bad("a wrong UUID", call("GET", f"{V}/servers/not-a-uuid"), (404,), "not-a-uuid"),
    Bad("an unknown server", call("GET", f"{V}/servers/{UNKNOWN}"), (404,), UNKNOWN),
    # fields of a server
    Bad("an unknown property", servers(colour="red"), (400,), "colour"),
    Bad("no name", servers(name=""), (400,), "name"),
    Bad("a name of blanks", servers(name="   "), (400,), "name"),
    Bad("an over-long name", servers(name="x" * 256), (400,), "name"),
    Bad("a name with control characters", servers(name="a\x00b"), (400,), "name"),
    Bad("a number as name", servers(name=5), (400,), "name"),
    Bad("an unknown image", servers(imageRef=UNKNOWN), (400,), "image"),
    Bad("an image that is no id", servers(imageRef="file:///etc/passwd"), (400,), "imageRef"),
    Bad("an unknown flavor", servers(flavorRef="99999"), (400, 404), "flavor"),
    Bad("an unknown network", servers(networks=[{"uuid": UNKNOWN}]), (400,), "network"),
    Bad("a network that is no id", servers(networks=[{"uuid": "x"}]), (400,), "uuid"),
    Bad("an unknown port", servers(networks=[{"port": UNKNOWN}]), (400,), "port"),
    Bad(
        "an address outside",
        lambda c: servers(networks=[{**net(c), "fixed_ip": "192.0.2.9"}])(c),
        (400,),
        "192.0.2.9",
    ),
    Bad(
        "an address that is none",
        lambda c: servers(networks=[{**net(c), "fixed_ip": "999.1.1.1"}])(c),
        (400,),
        "fixed_ip",
    ),
    Bad("an unknown key", servers(key_name="nokey"), (400,), "key_name"),
    Bad(
        "an unknown security group",
        servers(security_groups=[{"name": "nogroup"}]),
        (400, 404),
        "nogroup",
    ),
    Bad("an unknown zone", servers(availability_zone="mars"), (400,), "zone"),
    Bad(
        "an unknown server group",
        lambda c: c.call(
            "POST", f"{V}/servers", {**c.server_body(), "os:scheduler_hints": {"group": UNKNOWN}}
        ),
        (400,),
        "group",
    ),
    Bad("min over max", servers(min_count=3, max_count=2), (400,), "min_count"),
    Bad("a negative count", servers(min_count=-1), (400,), "min_count"),
    Bad("a huge count", servers(min_count=10**30), (400,), "at most 1000"),
    Bad("metadata of another type", servers(metadata={"a": [1]}), (400,), "metadata"),
    Bad("a metadata value too long", servers(metadata={"a": "x" * 256}), (400,), "metadata"),
    Bad(
        "too much metadata",
        servers(metadata={f"k{n}": "v" for n in range(129)}),
        (403, 413),
        "metadata",
    ),
    Bad("too many tags", servers(tags=[f"t{n}" for n in range(51)]), (400,), "tags"),
    Bad("a tag with a comma", servers(tags=["a,b"]), (400,), "tags"),
    Bad("user_data that is not base64", servers(user_data="!!!"), (400,), "user_data"),
    Bad("user_data of 10 MB", servers(user_data="QUFB" * (10 << 18)), (400, 413), ""),
    Bad(
        "a volume that is not there",
        servers(
            block_device_mapping_v2=[
                {
                    "uuid": UNKNOWN,
                    "source_type": "volume",
                    "destination_type": "volume",
                    "boot_index": 0,
                }
            ]
        ),
        (400,),
        "failed to get volume",
    ),
    Bad(
        "disks of which none boots",
        servers(block_device_mapping_v2=[{"source_type": "blank", "destination_type": "local"}]),
        (400,),
        "Boot sequence",
    ),
    Bad("an address that is no address", servers(accessIPv4="1.2.3"), (400,), "accessIPv4"),
    Bad("a negative limit", call("GET", f"{V}/servers?limit=-1"), (400,), "limit"),
    Bad("a limit that is no number", call("GET", f"{V}/servers?limit=many"), (400,), "limit"),
    Bad("an unknown marker", call("GET", f"{V}/servers?marker={UNKNOWN}"), (400,), "marker"),
    Bad("an unknown sort key", call("GET", f"{V}/servers?sort_key=colour"), (400,), "colour"),
    Bad(
        "a status that no server has",
        call("GET", f"{V}/servers?changes-since=yesterday"),
        (400,),
        "changes-since",
    ),
    # actions
    Bad("an action on a missing server", lambda c: c.act(UNKNOWN, {"os-stop": None}), (404,)),
    Bad("a delete of a missing server", call("DELETE", f"{V}/servers/{UNKNOWN}"), (404,)),
    # images
    Bad("an unknown disk format", image(disk_format="floppy9"), (400,), "disk_format"),
    Bad("an image name too long", image(name="x" * 256), (400,), "name"),
    Bad("a negative min_disk", image(min_disk=-1), (400,), "min_disk"),
    Bad("a huge min_disk", image(min_disk=2**63), (400,), "min_disk"),
    Bad("an image id that is no id", image(id="../../x"), (400,), "id"),
    Bad("an unknown image", call("GET", f"/image/v2/images/{UNKNOWN}"), (404,)),
    # networks
    Bad(
        "a subnet that is none",
        lambda c: c.call(
            "POST",
            "/network/v2.0/subnets",
            {"subnet": {"network_id": net(c)["uuid"], "cidr": "10.0.0.0/99", "ip_version": 4}},
        ),
        (400,),
        "cidr",
    ),
    Bad(
        "a port on an unknown network",
        call("POST", "/network/v2.0/ports", {"port": {"network_id": UNKNOWN}}),
        (400, 404),
    ),
    Bad(
        "a rule with ports backwards",
        lambda c: c.call(
            "POST",
            "/network/v2.0/security-group-rules",
            {
                "security_group_rule": {
                    "security_group_id": c.first("/network/v2.0/security-groups", "default"),
                    "direction": "ingress",
                    "protocol": "tcp",
                    "port_range_min": 90,
                    "port_range_max": 80,
                }
            },
        ),
        (400,),
        "port",
    ),
    # identity
    Bad(
        "a project one may not make",
        call("POST", "/identity/v3/projects", {"project": {"name": "mine"}}),
        (403,),
    ),
    Bad(
        "a body of another API",
        call("POST", "/identity/v3/auth/tokens", {"server": {}}),
        (400, 401),
    ),
    # admin things
    Bad("a flavor by a member", flavor(), (403,)),
    Bad("services by a member", call("GET", f"{V}/os-services"), (403,)),
    Bad("the audit by a member", call("GET", "/kilonova/v1/audit"), (403,)),
    Bad("an operation that is none", call("GET", f"/kilonova/v1/operations/{UNKNOWN}"), (404,)),
]
ADMIN = [
    Bad("no vcpus", flavor(vcpus=0), (400,), "vcpus"),
    Bad("negative memory", flavor(ram=-1), (400,), "ram"),
    Bad("huge memory", flavor(ram=10**20), (400,), "ram"),
    Bad("a disk that is text", flavor(disk="big"), (400,), "disk"),
    Bad(
        "an unknown quota",
        lambda c: c.call("PUT", f"{V}/os-quota-sets/{c.project}", {"quota_set": {"wishes": 3}}),
        (400,),
        "wishes",
    ),
    Bad(
        "a quota below minus one",
        lambda c: c.call("PUT", f"{V}/os-quota-sets/{c.project}", {"quota_set": {"cores": -2}}),
        (400,),
    ),
    Bad(
        "an aggregate without a name",
        call("POST", f"{V}/os-aggregates", {"aggregate": {"name": ""}}),
        (400,),
        "name",
    ),
    Bad(
        "an unknown host for an aggregate",
        call("POST", f"{V}/os-aggregates/77/action", {"add_host": {"host": "nobody"}}),
        (404,),
    ),
    Bad(
        "a forced host that is unknown", servers(availability_zone="nova:nobody"), (400,), "nobody"
    ),
    Bad("an unknown host", servers(host="nobody"), (400,), "nobody"),
    Bad(
        "a claim on nothing",
        call(
            "PUT",
            f"/placement/allocations/{UNKNOWN}",
            {
                "allocations": {UNKNOWN: {"resources": {"VCPU": 1}}},
                "project_id": "p",
                "user_id": "u",
                "consumer_generation": None,
                "consumer_type": "INSTANCE",
            },
            headers={"OpenStack-API-Version": "placement 1.39"},
        ),
        (400, 404),
        "",
    ),
]
