"""Start the processes of ``kilonova up``: in the foreground or detached, as one user or as root helper and cloud.

Whoever asked hears of it by a ``Tell``: steps while it starts, then what runs, or why nothing does.
"""

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from kilonova.common import cores, memory
from kilonova.common.config import Settings
from kilonova.common.errors import KilonovaError
from kilonova.server import helper_beside, kvm, privileges, state
from kilonova.server.ground import StartFailed
from kilonova.server.helper_beside import helper_socket

_OPEN_FILES = 4096
_LOG_LIMIT_BYTES = 64 << 20


class Tell(Protocol):
    """Who hears how the start goes."""

    def step(self, text: str) -> None:
        """A part of the start is done."""
        ...

    def ready(self, what: dict[str, Any]) -> None:
        """The cloud answers. what: see ``describe``."""
        ...

    def failed(self, message: str) -> None:
        """The cloud's process ended before it answered."""
        ...


@dataclass
class Start:
    """What to start. root_user: whom the cloud's process becomes when we are root; None: stay who we are."""

    directory: Path
    deployment: state.Deployment
    settings: Settings
    tls: tuple[str, str] | None = None
    cacert: str | None = None
    ephemeral: bool = False
    tiny_image: Path | None = None
    root_user: str | None = None
    virt_type: str = "qemu"
    started_at: float = field(default_factory=time.time)

    @property
    def with_helper(self) -> bool:
        return self.deployment.driver == "libvirt"


def describe(directory: Path, run: state.Run) -> dict[str, Any]:
    """Return what a program needs to use a running cloud."""
    made = state.deployment(directory)
    return {
        "url": run.url,
        "state_dir": str(directory),
        "clouds_yaml": str(directory / state.CLOUDS),
        "openrc": str(directory / state.OPENRC),
        "passwords_file": str(directory / state.PASSWORDS),
        "cloud": "kilonova",
        "admin_cloud": "kilonova-admin",
        "cacert": run.cacert,
        "projects": run.projects,
        "pid": run.pid,
        "helper_pid": run.helper_pid,
        "driver": run.driver,
        "cells": made.cells if made else None,
        "hosts_per_cell": made.hosts if made else None,
        "version": run.version,
        "log": str(directory / state.LOG),
    }


# -- the processes ---------------------------------------------------------------------------------------------------


def foreground(start: Start, tell: Tell) -> int:
    """Run the cloud until SIGTERM or SIGINT; as root it runs in a child that gave up root, and we serve as helper."""
    if start.root_user is None:
        return _serve(start, tell)
    return _as_root(start, tell, start.root_user)


def detached(start: Start, tell: Tell) -> int:
    """Run the cloud in the background; return when it answers. Raises StartFailed with what the child said."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reader)
        _daemon(start, writer)
    os.close(writer)
    os.waitpid(first, 0)
    return _listen(reader, tell)


def _daemon(start: Start, writer: int) -> None:
    """Leave the terminal and the parent, then run; never returns."""
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    os.closerange(3, writer)  # what the caller left open, a lock perhaps, is not ours to hold
    os.closerange(writer + 1, _OPEN_FILES)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    errors = os.open(
        start.directory / "logs" / "crash.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640
    )
    os.dup2(errors, 2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pipe = _PipeTell(writer)
    code = 1
    try:
        code = foreground(start, pipe)
    except KilonovaError as exc:
        pipe.failed(exc.message)
    finally:
        helper_beside.end(code, pipe.failed)


class _PipeTell:
    """Tells through a pipe, a JSON object a line; the pipe closes when the cloud is ready."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def _send(self, **words: Any) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._fd, json.dumps(words).encode() + b"\n")

    def step(self, text: str) -> None:
        self._send(step=text)

    def ready(self, what: dict[str, Any]) -> None:
        self._send(ready=what)
        self._close()

    def failed(self, message: str) -> None:
        self._send(failed=message)
        self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _listen(reader: int, tell: Tell) -> int:
    with os.fdopen(reader) as lines:
        for line in lines:
            word = json.loads(line)
            if "step" in word:
                tell.step(word["step"])
            elif "failed" in word:
                raise StartFailed(word["failed"])
            else:
                tell.ready(word["ready"])
                return 0
    raise StartFailed("the cloud's process ended before it answered; its log may say why")


def _as_root(start: Start, tell: Tell, name: str) -> int:
    """Give up root; with libvirt only in a child, and serve here as its root helper."""
    user = privileges.find_user(name)
    if user is None:
        raise StartFailed(f"there is no user {name}")
    if not start.with_helper:
        privileges.reveal(_needed(start), user)
        privileges.become(user)
        return _serve(start, tell)
    helper = helper_beside.open_(start.directory, start.settings.resolv_conf)
    start.virt_type = kvm.virt_type(start.directory / "host" / "kvm.json")
    tell.step(f"guests run by {start.virt_type}")

    def quiet() -> None:
        if isinstance(tell, _PipeTell):
            tell._close()  # the child's end alone speaks

    body = helper_beside.Body(lambda: _serve(start, tell), tell.failed, quiet)
    return helper_beside.run(helper, user, _needed(start), body)


def _needed(start: Start) -> list[Path]:
    """Return the directories that the cloud's process must reach."""
    images = [start.tiny_image.parent] if start.tiny_image is not None else []
    return [*privileges.code_directories(), start.directory, *images]


# -- the cloud -------------------------------------------------------------------------------------------------------


def _serve(start: Start, tell: Tell) -> int:
    """Start the cloud in this process, say so, wait for a signal, stop it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _log_to_file(start)
    try:
        with (_split if start.deployment.split else _cloud)(start, tell) as run:
            if not stop.is_set():
                tell.ready(describe(start.directory, run))
                notify("READY=1")
            stop.wait()
            notify("STOPPING=1")
    finally:
        if start.ephemeral:
            shutil.rmtree(start.directory, ignore_errors=True)
    return 0


@contextlib.contextmanager
def _cloud(start: Start, tell: Tell) -> Iterator[state.Run]:
    from kilonova.server import first_content
    from kilonova.server.cloud import Cloud
    from kilonova.server.plan import Plan

    made = start.deployment
    plan = Plan(
        state_dir=start.directory,
        driver=made.driver,
        cells=made.cells,
        hosts=made.hosts,
        listen=made.listen,
        port=made.port,
        public_url=made.public_url,
        tls=start.tls,
        settings=start.settings,
        virt_type=start.virt_type,
    )
    if start.with_helper:
        from kilonova.agent.helper import names

        plan.helper_socket = helper_socket(start.directory)
        plan.tag = names.tag_of(start.directory)
    if start.deployment.driver == "fake" and start.settings.one_core:
        cores.stay_on_one()
    cloud = Cloud(plan)
    try:
        cloud.start()
    except OSError as exc:
        raise StartFailed(f"{exc.filename or start.directory}: {exc.strerror or exc}") from exc
    tell.step("the cloud answers")
    try:
        state.save_deployment(start.directory, made)
        content = first_content.ensure(cloud, start.tiny_image, start.cacert)
        memory.give_back()
        tell.step("first content is there")
        run = _run_of(start, cloud.url, content.projects)
        state.save_run(start.directory, run)
        gc.enable()
        yield run
    finally:
        cloud.stop()
        state.forget_run(start.directory)


@contextlib.contextmanager
def _split(start: Start, tell: Tell) -> Iterator[state.Run]:
    """Run each role in a process of its own, and watch them from this one."""
    from kilonova.server import split_launch
    from kilonova.server.split import Asked

    made = start.deployment
    scheme = "https" if start.tls else "http"
    asked = Asked(
        directory=start.directory,
        cells=made.cells,
        hosts=made.hosts,
        listen=made.listen,
        port=made.port,
        public_url=(made.public_url or f"{scheme}://{made.listen}:{made.port}").rstrip("/"),
        settings=start.settings,
        cert=start.tls,
        cacert=start.cacert,
        database=split_launch.database_of(made.database),
        conductors=made.conductors,
        apis=made.apis,
        tiny_image=start.tiny_image,
        real=_real(start),
    )
    if asked.apis > 1 and asked.database == "sqlite":
        raise StartFailed("several api processes need --database postgresql or mariadb")
    made = replace(made, database=asked.database)
    state.save_deployment(start.directory, made)
    try:
        with split_launch.running(asked, tell.step) as projects:
            run = _run_of(start, asked.public_url, projects)
            state.save_run(start.directory, run)
            gc.enable()
            yield run
    finally:
        state.forget_run(start.directory)


def _real(start: Start) -> Any:
    """Return what the agent of a split deployment needs to know of its root helper; None for simulated hosts."""
    from kilonova.server.split import Real

    if not start.with_helper:
        return None
    return Real(helper_socket(start.directory), start.virt_type)


def _run_of(start: Start, url: str, projects: dict[str, str]) -> state.Run:
    pid = os.getpid()
    return state.Run(
        pid=pid,
        started_ticks=state.ticks(pid) or 0,
        started_at=time.time(),
        url=url,
        driver=start.deployment.driver,
        version=start.deployment.version,
        helper_pid=os.getppid() if start.with_helper else None,
        cacert=start.cacert,
        projects=projects,
    )


def _log_to_file(start: Start) -> None:
    import logging

    from kilonova.common import log

    level = logging.getLevelNamesMapping()[start.settings.log_level]
    if "JOURNAL_STREAM" in os.environ:
        log.set_up(sys.stderr, level)
        return
    path = start.directory / state.LOG
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.rename(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    log.set_up(os.fdopen(fd, "a"), level)


def notify(message: str) -> None:
    """Tell systemd, when it asked. source: sdnotify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)
