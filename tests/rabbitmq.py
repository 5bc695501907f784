"""A RabbitMQ server for tests: private ports of loopback, a directory of its own, nothing left of it."""

import contextlib
import functools
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.server.nats_server import free_port
from tests import places

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_S = 120.0


@contextlib.contextmanager
def rabbitmq() -> Iterator[str]:
    """Run a server; yield its transport URL. Skips the test where there is none."""
    if not PROGRAM.exists():
        pytest.skip("no rabbitmq-server on this machine")
    with places.place("rabbit", 0o755) as directory:
        port, own = free_port(), pwd.getpwnam("rabbitmq" if os.geteuid() == 0 else _me())
        (directory / "conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users = none\n"
        )
        (directory / "plugins").write_text("[].\n")
        os.chown(directory, own.pw_uid, own.pw_gid)
        environment = _environment(directory)
        mapper = ["epmd", "-port", environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((directory / "log").open("wb"))
            start = functools.partial(_start, environment, own, log)
            stack.enter_context(start(mapper))  # else the server starts one that outlives it
            server = stack.enter_context(start([str(PROGRAM)]))
            _wait(port, server, directory / "log")
            yield f"rabbit://guest:guest@127.0.0.1:{port}/"


@contextlib.contextmanager
def _start(
    environment: dict[str, str], own: pwd.struct_passwd, log: Any, command: list[str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program and its children until the block ends."""
    process = subprocess.Popen(
        command,
        env=environment,
        user=own.pw_uid,
        group=own.pw_gid,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _environment(directory: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "RABBITMQ_NODENAME": f"kn{os.getpid()}@localhost",
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_CONFIG_FILE": str(directory / "conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as s:
            s.sendall(b"AMQP\x00\x00\x09\x01")
            s.settimeout(5)
            if s.recv(1):
                return
        time.sleep(0.2)
