"""A root helper in this process, and in a child that gave up root whoever needs it: the cloud, or an agent."""

import contextlib
import os
import pwd
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonova.common.errors import KilonovaError
from kilonova.server import privileges
from kilonova.server.ground import CLOUD_USER, QEMU_USER


@dataclass(frozen=True)
class Body:
    """run: what the child does; returns its exit code. failed: hears why not. apart: called here after the fork."""

    run: Callable[[], int]
    failed: Callable[[str], None]
    apart: Callable[[], None] = lambda: None


class Helper:
    """The root helper. It listens before the child is made, so nobody waits for it."""

    def __init__(self, directory: Path, resolv_conf: str) -> None:
        from kilonova.agent.helper.server import HelperServer

        known = helper_settings(directory, resolv_conf)
        self.server = HelperServer(known, helper_socket(directory))
        self.server.listen()

    def abandon(self) -> None:
        """In the child: the socket is the parent's."""
        listener = self.server._listener
        if listener is not None:
            listener.close()


def open_(directory: Path, resolv_conf: str) -> Helper:
    """Open the root helper of a state directory, with its log there."""
    from kilonova.common import log

    path = directory / "host"
    path.mkdir(mode=0o755, exist_ok=True)
    log.set_up((path / "helper.log").open("a"))
    return Helper(directory, resolv_conf)


def helper_settings(directory: Path, resolv_conf: str = "/etc/resolv.conf") -> Any:
    """Return what the root helper of a state directory knows."""
    from kilonova.agent.helper import names
    from kilonova.agent.helper.settings import Settings as HelperSettings

    return HelperSettings(
        tag=names.tag_of(directory),
        directory_root=directory / "host",
        owner=CLOUD_USER,
        qemu_user=QEMU_USER,
        qemu_group=QEMU_USER,
        resolv_conf=resolv_conf,
    )


def helper_socket(directory: Path) -> Path:
    """Return where the root helper listens; a path of at most 100 characters."""
    from kilonova.agent.helper import names

    path = directory / "helper.sock"
    return path if len(str(path)) <= 100 else Path(f"/run/kilonova-{names.tag_of(directory)}.sock")


def run(helper: Helper, user: pwd.struct_passwd, needed: list[Path], body: Body) -> int:
    """Run ``body`` in a child as ``user``, who reaches ``needed``; serve here until it ended. Return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            helper.abandon()
            privileges.reveal(needed, user)
            privileges.become(user)
            privileges.end_with_parent()
            code = body.run()
        except KilonovaError as exc:
            body.failed(exc.message)
        finally:
            end(code, body.failed)
    body.apart()
    return _parent(child, helper)


def end(code: int, failed: Callable[[str], None]) -> None:
    """End a forked process at its outermost frame, inside ``finally``: what nobody expected is told and shown."""
    kind, exc, trace = sys.exc_info()
    if kind is not None and exc is not None:
        failed(f"{kind.__name__}: {exc}; logs/crash.log of the state directory may say more")
        sys.excepthook(kind, exc, trace)
    sys.stdout.flush()
    os._exit(code)


def _parent(child: int, helper: Helper) -> int:
    """Serve as helper until the child ends; hand our signals on to it. Return its exit code."""

    def hand_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hand_on)
    threading.Thread(target=helper.server.serve, name="helper", daemon=True).start()
    _, status = os.waitpid(child, 0)
    helper.server.stop()
    return os.waitstatus_to_exitcode(status) & 0xFF
