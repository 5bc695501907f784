"""Turn an image of a tenant's into a qcow2 file of ours: the only place where a QEMU tool meets foreign bytes.

The input is copied to a private directory first and inspected there, so that nobody can swap it between the check and
the use. The tool is told both formats, gets no network, no privileges, and limits of time, memory and file size. What
it made is inspected again before anybody sees it (RELIABILITY S1-S7, S11).
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kilonova.common.errors import KilonovaError, TooLarge, Unavailable
from kilonova.image.inspect import Found, Limits, Refused, inspect

_PLAIN = {"ami": "raw", "ari": "raw", "aki": "raw", "iso": "raw"}
_NOBODY = 65534
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_STACK_BYTES = 2 << 20
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "MALLOC_ARENA_MAX": "1",  # QEMU's threads reserve 64 MiB of addresses each otherwise, and go over the limit
}


class ToolLimits(NamedTuple):
    """What qemu-img may use. file_overhead_bytes: what a qcow2 may be larger than the disk inside."""

    timeout_s: float = 900.0
    cpu_s: int = 600
    address_space_bytes: int = 1 << 30
    file_overhead_bytes: int = 64 << 20


TOOL_LIMITS = ToolLimits()


def convert_to_qcow2(
    source: Path,
    declared_format: str,
    target: Path,
    virtual_limit_bytes: int | None,
    tool: ToolLimits = TOOL_LIMITS,
) -> Found:
    """Make ``target``, a qcow2 file complete in itself, out of ``source``; return what the source was.

    target appears whole or not at all, mode 0600; one that exists is replaced, so repeating it is safe.
    virtual_limit_bytes: the largest disk taken, None for no limit. Raises Refused when the bytes are not a sound image
    of the declared format, TooLarge when the disk of this machine is full, Unavailable when the tool is missing or
    runs out of its limits, OSError when the source cannot be read.
    """
    with _private_directory(target.parent) as work:
        copy = work / "input"
        _copy(source, copy)
        found = inspect(copy, declared_format, Limits(virtual_limit_bytes))
        made = work / "output"
        made.touch(mode=0o600)
        _run(work, copy, _PLAIN.get(found.format, found.format), made, found, tool)
        result = inspect(made, "qcow2", Limits(None))
        if result.virtual_size != -(-found.virtual_size // 512) * 512:
            raise KilonovaError("The image could not be converted.", sizes=(found, result))
        _keep(made, target)
    return found


@contextmanager
def _private_directory(parent: Path) -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix=".convert-", dir=parent))  # 0700
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _copy(source: Path, copy: Path) -> None:
    """Copy bytes, holes and zeros left out. copy: must not exist."""
    src = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(src).st_size
        with copy.open("xb", buffering=0) as dst:
            at = _next_data(src, 0)
            while at < size and (piece := os.pread(src, _PIECE, at)):
                if piece != _ZEROS[: len(piece)]:
                    _put(dst.fileno(), piece, at)
                at = _next_data(src, at + len(piece))
            dst.truncate(size)
    finally:
        os.close(src)


def _next_data(fd: int, at: int) -> int:
    """Return where the next byte that is not in a hole lies, at ``at`` or behind; the end when there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return os.fstat(fd).st_size
        return at  # not a file with holes: a pipe, say, that inspect will refuse


def _put(fd: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    try:
        while view:
            n = os.pwrite(fd, view, at)
            view, at = view[n:], at + n
    except OSError as exc:
        raise TooLarge("There is not enough room to convert the image.", error=str(exc)) from exc


def _run(work: Path, copy: Path, fmt: str, made: Path, found: Found, tool: ToolLimits) -> None:
    programs = {n: shutil.which(n) for n in ("qemu-img", "prlimit")}
    if None in programs.values():
        raise Unavailable("A program is missing on this host.", programs=programs)
    largest = max(found.virtual_size + found.virtual_size // 1024, 0) + tool.file_overhead_bytes
    command = [
        *_confinement(),
        str(programs["prlimit"]),
        f"--cpu={tool.cpu_s}",
        f"--as={tool.address_space_bytes}",
        f"--fsize={largest}",
        f"--stack={_STACK_BYTES}",
        "--core=0",
        "--nofile=64",
        "--",
        str(programs["qemu-img"]),
        *("convert", "-f", fmt, "-O", "qcow2", "--", copy.name, made.name),
    ]
    if os.geteuid() == 0:
        for path in (work, copy, made):
            os.chown(path, _NOBODY, _NOBODY)
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell, no text of a tenant's
            command,
            cwd=work,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=tool.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable("Converting the image took too long.", limit_s=tool.timeout_s) from exc
    if done.returncode != 0:
        raise _failure(done.returncode, done.stderr.decode(errors="replace")[-2000:])


def _failure(code: int, said: str) -> KilonovaError:
    if "No space left" in said or "quota exceeded" in said:
        return TooLarge("There is not enough room to convert the image.", error=said)
    if code < 0 or code > 128 or "Cannot allocate memory" in said or "File too large" in said:
        return Unavailable("Converting the image went over its limits.", code=code, error=said)
    return Refused("The image is damaged: it could not be converted.", code=code, error=said)


@cache
def _confinement() -> tuple[str, ...]:
    """Return the words that run a command without network and privileges: the strictest that this system allows."""
    drop: tuple[str, ...] = ()
    if os.geteuid() == 0:
        ids = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
        drop = ("setpriv", *ids, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--")
        choices = [("unshare", "--net", "--", *drop), drop]
    else:
        choices = [("unshare", "--map-current-user", "--net", "--"), ()]
    for words in choices:
        if not words or _works([*words, "true"]):
            return words
    raise Unavailable("Foreign images cannot be handled safely on this host.", tried=choices)


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603
            command, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _keep(made: Path, target: Path) -> None:
    if os.geteuid() == 0:
        os.chown(made, 0, 0)
    os.chmod(made, 0o600)
    fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(made, target)
