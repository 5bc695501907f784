"""What is made sure of before anything starts: the port, the state directory, whom the cloud will be."""

import os
import shutil
import socket
from pathlib import Path

from kilonova.common.errors import Conflict, KilonovaError
from kilonova.server import privileges, state

CLOUD_USER, QEMU_USER = "kilonova", "kilonova-qemu"
_START_BYTES = 1 << 20


class StartFailed(KilonovaError):
    """The cloud did not start; the message is for the person who asked."""

    code = "start_failed"


def check_port(listen: str, port: int) -> None:
    """Raise StartFailed when the port cannot be opened, in words."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except OSError as exc:
            raise StartFailed(
                f"port {port} of {listen} cannot be used: {exc.strerror}. Choose another with --port, or --port 0 for "
                "any free one."
            ) from exc


def cloud_user(*, libvirt: bool, ephemeral: bool) -> str:
    """Return whom the cloud's process becomes when root starts it: a system user, made if it is missing.

    Where nothing is kept and there is no such user yet, it is nobody.
    """
    from kilonova.agent.helper import users

    if libvirt:
        users.ensure_users()
    elif privileges.find_user(CLOUD_USER) is None:
        if ephemeral:
            return "nobody"
        users.add_user(CLOUD_USER)
    return CLOUD_USER


def prepare(directory: Path, root_user: str | None, *, with_helper: bool) -> None:
    """Make the state directory, usable for the user that the cloud runs as. Raises StartFailed. Repeatable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root_user is None:
            (directory / "logs").mkdir(mode=0o750, exist_ok=True)
        else:
            _hand_over(directory, root_user, with_helper=with_helper)
        probe(directory)
    except OSError as exc:
        raise StartFailed(
            f"the state directory {directory} cannot be used: {exc.strerror}. Choose another with --state-dir."
        ) from exc


def probe(directory: Path) -> None:
    """Write what a start needs at least, and remove it again. Raises OSError: not writable, or no room."""
    path = directory / ".writable"
    path.unlink(missing_ok=True)
    try:
        with path.open("xb") as f:  # "x": follows no link that another user put there
            f.write(bytes(_START_BYTES))
    finally:
        path.unlink(missing_ok=True)


def _check_guests_reach(directory: Path) -> None:
    """Raise StartFailed when QEMU's user could not open disks below the directory."""
    user = privileges.find_user(QEMU_USER)
    closed = None if user is None else privileges.closed_at(directory.parent, user)
    if closed is not None:
        raise StartFailed(
            f"guests run as {QEMU_USER}, who cannot pass {closed} on the way to {directory}. Choose another "
            "--state-dir, or 'chmod o+x' it."
        )


def _hand_over(directory: Path, name: str, *, with_helper: bool) -> None:
    """Give a directory to the cloud's user; with the sticky bit where root's own part inside must not be replaced."""
    user = privileges.find_user(name)
    if user is None:
        raise StartFailed(f"there is no user {name}")
    logs = directory / "logs"
    logs.mkdir(mode=0o750, exist_ok=True)
    os.chown(logs, user.pw_uid, user.pw_gid)
    if with_helper:
        _check_guests_reach(directory)
    os.chown(directory, 0 if with_helper else user.pw_uid, user.pw_gid)
    os.chmod(directory, 0o1771 if with_helper else 0o700)


def sweep(temporary: Path) -> list[Path]:
    """Remove ephemeral state directories whose process died; return them. Only our own are touched."""
    from kilonova.saga.lease import StateLock

    removed = []
    for path in temporary.glob(f"{state.EPHEMERAL}*"):
        pid = path.name.removeprefix(state.EPHEMERAL).partition("-")[0]
        try:
            mine = path.stat().st_uid == os.geteuid() or os.geteuid() == 0
            if not mine or path.is_symlink() or not pid.isdigit() or state.ticks(int(pid)):
                continue
            if (path / "owner.lock").exists():
                StateLock(path).close()
        except (OSError, Conflict):
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed
