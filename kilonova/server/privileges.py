"""From root to the cloud's own user: the API never runs as root.

Code that lies below a closed directory (a checkout in /root) is made visible to the cloud's process alone, at the
same paths, by a mount namespace of its own in which the closed directory shows nothing else.
"""

import ctypes
import os
import pwd
import signal
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from kilonova.common.errors import KilonovaError

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1


class NotAllowed(KilonovaError):
    """The change of user cannot be done; the message says what stands in the way."""

    code = "privileges"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise NotAllowed(f"{what}: {os.strerror(ctypes.get_errno())}")


def find_user(name: str) -> pwd.struct_passwd | None:
    """Return a system user, or None."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def closed_at(path: Path, user: pwd.struct_passwd) -> Path | None:
    """Return the highest directory on the way to ``path`` that ``user`` cannot pass, None when the way is open."""
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    for part in (*reversed(path.parents), path):
        try:
            at = part.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(at.st_mode):
            continue
        if at.st_uid == user.pw_uid:
            bit = stat.S_IXUSR
        elif at.st_gid in groups:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not at.st_mode & bit:
            return part
    return None


def code_directories() -> list[Path]:
    """Return every directory that this Python reads modules from."""
    named = [sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent), *sys.path]
    found = {Path(n).resolve() for n in named if n and Path(n).is_dir()}
    return sorted(found)


def reveal(paths: Iterable[Path], user: pwd.struct_passwd) -> None:
    """Let ``user`` reach ``paths`` in this process, whatever closed directories they lie in. Needs root.

    Raises NotAllowed where mount namespaces are forbidden, or when a path itself is closed to the user.
    """
    hidden: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        closed = closed_at(path, user)
        if closed is None:
            continue
        if closed == path:
            raise NotAllowed(
                f"user {user.pw_name} may not read {path}; 'chmod o+rx {path}' mends it"
            )
        inside = hidden.setdefault(closed, [])
        if not any(path.is_relative_to(p) for p in inside):
            inside.append(path)
    if not hidden:
        return
    libc = _libc()
    _check(libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "a private mount tree")
    for closed, inside in hidden.items():
        opened = [(p, os.open(p, os.O_PATH | os.O_DIRECTORY)) for p in inside]
        _check(libc.mount(b"kilonova", os.fsencode(closed), b"tmpfs", 0, b"mode=755"), str(closed))
        for path, fd in opened:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            source = f"/proc/self/fd/{fd}".encode()
            _check(libc.mount(source, os.fsencode(path), None, _MS_BIND | _MS_REC, None), str(path))
            os.close(fd)


def become(user: pwd.struct_passwd) -> None:
    """Give up root for good."""
    os.chdir("/")
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update(HOME="/nonexistent", USER=user.pw_name, LOGNAME=user.pw_name)


def end_with_parent() -> None:
    """End this process in order (SIGTERM) when its parent dies."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
