"""Running programs and functions inside network namespaces. Arguments are lists; there is no shell anywhere."""

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kilonova.common.errors import KilonovaError

T = TypeVar("T")
NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(KilonovaError):
    """A program of the host said no; facts hold its words."""

    code = "command_failed"


def command(args: list[str], ns: str | None) -> list[str]:
    """Return ``args`` as they run inside the namespace ``ns`` (None: the machine's own)."""
    return args if ns is None else ["nsenter", f"--net={NETNS / ns}", "--", *args]


def run(args: list[str], *, ns: str | None = None, text: str = "", timeout_s: float = 20.0) -> str:
    """Run a program to its end and return what it printed. Raises CommandFailed."""
    try:
        done = subprocess.run(  # noqa: S603
            command(args, ns),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise CommandFailed(f"{args[0]} could not be run: {exc}", args=args) from exc
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-800:]
        raise CommandFailed(f"{args[0]}: {words}", args=args, ns=ns)
    return done.stdout


def ip(lines: Iterable[str], ns: str | None = None) -> None:
    """Run lines of ``ip -batch``; stops at the first that fails. Raises CommandFailed."""
    _batch("ip", list(lines), ns)


def bridge(lines: Iterable[str], ns: str | None = None) -> None:
    """Run lines of ``bridge -batch``; stops at the first that fails. Raises CommandFailed."""
    _batch("bridge", list(lines), ns)


def _batch(program: str, batch: list[str], ns: str | None) -> None:
    if batch:
        try:
            run([program, "-batch", "-"], ns=ns, text="\n".join(batch) + "\n")
        except CommandFailed as exc:
            exc.facts["batch"] = batch
            raise


def ip_try(line: str, ns: str | None = None) -> bool:
    """Run one ip command that may fail; tell whether it worked."""
    try:
        run(["ip", *line.split()], ns=ns)
    except CommandFailed:
        return False
    return True


def links(ns: str | None = None) -> dict[str, dict[str, Any]]:
    """Return every link of a namespace by name: as ``ip -j link`` prints it."""
    found: list[dict[str, Any]] = msgspec.json.decode(run(["ip", "-j", "link", "show"], ns=ns))
    return {link["ifname"]: link for link in found if "ifname" in link}


def addresses(link: str, ns: str | None = None) -> set[str]:
    """Return the global addresses of a link as "address/prefix"."""
    found: list[dict[str, Any]] = msgspec.json.decode(
        run(["ip", "-j", "address", "show", "dev", link], ns=ns)
    )
    return {
        f"{a['local']}/{a['prefixlen']}"
        for entry in found
        for a in entry.get("addr_info", ())
        if a.get("scope") != "link"
    }


def nft(text: str, ns: str | None = None) -> None:
    """Apply one nft transaction: all of it or nothing. Raises CommandFailed."""
    run(["nft", "-f", "-"], ns=ns, text=text)


def namespaces() -> set[str]:
    return {p.name for p in NETNS.iterdir()} if NETNS.is_dir() else set()


def ensure_namespace(name: str) -> bool:
    """Make a network namespace with its loopback up; tell whether it is new."""
    if name in namespaces():
        return False
    run(["ip", "netns", "add", name])
    ip(["link set lo up"], name)
    return True


def drop_namespace(name: str) -> None:
    """Remove a namespace, and with it what lives in it; fine when there is none."""
    if name in namespaces():
        run(["ip", "netns", "del", name])


def inside(ns: str, function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of its own that stands in the namespace; sockets it makes stay there."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(NETNS / ns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {ns}")
            finally:
                os.close(fd)
            result.append(function())
        except (OSError, KilonovaError, ValueError) as exc:
            failure.append(exc)

    thread = threading.Thread(target=body, name=f"in {ns}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def sysctl(values: dict[str, str], ns: str | None = None, strict: bool = True) -> None:
    """Write ``net/...`` values; strict=False skips those that this kernel lacks."""

    def write() -> None:
        for name, value in values.items():
            path = Path("/proc/sys") / name
            try:
                if path.read_text().strip() != value:
                    path.write_text(value)
            except FileNotFoundError:
                if strict:
                    raise

    if ns is None:
        write()
    else:
        inside(ns, write)


# -- daemons -----------------------------------------------------------------------------------------------------


def spawn(args: list[str], *, ns: str | None, log: Path) -> int:
    """Start a detached daemon (own session, survives us); return the pid of what was started."""
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603
            command(args, ns),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            close_fds=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    threading.Thread(target=process.wait, name=f"reap {args[0]}", daemon=True).start()
    return process.pid


def alive(pid_file: Path, mark: str) -> int | None:
    """Return the pid in the file if that process runs and has ``mark`` in its command line."""
    try:
        pid = int(pid_file.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    return pid if mark in words else None


def await_pid_file(pid: int, pid_file: Path, log: Path, timeout_s: float = 10.0) -> None:
    """Wait until a daemon that was spawned has written its pid file. Raises CommandFailed with the end of its log."""
    deadline = time.monotonic() + timeout_s
    while not pid_file.exists() or not pid_file.read_text().strip():
        if not Path(f"/proc/{pid}").exists() or time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-800:].strip()
            raise CommandFailed(f"a daemon did not start: {words}", pid_file=str(pid_file))
        time.sleep(0.005)


def end(pid: int, timeout_s: float = 5.0) -> None:
    """Ask a process to end, and make it end after ``timeout_s`` seconds; fine when it is gone."""
    import select
    import signal

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = select.poll()  # select() takes no descriptor beyond 1,023
    gone.register(fd, select.POLLIN)
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        if not gone.poll(timeout_s * 1000):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            gone.poll(timeout_s * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
