"""Disk tools that may run for long: started once, looked at again (Again), ended when given up or when we end.

Formats are always said aloud, paths are our own and absolute, limits as for every tool that sees tenants' bytes.
"""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kilonova.objects.volume import NbdConnection
from kilonova.virt.driver import Aborted, Again, DriverError, Progress

SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
POLL_S = 0.2
OVERHEAD = 64 << 20
FICLONE = 0x40049409  # source: linux/fs.h
F_OFD_GETLK = 36  # source: linux/fcntl.h
QEMU_WRITES = (
    101  # the byte that a QEMU that may write a file has locked. source: QEMU, block/file-posix.c
)
_FLOCK = "hh4xqqi4x"


@dataclass
class _Job:
    source: Path
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    until: float


class Tools:
    """The tools that run for one host's disks, by the file that each makes. Safe from any thread."""

    def __init__(self, timeout_s: float = 7200.0) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._jobs: dict[Path, _Job] = {}

    def convert(
        self,
        source: Path,
        target: Path,
        progress: Progress,
        *,
        source_format: str = "qcow2",
        target_format: str = "qcow2",
    ) -> None:
        """Make ``target`` of what is in ``source`` and in the files that back it; Again while it works.

        One that is there and that nobody is making is made anew. A failed or aborted one leaves nothing. QEMU's own
        locks keep writers of ``source`` away meanwhile.
        """
        formats = ("-f", source_format, "-O", target_format)

        def begin() -> _Job:
            target.unlink(missing_ok=True)
            raw = source_format == "raw"
            size = source.stat().st_size if raw else virtual_size(source)
            words = ("convert", *formats, "--", str(source), str(target))
            return self._start(source, target, size, words)

        self._go_on(target, begin, progress)

    def fetch(
        self,
        source: NbdConnection,
        size: int,
        target: Path,
        progress: Progress,
        certificates: Path | None = None,
    ) -> None:
        """Make ``target``, qcow2, of what another host exports; as ``convert``. size: its bytes at most.

        certificates: the directory of this host's; needed where the other one has TLS.
        """
        server = {"type": "inet", "host": source.host, "port": str(source.port)}
        if not source.port:
            server = {"type": "unix", "path": source.host}
        node: dict[str, object] = {"driver": "nbd", "server": server, "export": source.export}
        secret: tuple[str, ...] = ()
        if source.tls_name:
            if certificates is None:
                raise DriverError("This host has no certificate: it cannot reach the volume.")
            node |= {"tls-creds": "tls", "tls-hostname": source.tls_name}
            kept = str(certificates).replace(",", ",,")
            secret = ("--object", f"tls-creds-x509,id=tls,dir={kept},endpoint=client")
        name = "json:" + json.dumps({"driver": "raw", "file": node})

        def begin() -> _Job:
            target.unlink(missing_ok=True)
            words = ("convert", *secret, "-O", "qcow2", "--", name, str(target))
            return self._start(target, target, size, words)

        self._go_on(target, begin, progress)

    def rebase(self, path: Path, source: Path, below: Path, progress: Progress) -> None:
        """Keep in ``path``, which has ``source`` below it, what is not as in ``below``; Again while it works."""

        def begin() -> _Job:
            words = ("rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(below), "--", str(path))
            return self._start(source, path, virtual_size(source), words)

        self._go_on(path, begin, progress)

    def _go_on(self, target: Path, begin: Callable[[], _Job], progress: Progress) -> None:
        """Look at what makes a file, begun now if nothing does."""
        with self._lock:
            job = self._jobs.get(target)
            if job is None:
                job = self._jobs[target] = begin()
        try:
            progress("copying the disk")
        except Aborted:
            self.end(target)
            raise
        self._look(target, job)

    def runs(self, target: Path) -> bool:
        """Tell whether a tool makes this file now."""
        with self._lock:
            return target in self._jobs

    def reads(self, source: Path) -> bool:
        """Tell whether a tool copies this file now, and so keeps those away who would write it."""
        with self._lock:
            return any(job.source == source for job in self._jobs.values())

    def end(self, target: Path) -> None:
        """End what makes a file and remove that; fine when there is nothing."""
        with self._lock:
            job = self._jobs.pop(target, None)
        if job is not None:
            job.process.kill()
            job.process.wait()
            job.said.close()
        target.unlink(missing_ok=True)

    def close(self) -> None:
        """End everything."""
        for target in list(self._jobs):
            self.end(target)

    def _start(self, source: Path, target: Path, size: int, words: tuple[str, ...]) -> _Job:
        limit = size * 1025 // 1024 + OVERHEAD
        said = tempfile.TemporaryFile()  # noqa: SIM115 - the job closes it
        command = [
            _program("setpriv"),
            *("--pdeathsig", "KILL", "--no-new-privs", "--"),
            _program("prlimit"),
            *("--cpu=3600", f"--as={2 << 30}", f"--fsize={limit}", "--core=0", "--nofile=64", "--"),
            _program("qemu-img"),
            *words,
        ]
        process = subprocess.Popen(  # noqa: S603 - a list, no shell, names of our own
            command,
            cwd=target.parent,
            env={"PATH": SEARCH, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        return _Job(source, process, said, time.monotonic() + self._timeout_s)

    def _look(self, target: Path, job: _Job) -> None:
        try:
            code = job.process.wait(POLL_S)
        except subprocess.TimeoutExpired as exc:
            if time.monotonic() < job.until:
                raise Again(POLL_S) from exc
            self.end(target)
            raise DriverError("Copying the disk took too long.") from exc
        with self._lock:
            self._jobs.pop(target, None)
        job.said.seek(0)
        said = job.said.read(4000).decode(errors="replace")
        job.said.close()
        if code != 0:
            target.unlink(missing_ok=True)
            room = "No space left" in said or "quota exceeded" in said or "File too large" in said
            raise DriverError(
                "The host has no room for the disk." if room else "The disk could not be copied.",
                code=code,
                said=said,
            )


def run_now(*words: str, limit_bytes: int | None = None) -> None:
    """Run qemu-img on a file of ours, for something short. Raises DriverError."""
    limits = [] if limit_bytes is None else [f"--fsize={limit_bytes}"]
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell, names of our own
            [
                _program("prlimit"),
                *("--cpu=60", f"--as={2 << 30}", "--core=0", *limits, "--"),
                _program("qemu-img"),
                *words,
            ],
            env={"PATH": SEARCH, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise DriverError("A disk tool took too long.") from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")[-1000:]
        room = "No space left" in said
        raise DriverError(
            "The host has no room for the disk." if room else "A disk tool failed.", said=said
        )


def clone(source: Path, target: Path) -> bool:
    """Make ``target`` share the blocks of ``source``; False where the file system cannot, and then nothing is made."""
    target.unlink(missing_ok=True)
    with source.open("rb") as src, target.open("xb") as dst:
        os.fchmod(dst.fileno(), 0o600)
        try:
            fcntl.ioctl(dst.fileno(), FICLONE, src.fileno())
        except OSError:
            target.unlink()
            return False
        os.fsync(dst.fileno())
    return True


def is_written(path: Path) -> bool:
    """Tell whether a QEMU program has a file open for writing now."""
    with path.open("rb") as file:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, QEMU_WRITES, 1, 0)
        answer = fcntl.fcntl(file.fileno(), F_OFD_GETLK, asked)
    return int(struct.unpack(_FLOCK, answer)[0]) != fcntl.F_UNLCK


def virtual_size(path: Path) -> int:
    """Return the bytes of the disk in a qcow2 file of ours. source: QEMU docs, interop/qcow2: bytes 24-31."""
    with path.open("rb") as file:
        head = file.read(32)
    if len(head) < 32 or head[:4] != b"QFI\xfb":
        raise DriverError("A disk's file is damaged.", path=str(path))
    return int.from_bytes(head[24:32], "big")


def size_if_known(path: Path) -> int:
    """Return ``virtual_size``, 0 of a file that is gone or damaged."""
    try:
        return virtual_size(path)
    except (FileNotFoundError, DriverError):
        return 0


def create(path: Path, size: int) -> None:
    """Make an empty qcow2 file; one that is there is replaced."""
    path.unlink(missing_ok=True)
    run_now("create", "-q", "-f", "qcow2", "--", str(path), str(size), limit_bytes=OVERHEAD * 16)


def sync(path: Path) -> None:
    """Have a file's bytes on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        raise DriverError("A program is missing on the host.", elsewhere=True, program=name)
    return found
