"""Write a tempest.conf for a running cloud; what its API does not offer is switched off.

    kilonova up --json | tools/tempest/make_conf.py DIRECTORY > DIRECTORY/etc/tempest.conf

Standard input: what ``kilonova up --json`` prints. Only the standard library is used, so that any Python runs it.
"""

import configparser
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

LATEST = "2.104"
# option of [compute-feature-enabled] -> the server actions that it takes
FEATURES = {
    "resize": ("resize", "confirmResize", "revertResize"),
    "snapshot": ("createImage",),
    "shelve": ("shelve", "unshelve"),
    "rescue": ("rescue", "unrescue"),
    "cold_migration": ("migrate",),
    "live_migration": ("os-migrateLive",),
    "pause": ("pause", "unpause"),
    "suspend": ("suspend", "resume"),
    "console_output": ("os-getConsoleOutput",),
}


class Cloud:
    """A cloud as its admin sees it."""

    def __init__(self, up: dict[str, Any]) -> None:
        self.url = up["url"]
        self.password = json.loads(Path(up["passwords_file"]).read_text())["admin"]
        self.hosts = up["cells"] * up["hosts_per_cell"]
        user = {"name": "admin", "domain": {"id": "default"}, "password": self.password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
        asked = urllib.request.Request(  # noqa: S310 - the URL is the cloud's own
            self.url + "/identity/v3/auth/tokens",
            json.dumps({"auth": auth}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            self.token = answer.headers["X-Subject-Token"]
            self.catalog = {s["type"] for s in json.load(answer)["token"]["catalog"]}

    def get(self, path: str) -> Any:
        """Return what a path below the cloud's root answers."""
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"compute {LATEST}"}
        asked = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def named(self, path: str, name: str) -> str:
        """Return the id of what has a name in a list."""
        found = next(v for v in self.get(path).values() if isinstance(v, list))
        return str(next(x["id"] for x in found if x["name"] == name))

    def actions(self) -> set[str]:
        """Return the server actions that work."""
        paths = self.get(f"/compute/openapi.json?version={LATEST}")["paths"]
        body = paths["/v2.1/servers/{server_id}/action"]["post"]["requestBody"]
        return {s["title"] for s in body["content"]["application/json"]["schema"]["oneOf"]}

    def offers(self, method: str, path: str) -> bool:
        """Tell whether a route of the compute API does something."""
        described = self.get(f"/compute/openapi.json?version={LATEST}")["paths"]
        return "not offered" not in described[path][method]["summary"]


def conf(cloud: Cloud, directory: Path) -> dict[str, dict[str, Any]]:
    """Return section -> option -> value."""
    actions, volumes = cloud.actions(), "block-storage" in cloud.catalog
    features = {name: actions >= set(needs) for name, needs in FEATURES.items()}
    servers = "/v2.1/servers/{server_id}"
    features["interface_attach"] = cloud.offers("post", servers + "/os-interface")
    console = cloud.offers("post", servers + "/remote-consoles")
    features["change_password"] = False  # asks the guest's agent, which tiny-linux has not
    features |= {"vnc_console": console, "serial_console": False, "spice_console": False}
    features |= {"attach_encrypted_volume": False, "metadata_service": False, "ide_bus": False}
    features |= {"enable_instance_password": True, "stable_rescue": features["rescue"]}
    extensions = [x["alias"] for x in cloud.get("/network/v2.0/extensions")["extensions"]]
    flavors = "/compute/v2.1/flavors"
    return {
        "DEFAULT": {"log_file": directory / "tempest.log", "debug": False},
        "oslo_concurrency": {"lock_path": directory / "locks"},
        "auth": {
            "use_dynamic_credentials": True,
            "create_isolated_networks": True,
            "tempest_roles": "member",
            "admin_username": "admin",
            "admin_password": cloud.password,
            "admin_project_name": "admin",
            "admin_domain_name": "Default",
        },
        "identity": {
            "auth_version": "v3",
            "uri_v3": cloud.url + "/identity/v3",
            "region": "RegionOne",
            "v3_endpoint_type": "public",
        },
        "identity-feature-enabled": {
            "api_v3": True,
            "trust": False,
            "access_rules": False,
            "domain_specific_drivers": False,
            "security_compliance": False,
            "application_credentials": True,
            "project_tags": True,
        },
        "compute": {
            "image_ref": cloud.named("/image/v2/images", "tiny-linux"),
            "image_ref_alt": cloud.named("/image/v2/images", "tiny-linux"),
            "flavor_ref": cloud.named(flavors, "m1.nano"),
            "flavor_ref_alt": cloud.named(flavors, "m1.tiny"),
            "min_microversion": "2.1",
            "max_microversion": "latest",
            "min_compute_nodes": cloud.hosts,
            "build_interval": 1,
            "build_timeout": 60,
        },
        "compute-feature-enabled": features,
        "image": {"build_timeout": 60},
        "image-feature-enabled": {"api_v2": True, "import_image": False},
        "network": {
            "public_network_id": cloud.named("/network/v2.0/networks", "public"),
            "floating_network_name": "public",
        },
        "network-feature-enabled": {"api_extensions": ",".join(extensions), "ipv6": True},
        "volume": {
            "build_timeout": 60,
            "min_microversion": "3.0",
            "max_microversion": "latest",
            "vendor_name": "Kilonova",
            "storage_protocol": "nbd",
            "disk_format": "qcow2",
        },
        "volume-feature-enabled": {
            "backup": True,
            "snapshot": True,
            "clone": True,
            "manage_snapshot": False,
            "manage_volume": False,
            "extend_attached_volume": False,
            "volume_revert": True,
            "multi_backend": False,
            "consistency_group": False,
        },
        "service_available": {
            "nova": True,
            "glance": True,
            "neutron": True,
            "cinder": volumes,
            "swift": False,
        },
        "validation": {"run_validation": False},
    }


def main() -> None:
    """Read the cloud from standard input, write its tempest.conf to standard output."""
    directory = Path(sys.argv[1]).resolve()
    written = configparser.ConfigParser(interpolation=None)
    written.optionxform = str  # type: ignore[assignment,method-assign]
    for section, options in conf(Cloud(json.load(sys.stdin)), directory).items():
        if section != "DEFAULT":
            written.add_section(section)
        for name, value in options.items():
            written.set(section, name, str(value))
    written.write(sys.stdout)


if __name__ == "__main__":
    main()
