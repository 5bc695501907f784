"""What a process of Kilonova is asked to start."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.config import Settings
from kilonova.saga.faults import Faults


@dataclass(frozen=True)
class JoinPlan:
    """What hosts that join are given. account_seed: file of who signs. urls, ca: of the bus."""

    account_seed: Path
    urls: tuple[str, ...]
    ca: Path | None


@dataclass
class Plan:
    """What to start. hosts: simulated hosts per cell. driver: "fake" or "libvirt".

    shares: this is one process of several. databases: name -> URL; what is not in it is a file of the state directory.
    internal_url: where hosts fetch images' bytes from.
    """

    state_dir: Path
    driver: str = "fake"
    cells: int = 1
    hosts: int = 3
    listen: str = "127.0.0.1"
    port: int = 8774
    public_url: str | None = None
    tls: tuple[str, str] | None = None
    settings: Settings = field(default_factory=Settings)
    clock: Clock = SYSTEM
    bus: Any = None
    faults: Faults | None = None
    helper_socket: Path | None = None
    tag: str = ""
    shares: bool = False
    databases: Mapping[str, str] = field(default_factory=dict)
    cell_names: tuple[str, ...] = ()
    internal_url: str | None = None
    secret_key: Path | None = None
    images_dir: Path | None = None
    join: JoinPlan | None = None
    virt_type: str = "qemu"  # "kvm" only after a guest was seen to run by it
