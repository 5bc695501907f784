"""Configuration: none is needed to start. One typed TOML file, environment overrides, units in names (SM-13).

Each value is read by its own type at start-up; an error names file, key and fault. ``KILONOVA_<KEY>`` overrides a key.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from kilonova.common.devices import DeviceSpec, PciAlias, SimulatedDevices
from kilonova.common.errors import KilonovaError

TABLES = ("deployment", "bus", "database", "cells", "api", "agent", "console")
"""Tables of a deployment of several processes, which deployment.py reads."""


class BadConfig(KilonovaError):
    """A configuration value is wrong; the message names where it stands, the key and the fault."""

    code = "bad_config"


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, with defaults that work.

    synchronous: NORMAL, or FULL (an accepted request also survives a power cut; slower). api_threads, engine_threads:
    threads. build_time_s: of each build of a simulated host. policy_file: rule name = "rule" overrides in TOML.
    public_cidr, private_cidr: first content. public_interface, public_pool ("A-B"), public_gateway: of a public network
    on a real interface; ``kilonova up`` finds the gateway. image_limit_gib, cache_limit_gib: GiB.
    resolv_conf: file that names this machine's resolvers, which guests' questions go to. resize_confirm_window_s: after
    it a resize is confirmed by itself; 0: never. console_port: of the console proxy, 0: any free one; console_url: how
    browsers reach it. nbd_address: on which other hosts reach this host's volumes; "": only guests of this very host
    reach them, by a unix socket. nbd_tls: whether that is by TLS, and by hosts alone that have the volume; false: in
    the clear, by whoever reaches the address. shelved_offload_time_s: after it a shelved server
    leaves its host; 0: at once, -1: only when it is told to. reclaim_instance_interval_s: a deleted server can be
    restored so long; 0: not at all. list_records_by_skipping_down_cells: whether lists of servers before 2.69 leave out
    what is in cells that do not answer; else they are refused. image_certificates_dir: ``UUID.pem`` of those who sign
    images.
    allow_resize_to_same_host: whether a resize may leave a server where it is; a cloud of one host needs it.
    underlay_ip: this host's address in the network that connects the hosts of the cloud, in which nobody else is; "": a
    host that is alone. underlay_port: UDP port of VXLAN, the same on every host.
    cross_cell_move_weight_multiplier: how much a resize that may leave its cell prefers to stay; negative: to go.
    live_migration_*: MiB/s at most (0: no limit); the pause of the guest that is tried for, ms; after timeout_s the
    guest is paused so that it ends, or (abort_at_timeout) stays where it is; post_copy: a force complete runs it at the
    destination at once instead of pausing it; auto_converge: a guest that writes faster than it is sent is slowed down.
    webhooks_file: TOML file of those who are told of events by HTTP (docs/events.md).
    backup_target: where new backups of volumes go, "images" (the image store) or "folder". backup_folder: that folder,
    a mount that all hosts share; backup_folders_before: where older ones lie (docs/volumes.md).
    one_core: whether a simulated cloud stays on one processor (common/cores.py).
    pci_alias: what flavors ask devices by, the same for every process of the control plane; pci_device_spec: devices of
    this host that guests may have (docs/devices.md).
    fake_host_devices, fake_host_numa_nodes, fake_host_dedicated_cpus: what each simulated host has of them.
    """

    synchronous: str = "NORMAL"
    api_threads: int = 4
    engine_threads: int = 2
    build_time_s: float = 0.0
    token_life_s: float = 14400.0
    heartbeat_s: float = 10.0
    policy_file: str | None = None
    public_cidr: str = "172.24.4.0/24"
    private_cidr: str = "10.10.0.0/24"
    public_interface: str | None = None
    public_pool: str | None = None
    public_gateway: str | None = None
    resolv_conf: str = "/etc/resolv.conf"
    log_level: str = "INFO"
    reserved_host_memory_mib: int = 512
    cache_limit_gib: int = 20
    resize_confirm_window_s: float = 0.0
    shelved_offload_time_s: float = 0.0
    reclaim_instance_interval_s: float = 0.0
    allow_resize_to_same_host: bool = True
    cross_cell_move_weight_multiplier: float = 1_000_000.0
    list_records_by_skipping_down_cells: bool = True
    image_certificates_dir: str | None = None
    nbd_address: str = ""
    nbd_tls: bool = True
    backup_target: str = "images"
    backup_folder: str = ""
    backup_folders_before: tuple[str, ...] = ()
    underlay_ip: str = ""
    underlay_port: int = 4789
    live_migration_bandwidth_mib_s: int = 0
    live_migration_downtime_ms: int = 500
    live_migration_timeout_s: float = 3600.0
    live_migration_abort_at_timeout: bool = False
    live_migration_post_copy: bool = False
    live_migration_auto_converge: bool = True
    console_port: int = 6080
    console_url: str | None = None
    dns_servers: tuple[str, ...] = ()
    webhooks_file: str | None = None
    one_core: bool = True
    fake_host_vcpus: int = 64
    fake_host_memory_mib: int = 262144
    fake_host_disk_gib: int = 4096
    pci_alias: tuple[PciAlias, ...] = ()
    pci_device_spec: tuple[DeviceSpec, ...] = ()
    fake_host_devices: tuple[SimulatedDevices, ...] = ()
    fake_host_numa_nodes: int = 1
    fake_host_dedicated_cpus: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.synchronous not in ("NORMAL", "FULL"):
            raise BadConfig(f"synchronous must be NORMAL or FULL, not {self.synchronous!r}")
        for name in ("api_threads", "engine_threads"):
            if not 1 <= getattr(self, name) <= 64:
                raise BadConfig(f"{name} must be from 1 to 64, not {getattr(self, name)}")
        if not 0 <= self.console_port <= 65535:
            raise BadConfig("console_port must be from 0 to 65535")
        if self.shelved_offload_time_s < -1:
            raise BadConfig("shelved_offload_time_s must be -1, 0 or more")
        for name in ("resize_confirm_window_s", "reclaim_instance_interval_s"):
            if getattr(self, name) < 0:
                raise BadConfig(f"{name} must be at least 0")
        if not 1 <= self.fake_host_numa_nodes <= 16:
            raise BadConfig("fake_host_numa_nodes must be from 1 to 16")
        if not 0 <= self.fake_host_dedicated_cpus <= self.fake_host_vcpus:
            raise BadConfig("fake_host_dedicated_cpus must be from 0 to fake_host_vcpus")
        if self.backup_target not in ("images", "folder"):
            raise BadConfig(f"backup_target must be images or folder, not {self.backup_target!r}")
        for path in (self.backup_folder, *self.backup_folders_before):
            if path and not os.path.isabs(path):
                raise BadConfig(f"a backup folder is named by its whole path, not {path!r}")
        if self.build_time_s < 0 or self.heartbeat_s <= 0:
            raise BadConfig("build_time_s must be at least 0 and heartbeat_s more than 0")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise BadConfig(
                f"log_level must be DEBUG, INFO, WARNING or ERROR, not {self.log_level!r}"
            )
        for name in ("nbd_address", "underlay_ip"):
            if getattr(self, name):
                _address(name, getattr(self, name))
        if self.live_migration_bandwidth_mib_s < 0 or self.live_migration_downtime_ms < 1:
            raise BadConfig(
                "live_migration_bandwidth_mib_s must be at least 0, live_migration_downtime_ms at least 1"
            )
        if self.live_migration_timeout_s <= 0:
            raise BadConfig("live_migration_timeout_s must be more than 0")
        if not 1 <= self.underlay_port <= 65535:
            raise BadConfig("underlay_port must be from 1 to 65535")
        _cidr("public_cidr", self.public_cidr)
        _cidr("private_cidr", self.private_cidr)
        if self.public_gateway is not None:
            _address("public_gateway", self.public_gateway)
        if (self.public_interface is None) != (self.public_pool is None):
            raise BadConfig("public_interface and public_pool go together")
        for one in self.public_range or ():
            _address("public_pool", one)

    @property
    def public_range(self) -> tuple[str, str] | None:
        """Return the first and last floating address, None for all of the network."""
        if self.public_pool is None:
            return None
        first, _, last = self.public_pool.partition("-")
        return first.strip(), last.strip()


def _cidr(name: str, text: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError as exc:
        raise BadConfig(f"{name}: {exc}") from exc


def _address(name: str, text: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError as exc:
        raise BadConfig(f"{name}: {exc}") from exc


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file (None: none), then the environment. Raises BadConfig."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as exc:
            raise BadConfig(f"{path}: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise BadConfig(f"{path}: {exc}") from exc
    hints = get_type_hints(Settings)
    known = {f.name for f in fields(Settings)} - {"extra"}
    values = {k: v for k, v in values.items() if k not in TABLES}
    for key in values:
        if key not in known:
            raise BadConfig(f"{path}: {key} is not a setting; known are {', '.join(sorted(known))}")
    where = {k: str(path) for k in values}
    for key in known:
        name = f"KILONOVA_{key.upper()}"
        if name in environment:
            values[key], where[key] = environment[name], name
    read = {k: typed(where[k], k, v, hints[k]) for k, v in values.items()}
    try:
        return Settings(**read)
    except BadConfig as exc:
        raise BadConfig(f"{path or 'environment'}: {exc.message}") from exc


_STRUCTURED: Mapping[Any, Any] = {
    tuple[t, ...]: t  # type: ignore[valid-type]
    for t in (PciAlias, DeviceSpec, SimulatedDevices)
}
"""Settings that have types of their own: hint -> what reads one value."""


def _structured(where: str, key: str, value: Any, hint: Any) -> Any:
    """Return a tuple of values that have a type of their own: in the environment a list in JSON."""
    kind = _STRUCTURED[hint]
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if not isinstance(value, list):
            raise ValueError("must be a list")
        return tuple(kind.read(one) for one in value)
    except ValueError as exc:
        raise BadConfig(f"{where}: {key} {exc}") from None


def typed(where: str, key: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that its setting has. Raises BadConfig that names where it stands."""
    if hint in _STRUCTURED:
        return _structured(where, key, value, hint)
    options = [t for t in (get_args(hint) or (hint,)) if t is not type(None) and t is not ...]
    kind = options[0]
    if hint == tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
            raise BadConfig(f"{where}: {key} must be a list of texts")
        return tuple(p.strip() for p in parts if p.strip())
    try:
        if kind is bool and isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if kind in (int, float):
            if isinstance(value, bool):
                raise ValueError
            return kind(value)
        if not isinstance(value, kind):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise BadConfig(f"{where}: {key} must be {kind.__name__}, not {value!r}") from None
    return value
