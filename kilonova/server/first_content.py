"""What a new cloud holds: projects and users, flavors, the image ``tiny-linux``, networks. Safe to repeat.

Each part is made once and noted in ``deployment.json``; what the user changed or deleted since is left alone.
Passwords are written down (0600) before the users that have them, so that a crash in between loses none.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kilonova.common.ids import new_uuid
from kilonova.db import flavors
from kilonova.db.engine import Tx
from kilonova.objects.image import Image
from kilonova.objects.server import FlavorRecord
from kilonova.server import state
from kilonova.server.process import Process

IMAGE_NAME = "tiny-linux"
_PIECE = 1 << 20
_FLAVORS = (
    ("42", "m1.nano", 1, 128, 1),
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
)


@dataclass(frozen=True)
class Content:
    """Ids of what is there: name -> id."""

    projects: dict[str, str]
    users: dict[str, str]


def ensure(cloud: Process, tiny_image: Path | None, cacert: str | None = None) -> Content:
    """Make what is missing, write clouds.yaml and openrc. tiny_image: a qcow2 file; None: an empty disk (simulated)."""
    from kilonova.identity.embedded.seed import seed

    directory = cloud.plan.state_dir
    passwords = _passwords(directory)
    seeded = seed(cloud.identity, passwords)
    made = state.deployment(directory)
    done = set(made.seeded) if made is not None else set()
    admin, demo = seeded.projects["admin"], seeded.projects["demo"]
    parts: list[tuple[str, Callable[[], bool]]] = [
        ("flavors", lambda: _flavors(cloud)),
        ("networks", lambda: _networks(cloud, admin, demo)),
        ("image", lambda: _image(cloud, admin, tiny_image)),
    ]
    for name, make in parts:
        if name not in done and make():
            done.add(name)
            if made is not None:
                made = replace(made, seeded=tuple(sorted(done)))
                state.save_deployment(directory, made)
    _credentials(directory, cloud.url, passwords, cacert)
    return Content(dict(seeded.projects), dict(seeded.users))


def _passwords(directory: Path) -> dict[str, str]:
    path = directory / state.PASSWORDS
    found = state.read_json(path) or {}
    missing = [n for n in ("admin", "demo", "kilonova") if n not in found]
    if missing:
        found.update({name: secrets.token_urlsafe(18) for name in missing})
        state.write_json(path, found)
    return found


def _flavors(cloud: Process) -> bool:
    now = cloud.plan.clock.now()

    def add(tx: Tx) -> None:
        for flavorid, name, vcpus, memory_mib, root_gib in _FLAVORS:
            if flavors.find(tx, flavorid) is None and flavors.named(tx, name) is None:
                record = FlavorRecord(
                    flavorid=flavorid,
                    name=name,
                    vcpus=vcpus,
                    memory_mib=memory_mib,
                    root_gib=root_gib,
                )
                flavors.add(tx, record, now)

    cloud.world.write(add)
    return True


def _networks(cloud: Process, admin: str, demo: str) -> bool:
    from kilonova.network.embedded.seed import seed

    settings = cloud.plan.settings
    seed(
        cloud.network,
        admin,
        demo,
        public_cidr=settings.public_cidr,
        private_cidr=settings.private_cidr,
        dns_nameservers=settings.dns_servers,
        public_pool=settings.public_range,
        public_gateway=settings.public_gateway,
    )
    return True


def _image(cloud: Process, admin: str, source: Path | None) -> bool:
    if source is None and cloud.plan.driver != "fake":
        return False  # the next start may find one
    record = Image(
        id=new_uuid(),
        name=IMAGE_NAME,
        status="queued",
        visibility="public",
        owner=admin,
        disk_format="raw" if source is None else "qcow2",
        container_format="bare",
        properties={"os_distro": "kilonova-tiny", "hw_rng_model": "virtio"},
    )
    image = cloud.images.ensure(f"first-content/{IMAGE_NAME}", record)
    if image.status == "queued":
        cloud.images.upload(image.id, _empty_disk() if source is None else _pieces(source))
    return True


def _empty_disk() -> Iterator[bytes]:
    """Give a disk of 1 MiB with a boot sector that does nothing: enough for hosts that only pretend."""
    yield b"\xeb\xfe" + bytes(508) + b"\x55\xaa" + bytes(_PIECE - 512)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while piece := f.read(_PIECE):
            yield piece


def _credentials(directory: Path, url: str, passwords: dict[str, str], cacert: str | None) -> None:
    state.write_text(directory / state.CLOUDS, clouds_yaml(url, passwords, cacert))
    lines = [
        "# source this file to use the cloud as the demo user; clouds.yaml beside it has the admin too",
        f"export OS_AUTH_URL={url}/identity/v3",
        "export OS_IDENTITY_API_VERSION=3",
        "export OS_REGION_NAME=RegionOne",
        "export OS_USERNAME=demo",
        f"export OS_PASSWORD='{passwords['demo']}'",
        "export OS_PROJECT_NAME=demo",
        "export OS_USER_DOMAIN_ID=default",
        "export OS_PROJECT_DOMAIN_ID=default",
    ]
    if cacert is not None:
        lines.append(f"export OS_CACERT='{cacert}'")
    state.write_text(directory / state.OPENRC, "\n".join(lines) + "\n")


def clouds_yaml(url: str, passwords: dict[str, str], cacert: str | None) -> str:
    """Return clouds.yaml with the clouds ``kilonova`` (user demo) and ``kilonova-admin``."""
    lines = ["clouds:"]
    for name, user in (("kilonova", "demo"), ("kilonova-admin", "admin")):
        lines += [
            f"  {name}:",
            "    auth:",
            f"      auth_url: {json.dumps(url + '/identity/v3')}",
            f"      username: {user}",
            f"      password: {json.dumps(passwords[user])}",
            f"      project_name: {user}",
            "      user_domain_id: default",
            "      project_domain_id: default",
            "    region_name: RegionOne",
            "    identity_api_version: '3'",
        ]
        if cacert is not None:
            lines.append(f"    cacert: {json.dumps(cacert)}")
    return "\n".join(lines) + "\n"
