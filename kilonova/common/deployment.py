"""The tables of kilonova.toml that make a deployment of several processes; one process needs none of them.

Each value is read by its own type; an error names file, table, key and fault. Settings (config.py) stand above the
tables. Passwords in database URLs are secrets: the file is to be readable by its role's user only.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

from kilonova.common.config import TABLES, BadConfig, typed

T = TypeVar("T")
SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb")
BUS_SCHEMES = ("nats", "tls")


@dataclass(frozen=True)
class BusTable:
    """[bus]. url: of nats-server, several are tried in turn. credentials: file of this process. ca: PEM file.

    account_seed: file that signs credentials of hosts that join; for api only.
    """

    url: tuple[str, ...] = ()
    credentials: str | None = None
    ca: str | None = None
    account_seed: str | None = None


@dataclass(frozen=True)
class DeploymentTable:
    """[deployment]. state_dir: of this process. public_url: what clients are told; internal_url: what hosts fetch
    images from, default public_url. simulated: all hosts are. secret_key: file with the key of secrets at rest, the
    same for api and conductor; images_dir: the same for both too."""

    state_dir: str = ""
    public_url: str = ""
    internal_url: str | None = None
    simulated: bool = False
    secret_key: str | None = None
    images_dir: str | None = None


@dataclass(frozen=True)
class ApiTable:
    """[api]. cert, key: PEM files; without them it speaks HTTP, for a proxy in front that does TLS."""

    listen: str = "127.0.0.1"
    port: int = 8774
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class AgentTable:
    """[agent]. driver: libvirt or fake. name: of the host, default the machine's. hosts, name_prefix: simulated hosts
    <name_prefix>1 … of this process; libvirt: real hosts on this machine, <name>, <name>-2 …, in ``cells`` in turn
    (default: all in ``cell``). helper: socket of a root helper that runs already; without it the agent, which then root
    starts, has its own. virt_type: qemu or kvm, default: what a guest was seen to run by. credentials_dir: one file
    <host>.creds per host; else [bus] credentials. ca: PEM file for https URLs of images. console_listen, console_port
    (0: any): where the console role fetches guests' consoles; console_address: what it is told, default
    console_listen."""

    driver: str = "libvirt"
    cell: str = "cell1"
    name: str | None = None
    hosts: int = 1
    name_prefix: str = "host"
    cells: tuple[str, ...] = ()
    helper: str | None = None
    virt_type: str | None = None
    credentials_dir: str | None = None
    ca: str | None = None
    console_listen: str = "127.0.0.1"
    console_port: int = 0
    console_address: str | None = None


@dataclass(frozen=True)
class ConsoleTable:
    """[console]: where browsers' websockets end. cert, key: PEM files; without them a proxy in front does TLS."""

    listen: str = "127.0.0.1"
    port: int = 6080
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Tables:
    """All of it. databases: name -> URL; of "global", every cell, "identity", "image", "network" and "volume"."""

    deployment: DeploymentTable = field(default_factory=DeploymentTable)
    bus: BusTable = field(default_factory=BusTable)
    api: ApiTable = field(default_factory=ApiTable)
    agent: AgentTable = field(default_factory=AgentTable)
    console: ConsoleTable = field(default_factory=ConsoleTable)
    databases: Mapping[str, str] = field(default_factory=dict)
    cells: tuple[str, ...] = ()


NEIGHBOURS = ("identity", "image", "network", "volume")
MOST_REAL_HOSTS = 4
WITHOUT_DATABASES = ("agent", "console")
"""Roles that know none."""


def load(path: Path) -> Tables:
    """Read the tables of a file. Raises BadConfig."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as exc:
        raise BadConfig(f"{path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadConfig(f"{path}: {exc}") from exc
    tables = {name: _table(path, name, values.get(name, {})) for name in TABLES}
    cells = _cells(path, tables["cells"])
    made = Tables(
        deployment=_read(path, "deployment", tables["deployment"], DeploymentTable),
        bus=_read(path, "bus", _listed(tables["bus"]), BusTable),
        api=_read(path, "api", tables["api"], ApiTable),
        agent=_read(path, "agent", tables["agent"], AgentTable),
        console=_read(path, "console", tables["console"], ConsoleTable),
        databases={**_databases(path, tables["database"]), **cells},
        cells=tuple(cells),
    )
    _check(path, made)
    return made


def _listed(bus: dict[str, Any]) -> dict[str, Any]:
    return {**bus, "url": [bus["url"]]} if isinstance(bus.get("url"), str) else bus


def _table(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadConfig(f"{path}: {name} must be a table: [{name}]")
    return value


def _read(path: Path, name: str, values: dict[str, Any], kind: type[T]) -> T:
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise BadConfig(
                f"{path}: [{name}] {key} is not a setting; known are {', '.join(known)}"
            )
    where = f"{path}: [{name}]"
    return kind(**{k: typed(where, k, v, hints[k]) for k, v in values.items()})


def _databases(path: Path, table: dict[str, Any]) -> dict[str, str]:
    for name, url in table.items():
        if name not in ("global", "cell0", *NEIGHBOURS):
            raise BadConfig(
                f"{path}: [database] {name} is not one of global, cell0, {', '.join(NEIGHBOURS)}"
            )
        _check_url(f"{path}: [database] {name}", url, SCHEMES)
    return dict(table)


def _cells(path: Path, table: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, cell in table.items():
        inside = _table(path, f"cells.{name}", cell)
        if set(inside) != {"database"}:
            raise BadConfig(f'{path}: [cells.{name}] holds one key: database = "URL"')
        if name in ("cell0", "global", *NEIGHBOURS) or not name.replace("-", "").isalnum():
            raise BadConfig(f"{path}: [cells.{name}]: a cell cannot have this name")
        _check_url(f"{path}: [cells.{name}] database", inside["database"], SCHEMES)
        found[name] = str(inside["database"])
    return found


def _check_url(where: str, url: object, schemes: tuple[str, ...]) -> None:
    """Raise BadConfig for what is no URL of these schemes; the URL is not repeated, it may hold a password."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        fine = parts.scheme in schemes and bool(parts.netloc or parts.path.strip("/"))
    except ValueError:
        fine = False
    if not fine:
        raise BadConfig(
            f"{where} must be a URL that begins with {', '.join(s + ':' for s in schemes)}"
        )


def _check(path: Path, made: Tables) -> None:
    for url in made.bus.url:
        _check_url(f"{path}: [bus] url", url, BUS_SCHEMES)
        if url.startswith("tls:") and made.bus.ca is None:
            raise BadConfig(f"{path}: [bus] ca is needed for tls: whom we trust is never a guess")
    for name in ("public_url", "internal_url"):
        url = getattr(made.deployment, name)
        if url:
            _check_url(f"{path}: [deployment] {name}", url, ("http", "https"))
    if made.agent.driver not in ("libvirt", "fake"):
        raise BadConfig(f"{path}: [agent] driver must be libvirt or fake")
    ports = {
        "[api] port": made.api.port,
        "[console] port": made.console.port,
        "[agent] console_port": made.agent.console_port,
    }
    for key, port in ports.items():
        if not 0 <= port <= 65535:
            raise BadConfig(f"{path}: {key} must be from 0 to 65535")
    if made.agent.virt_type not in (None, "qemu", "kvm"):
        raise BadConfig(f"{path}: [agent] virt_type must be qemu or kvm")
    if made.agent.driver == "libvirt" and made.agent.hosts > MOST_REAL_HOSTS:
        raise BadConfig(f"{path}: [agent] hosts: a machine has at most {MOST_REAL_HOSTS} real ones")
    if not 1 <= made.agent.hosts <= 10_000:
        raise BadConfig(f"{path}: [agent] hosts must be from 1 to 10000")
    for name, pair in (("api", made.api), ("console", made.console)):
        if (pair.cert is None) != (pair.key is None):
            raise BadConfig(f"{path}: [{name}] cert and key go together")
    if made.agent.console_listen in ("0.0.0.0", "::") and made.agent.console_address is None:  # noqa: S104
        raise BadConfig(
            f"{path}: [agent] console_address is needed: where others reach this host's consoles"
        )
    shared = [u for u in made.databases.values() if list(made.databases.values()).count(u) > 1]
    if shared:
        raise BadConfig(f"{path}: two databases have the same URL")


def needed(path: Path, tables: Tables, role: str) -> None:
    """Raise BadConfig for what a role cannot do without."""
    missing = []
    if not tables.deployment.state_dir:
        missing.append("[deployment] state_dir")
    if not tables.bus.url:
        missing.append("[bus] url")
    if role != "agent" and not tables.deployment.public_url:
        missing.append("[deployment] public_url")
    if role in WITHOUT_DATABASES:
        if tables.databases:
            article = "an" if role == "agent" else "a"
            raise BadConfig(
                f"{path}: {article} {role}'s configuration holds no database: take those lines out"
            )
    else:
        missing += [f"[database] {n}" for n in ("global", "cell0") if n not in tables.databases]
        missing += [f"[database] {n}" for n in NEIGHBOURS if n not in tables.databases]
        if not tables.cells:
            missing.append("[cells.NAME] database")
    if missing:
        raise BadConfig(f"{path}: {role} needs {', '.join(missing)}")
