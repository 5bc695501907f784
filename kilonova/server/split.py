"""A deployment on one machine (``up --split``): its files, written anew at each start.

split/nats/          nats-server: configuration, log
split/creds/         credentials on the bus of each role and host; split/account.seed signs them
split/*.toml         one configuration per role
split/<role>/        state of a role's own
split/postgresql/    or mariadb/: a database server's files
tls/                 certificate authority and the servers' certificate
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from kilonova.bus.credentials import (
    ACCOUNT,
    EVERYTHING,
    ROLES,
    Authority,
    Key,
    Permissions,
    of_host,
)
from kilonova.common.config import Settings
from kilonova.common.deployment import NEIGHBOURS
from kilonova.server import tls
from kilonova.server.mariadb_server import MariadbServer
from kilonova.server.nats_server import Listen, NatsServer, free_port, usable_port
from kilonova.server.own_hosts import own_hosts
from kilonova.server.postgresql_server import PostgresqlServer
from kilonova.server.simulated import named
from kilonova.server.state import write_text

OWN_CREDENTIALS = 50
"""So many simulated hosts get a connection and credentials each; more share those of their process."""


_SERVERS: dict[str, type[PostgresqlServer | MariadbServer]] = {
    "postgresql": PostgresqlServer,
    "mariadb": MariadbServer,
}


@dataclass(frozen=True)
class Real:
    """This machine has the hosts. helper: socket of the root helper that runs already. virt_type: qemu or kvm."""

    helper: Path
    virt_type: str


@dataclass(frozen=True)
class Asked:
    """What ``up --split`` was asked for. port: of the API, never 0. cert: certificate and key of the API.

    database: sqlite, postgresql or mariadb. hosts: per cell; with ``real`` all of them. tiny_image: to seed, real hosts
    only. apis: the first one has ``port``, the others ports of their own.
    """

    directory: Path
    cells: int
    hosts: int
    listen: str
    port: int
    public_url: str
    settings: Settings
    cert: tuple[str, str] | None = None
    cacert: str | None = None
    database: str = "sqlite"
    conductors: int = 1
    apis: int = 1
    tiny_image: Path | None = None
    real: Real | None = None


class Layout:
    """Where everything of a split deployment is."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.directory = asked.directory / "split"
        self.hosts = (
            named(asked.cells, asked.hosts)
            if asked.real is None
            else own_hosts(self.cells(), asked.hosts)
        )
        self.console_port = usable_port(asked.settings.console_port, asked.listen)
        self.more_apis = {f"api-{n + 2}": free_port(asked.listen) for n in range(asked.apis - 1)}
        self.nats = NatsServer(self.directory / "nats", self._listen())
        kind = _SERVERS.get(asked.database)
        self.server = None if kind is None else kind(self.directory / asked.database)

    def _listen(self) -> Listen:
        cert, key, self.ca = tls.ensure(self.asked.directory / "tls", self._names())
        return Listen("127.0.0.1", free_port(), (Path(cert), Path(key)))

    def _names(self) -> list[str]:
        public = urlsplit(self.asked.public_url).hostname
        return [self.asked.listen, *([public] if public else [])]

    def config(self, role: str) -> Path:
        """Return the configuration of a role."""
        return self.directory / f"{role}.toml"

    def write(self) -> None:
        """Write everything; what is secret has mode 0600. Databases and keys that are there stay."""
        own = ("creds", "agent", "../db")
        for folder in (self.directory, *(self.directory / n for n in own)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = Authority(self._account())
        self.nats.configure(authority, time.time())
        for role, permissions in ROLES.items():
            self._credentials(authority, role, permissions)
        if len(self.hosts) <= OWN_CREDENTIALS:
            for _, host in self.hosts:
                self._credentials(authority, host, of_host(host))
        else:
            self._credentials(authority, "agent", EVERYTHING)
        if asked_real := self.asked.real:
            write_text(self.config("agent"), self._real_agent(asked_real))
        else:
            for cell in self.cells():
                write_text(self.config(f"agent-{cell}"), self._agent(cell))
        for role in ("api", "conductor"):
            write_text(self.config(role), self._control(role, self.asked.port))
        for name, port in self.more_apis.items():
            write_text(self.config(name), self._control("api", port))
        write_text(self.config("console"), self._console())

    def agents(self) -> list[str]:
        """Return the names of the processes with the hosts."""
        return ["agent"] if self.asked.real else [f"agent-{cell}" for cell in self.cells()]

    def cells(self) -> list[str]:
        """Return the names of the cells."""
        return [f"cell{n + 1}" for n in range(self.asked.cells)]

    def database_url(self, name: str) -> str:
        """Return where a database is."""
        if self.server is not None:
            return self.server.url(name)
        return f"sqlite:///{self.asked.directory / 'db' / f'{name}.db'}"

    def databases(self) -> list[str]:
        """Return the names of all databases."""
        return ["global", "cell0", *NEIGHBOURS, *self.cells()]

    def _account(self) -> Key:
        path = self.directory / "account.seed"
        if not path.exists():
            write_text(path, Key.make(ACCOUNT).seed.reveal() + "\n")
        return Key.of_seed(path.read_text())

    def _credentials(self, authority: Authority, name: str, permissions: Permissions) -> None:
        made = authority.credentials(name, permissions, time.time())
        write_text(self.directory / "creds" / f"{name}.creds", made.reveal())

    def _control(self, role: str, port: int) -> str:
        asked = self.asked
        databases = {n: self.database_url(n) for n in ("global", "cell0", *NEIGHBOURS)}
        parts = [
            _settings(self._told()),
            _table(
                "deployment",
                state_dir=str(asked.directory),
                public_url=asked.public_url,
                simulated=asked.real is None,
            ),
            self._bus(role),
            _table("database", **databases),
            *(_table(f"cells.{c}", database=self.database_url(c)) for c in self.cells()),
        ]
        if role == "api":
            parts.append(_table("api", listen=asked.listen, port=port, **self._cert()))
        return "\n".join(parts)

    def _console(self) -> str:
        asked = self.asked
        parts = [
            _settings(self._told()),
            _table(
                "deployment",
                state_dir=str(self.directory / "console"),
                public_url=asked.public_url,
            ),
            self._bus("console"),
            _table("console", listen=asked.listen, port=self.console_port, **self._cert()),
        ]
        return "\n".join(parts)

    def _cert(self) -> dict[str, str]:
        cert = self.asked.cert
        return {} if cert is None else {"cert": cert[0], "key": cert[1]}

    def _told(self) -> Settings:
        """Return the settings with how browsers reach the console proxy."""
        if self.asked.settings.console_url is not None:
            return self.asked.settings
        at = urlsplit(self.asked.public_url)
        host = f"[{at.hostname}]" if ":" in (at.hostname or "") else at.hostname
        scheme = "https" if self.asked.cert else "http"
        return replace(self.asked.settings, console_url=f"{scheme}://{host}:{self.console_port}")

    def _real_agent(self, real: Real) -> str:
        parts = [
            _settings(self.asked.settings),
            _table("deployment", state_dir=str(self.asked.directory)),
            self._bus(None),
            _table(
                "agent",
                driver="libvirt",
                cells=self.cells(),
                hosts=self.asked.hosts,
                helper=str(real.helper),
                virt_type=real.virt_type,
                credentials_dir=str(self.directory / "creds"),
                **self._ca(),
            ),
        ]
        return "\n".join(parts)

    def _ca(self) -> dict[str, str]:
        return {} if self.asked.cacert is None else {"ca": self.asked.cacert}

    def _agent(self, cell: str) -> str:
        own = len(self.hosts) <= OWN_CREDENTIALS
        more = self._ca()
        if own:
            more["credentials_dir"] = str(self.directory / "creds")
        parts = [
            _settings(self.asked.settings),
            _table("deployment", state_dir=str(self.directory / "agent" / cell)),
            self._bus(None if own else "agent"),
            _table(
                "agent",
                driver="fake",
                cell=cell,
                hosts=self.asked.hosts,
                name_prefix=f"{cell}-host",
                **more,
            ),
        ]
        return "\n".join(parts)

    def _bus(self, credentials: str | None) -> str:
        more = {}
        if credentials is not None:
            more["credentials"] = str(self.directory / "creds" / f"{credentials}.creds")
        if credentials == "api":
            more["account_seed"] = str(self.directory / "account.seed")
        return _table("bus", url=self.nats.listen.url, ca=self.ca, **more)


def _table(name: str, **values: object) -> str:
    return "\n".join([f"[{name}]", *(f"{k} = {_value(v)}" for k, v in values.items()), ""])


def _value(value: object) -> str:
    """Return a value in TOML; JSON's texts, numbers, booleans and lists are TOML's too."""
    return json.dumps(value)


def _settings(settings: Settings) -> str:
    """Return what differs from the defaults."""
    default = Settings()
    lines = [
        f"{name} = {_value(value)}"
        for name, value in vars(settings).items()
        if name != "extra" and value is not None and value != getattr(default, name)
    ]
    return "\n".join([*lines, ""])
