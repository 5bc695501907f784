"""QEMU's machine protocol, as a client: one command and its reply at a time, over a unix socket.

source: QEMU docs, interop/qmp-spec.
"""

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from kilonova.virt.driver import DriverError

TIMEOUT_S = 20.0


class QmpDown(DriverError):
    """Nobody listens, or the connection broke."""

    code = "qmp_down"


class QmpError(DriverError):
    """The command was refused."""

    code = "qmp_error"


class Qmp:
    """An open connection; to be used as a context manager, by one thread."""

    def __init__(self, path: Path) -> None:
        """Connect; the path may be longer than a socket's address can be. Raises QmpDown."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        try:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
            self._file = self._socket.makefile("rwb")
            self._read()
            self.run("qmp_capabilities")
        except OSError as exc:
            self._socket.close()
            raise QmpDown("What exports volumes does not answer.", error=str(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def run(self, command: str, **arguments: object) -> Any:
        """Return what a command returns; in names of arguments ``_`` stands for ``-``. Raises QmpError, QmpDown."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            self._file.write(msgspec.json.encode({"execute": command, "arguments": named}) + b"\n")
            self._file.flush()
            while True:
                reply = self._read()
                if "error" in reply:
                    raise QmpError(
                        "What exports volumes refused a command.",
                        command=command,
                        said=reply["error"].get("desc", ""),
                    )
                if "return" in reply:
                    return reply["return"]
        except OSError as exc:
            raise QmpDown("What exports volumes does not answer.", error=str(exc)) from exc

    def _read(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise QmpDown("What exports volumes ended.")
        try:
            reply: dict[str, Any] = msgspec.json.decode(line)
        except msgspec.DecodeError as exc:
            raise QmpDown("What exports volumes speaks nonsense.") from exc
        return reply
