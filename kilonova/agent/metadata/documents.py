"""What a guest reads of itself: MetadataDocument + devices -> the text of every OpenStack and EC2 path.

Pure functions: the metadata service and the config drive show the same bytes.
source: Nova user documentation "Metadata"; nova/api/metadata/base.py for versions and fields.
"""

import base64
import binascii
import ipaddress
import os
from typing import Any

import msgspec

from kilonova.objects.guest import AddressConfig, DeviceAddress, MetadataDocument, NicConfig

OPENSTACK_VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
)
EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
)
CONFIG_DRIVE_EC2 = ("2009-04-04", "latest")
Devices = tuple[DeviceAddress, ...]


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def user_data(document: MetadataDocument) -> bytes | None:
    """Return the user data as the user wrote it, or None."""
    if document.user_data is None:
        return None
    try:
        return base64.b64decode(document.user_data, validate=False)
    except (binascii.Error, ValueError):
        return document.user_data.encode()


# -- OpenStack ---------------------------------------------------------------------------------------------------


def meta_data(
    document: MetadataDocument, devices: Devices, version: str, seed: bytes | None = None
) -> dict[str, Any]:
    """Return meta_data.json of one version. seed: 512 random bytes (None: fresh ones)."""
    out: dict[str, Any] = {"uuid": document.server_id}
    if document.meta:
        out["meta"] = dict(document.meta)
    if document.admin_password:
        out["admin_pass"] = document.admin_password
    if document.keys:
        out["public_keys"] = {name: data for name, _, data in document.keys}
        out["keys"] = [{"name": n, "type": t, "data": d} for n, t, d in document.keys]
    out["hostname"] = document.hostname
    out["name"] = document.name
    out["launch_index"] = document.launch_index
    out["availability_zone"] = document.availability_zone
    if version >= "2013-04-04":
        out["random_seed"] = base64.b64encode(seed or os.urandom(512)).decode()
    if version >= "2015-10-15":
        out["project_id"] = document.project_id
    if version >= "2016-06-30":
        out["devices"] = [_device(d) for d in devices if d.tag]
    if version >= "2020-10-14":
        out["dedicated_cpus"] = []
    return out


def _device(device: DeviceAddress) -> dict[str, Any]:
    out: dict[str, Any] = {"type": device.kind, "bus": device.bus, "address": device.address}
    for name in ("mac", "serial", "path"):
        value = getattr(device, name)
        if value is not None:
            out[name] = value
    out["tags"] = [device.tag]
    return out


def network_data(document: MetadataDocument) -> dict[str, Any]:
    """Return network_data.json."""
    links: list[dict[str, Any]] = []
    networks: list[dict[str, Any]] = []
    services: dict[str, None] = {}
    for nic in document.networks:
        link = "tap" + nic.port_id[:11]
        links.append(
            {
                "id": link,
                "vif_id": nic.port_id,
                "type": "bridge",
                "mtu": nic.mtu,
                "ethernet_mac_address": nic.mac,
            }
        )
        for address in nic.addresses:
            networks.append(_network(f"network{len(networks)}", link, nic, address))
            services.update(dict.fromkeys(address.dns))
    dns = [{"type": "dns", "address": server} for server in services]
    return {"links": links, "networks": networks, "services": dns}


def _network(id_: str, link: str, nic: NicConfig, address: AddressConfig) -> dict[str, Any]:
    subnet = ipaddress.ip_network(address.cidr, strict=False)
    family = f"ipv{subnet.version}"
    out: dict[str, Any] = {"id": id_, "link": link, "network_id": nic.network_id}
    if address.ipv6_mode is not None:
        out["type"] = f"ipv6_{address.ipv6_mode}"
        return out
    if address.dhcp:
        out["type"] = f"{family}_dhcp"
        return out
    out["type"] = family
    out["ip_address"] = address.address
    out["netmask"] = str(subnet.netmask)
    routes = [_route(destination, hop) for destination, hop in address.routes]
    if address.gateway:
        any_ = "0.0.0.0/0" if subnet.version == 4 else "::/0"
        routes.insert(0, _route(any_, address.gateway))
    out["routes"] = routes
    out["services"] = [{"type": "dns", "address": server} for server in address.dns]
    return out


def _route(destination: str, hop: str) -> dict[str, str]:
    network = ipaddress.ip_network(destination, strict=False)
    return {
        "network": str(network.network_address),
        "netmask": str(network.netmask),
        "gateway": hop,
    }


def openstack_files(
    document: MetadataDocument, devices: Devices, version: str, seed: bytes | None = None
) -> dict[str, bytes]:
    """Return file name -> content of ``openstack/<version>/``; "latest" is the newest."""
    dated = OPENSTACK_VERSIONS[-1] if version == "latest" else version
    files = {"meta_data.json": _json(meta_data(document, devices, dated, seed))}
    raw = user_data(document)
    if raw is not None:
        files["user_data"] = raw
    if dated >= "2013-10-17":
        static = document.vendor_data.get("static")
        files["vendor_data.json"] = bytes(static) if static is not None else b"{}"
    if dated >= "2015-10-15":
        files["network_data.json"] = _json(network_data(document))
    if dated >= "2016-10-06":
        files["vendor_data2.json"] = _json(document.vendor_data)
    return files


# -- EC2 ---------------------------------------------------------------------------------------------------------


def ec2_tree(document: MetadataDocument, version: str) -> dict[str, Any]:
    """Return the tree below ``/<version>/meta-data/``: leaves are texts, lists are lines."""
    dated = EC2_VERSIONS[-1] if version == "latest" else version
    v4 = [a.address for nic in document.networks for a in nic.addresses if ":" not in a.address]
    floating = [nic.floating_ip for nic in document.networks if nic.floating_ip]
    compact = document.server_id.replace("-", "")
    image = (document.image_id or "").replace("-", "")
    tree: dict[str, Any] = {
        "ami-id": f"ami-{image[:8]}" if image else "",
        "ami-launch-index": str(document.launch_index),
        "ami-manifest-path": "FIXME",
        "instance-id": f"i-{compact[:8]}",
        "hostname": document.hostname,
        "local-ipv4": v4[0] if v4 else "",
        "reservation-id": document.reservation_id,
        "security-groups": list(document.security_groups),
    }
    if document.keys:
        tree["public-keys"] = {
            str(i): {"_name": f"{i}={name}", "openssh-key": data}
            for i, (name, type_, data) in enumerate(document.keys)
            if type_ == "ssh"
        }
    later: tuple[tuple[str, dict[str, Any]], ...] = (
        (
            "2007-01-19",
            {
                "local-hostname": document.hostname,
                "public-hostname": document.hostname,
                "public-ipv4": floating[0] if floating else "",
            },
        ),
        ("2007-08-29", {"instance-type": document.instance_type}),
        ("2007-12-15", {"block-device-mapping": {"ami": "vda", "root": "/dev/vda"}}),
        ("2008-02-01", {"placement": {"availability-zone": document.availability_zone}}),
        ("2008-09-01", {"instance-action": "none"}),
    )
    for since, entries in later:
        if dated != "1.0" and dated >= since:
            tree.update(entries)
    return tree


def _shown(value: Any) -> bytes:
    if isinstance(value, dict):
        lines = []
        for key in sorted(k for k in value if k != "_name"):
            item = value[key]
            if isinstance(item, dict):
                lines.append(item.get("_name") or f"{key}/")
            else:
                lines.append(key)
        return "\n".join(lines).encode()
    if isinstance(value, list):
        return "\n".join(value).encode()
    return str(value).encode()


# -- looking a path up -------------------------------------------------------------------------------------------


def lookup(document: MetadataDocument, devices: Devices, path: str) -> tuple[str, bytes] | None:
    """Return (content type, body) of a path such as ``/openstack/latest/meta_data.json``; None: no such thing.

    The password is not a document: the service answers it itself.
    """
    parts = [part for part in path.split("/") if part]
    if not parts:
        return "text/plain; charset=UTF-8", "\n".join((*EC2_VERSIONS, "latest")).encode()
    if parts[0] == "openstack":
        return _lookup_openstack(document, devices, parts[1:])
    return _lookup_ec2(document, parts)


def _lookup_openstack(
    document: MetadataDocument, devices: Devices, parts: list[str]
) -> tuple[str, bytes] | None:
    versions = (*OPENSTACK_VERSIONS, "latest")
    if not parts:
        return "text/plain; charset=UTF-8", "\n".join(versions).encode()
    if parts[0] not in versions or len(parts) > 2:
        return None
    files = openstack_files(document, devices, parts[0])
    if len(parts) == 1:
        listed = list(files) + (["password"] if parts[0] >= "2013-04-04" else [])
        return "text/plain; charset=UTF-8", "\n".join(listed).encode()
    content = files.get(parts[1])
    if content is None:
        return None
    if parts[1].endswith(".json"):
        return "application/json", content
    return "application/octet-stream", content


def _lookup_ec2(document: MetadataDocument, parts: list[str]) -> tuple[str, bytes] | None:
    if parts[0] not in (*EC2_VERSIONS, "latest"):
        return None
    raw = user_data(document)
    node: Any = {"meta-data": ec2_tree(document, parts[0])}
    if raw is not None:
        if parts[1:] == ["user-data"]:
            return "application/octet-stream", raw
        node["user-data"] = ""
    for part in parts[1:]:
        if not isinstance(node, dict) or part == "_name" or part not in node:
            return None
        node = node[part]
    return "text/plain; charset=UTF-8", _shown(node)


# -- the config drive --------------------------------------------------------------------------------------------


def config_drive_files(document: MetadataDocument, devices: Devices) -> dict[str, bytes]:
    """Return path -> content of everything on a config drive."""
    seed = os.urandom(512)
    files: dict[str, bytes] = {}
    for version in (*OPENSTACK_VERSIONS, "latest"):
        for name, content in openstack_files(document, devices, version, seed).items():
            files[f"openstack/{version}/{name}"] = content
    raw = user_data(document)
    for version in CONFIG_DRIVE_EC2:
        files[f"ec2/{version}/meta-data.json"] = _json(_plain(ec2_tree(document, version)))
        if raw is not None:
            files[f"ec2/{version}/user-data"] = raw
    return files


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if key != "_name"
    }
