"""Start a split deployment for ``up --split``, and say when its API answers."""

import contextlib
import http.client
import importlib.util
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from kilonova.common import deployment
from kilonova.server import mariadb_server, postgresql_server, seeding
from kilonova.server.ground import StartFailed
from kilonova.server.mariadb_server import NoMariadb
from kilonova.server.nats_server import NoNatsServer, free_port
from kilonova.server.postgresql_server import NoPostgresql
from kilonova.server.split import Asked, Layout
from kilonova.server.supervisor import Member, Supervisor, environment_is_ours, program

READY_S = 180.0


@contextlib.contextmanager
def running(asked: Asked, step: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Run it in the block, which gets the first projects' ids.

    step: told what is done. Raises StartFailed when it does not answer in time, or needs what is not installed.
    """
    environment_is_ours()
    if importlib.util.find_spec("nats") is None:
        raise StartFailed(
            "Several processes need the client of the bus, which is not installed here. "
            "In the project: .venv/bin/pip install -e '.[nats,postgresql]', then the same again."
        )
    layout = Layout(asked)
    layout.write()
    logs = asked.directory / "logs"
    logs.mkdir(mode=0o750, exist_ok=True)
    supervisor = Supervisor(asked.directory)
    try:
        supervisor.start(_servers(layout, logs))
        if layout.server is not None:
            layout.server.make(layout.databases())
        config = layout.config("api")
        tables = deployment.load(config)
        first = seeding.First(asked.cacert, asked.tiny_image)
        projects = seeding.prepare(config, asked.settings, tables, first)
        step(f"databases ({asked.database}) and first content are there")
        supervisor.start(_roles(layout, logs))
        step(f"{len(supervisor.members)} processes started")
        for port in (asked.port, *layout.more_apis.values()):
            wait_until_ready(replace(asked, port=port), hosts=len(layout.hosts))
        if layout.more_apis:
            others = ", ".join(f"{n} on port {p}" for n, p in layout.more_apis.items())
            step(f"more of the same API: {others}")
        _wait_for_port(asked, layout.console_port)
        step("the API answers, and hosts are up")
        yield projects
    finally:
        supervisor.stop()
        if layout.server is not None:
            layout.server.close()


def _servers(layout: Layout, logs: Path) -> list[Member]:
    """Return the servers of others, which come first and end last."""
    try:
        members = [Member("nats", layout.nats.command(), logs / "nats.log")]
        if (server := layout.server) is not None:
            server.prepare()
            log = logs / f"{server.name}.log"
            members.append(Member(server.name, server.command(), log, server.end_by))
    except (NoNatsServer, NoPostgresql, NoMariadb) as exc:
        raise StartFailed(exc.message) from exc
    return members


def _roles(layout: Layout, logs: Path) -> list[Member]:
    members = []
    conductors = [f"conductor-{n + 2}" for n in range(layout.asked.conductors - 1)]
    for name in ("conductor", *conductors, "api", *layout.more_apis):
        role = name.partition("-")[0]
        config = layout.config(name if role == "api" else role)
        command = program(role, "--config", str(config))
        members.append(Member(name, command, logs / f"{name}.log"))
    command = program("console", "--config", str(layout.config("console")))
    members.append(Member("console", command, logs / "console.log"))
    for name in layout.agents():
        command = program("agent", "--config", str(layout.config(name)))
        members.append(Member(name, command, logs / f"{name}.log"))
    return members


def database_of(wanted: str | None) -> str:
    """Return which databases to use: PostgreSQL where it can be had, else files. Raises StartFailed."""
    if wanted == "sqlite":
        return wanted
    try:
        if wanted == "mariadb":
            mariadb_server.programs()
            return wanted
    except NoMariadb as exc:
        raise StartFailed(exc.message) from exc
    try:
        postgresql_server.binaries()
    except NoPostgresql as exc:
        if wanted is None:
            return "sqlite"
        raise StartFailed(exc.message) from exc
    return "postgresql"


def port_of(wanted: int, listen: str) -> int:
    """Return the port to use: the roles are told it, so 0 becomes a free one here."""
    return wanted or free_port(listen)


def wait_until_ready(asked: Asked, hosts: int) -> None:
    """Wait until the API answers and so many hosts are up. Raises StartFailed naming the logs."""
    url = f"{'https' if asked.cert else 'http'}://{_reached_at(asked.listen)}:{asked.port}"
    end = time.monotonic() + READY_S
    while not _are_up(_get(url, "/metrics", asked.cacert), hosts):
        if time.monotonic() > end:
            raise StartFailed(
                f"the API does not answer for {hosts} hosts within {READY_S:g} s; the logs in "
                f"{asked.directory / 'logs'} may say why"
            )
        time.sleep(0.05)


def _wait_for_port(asked: Asked, port: int) -> None:
    """Wait until the console proxy listens. Raises StartFailed."""
    end = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection((_reached_at(asked.listen).strip("[]"), port), 5).close()
            return
        except OSError as exc:
            if time.monotonic() > end:
                raise StartFailed(
                    f"the console proxy does not listen: {exc}; see {asked.directory / 'logs'}"
                ) from exc
            time.sleep(0.05)


def _reached_at(listen: str) -> str:
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
    return wildcard.get(listen, f"[{listen}]" if ":" in listen else listen)


def _are_up(metrics: str, hosts: int) -> bool:
    found = re.search(r'^kilonova_hosts\{state="up"\} (\d+)', metrics, re.MULTILINE)
    return found is not None and int(found[1]) >= hosts


def _get(url: str, path: str, cacert: str | None) -> str:
    """Return what a page says, "" when it does not answer."""
    parts = urlsplit(url)
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    more = {}
    if parts.scheme == "https":
        kind = http.client.HTTPSConnection
        more = {"context": ssl.create_default_context(cafile=cacert)}
    connection = kind(parts.hostname or "", parts.port, timeout=5, **more)  # type: ignore[arg-type]
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
