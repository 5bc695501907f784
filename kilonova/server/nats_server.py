"""A nats-server of our own: its configuration, and the process (``up --split``, tests). Core NATS, no JetStream."""

import contextlib
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kilonova.bus.credentials import Authority, trust_of
from kilonova.common.errors import KilonovaError
from kilonova.server import state

MAX_BYTES = 8 << 20
STOP_S = 10.0


class NoNatsServer(KilonovaError):
    """There is no program nats-server, or it does not start; the message says what to do."""

    code = "no_nats_server"


@dataclass(frozen=True)
class Listen:
    """Where it listens. tls: certificate and key in PEM; None: in the clear (loopback, tests)."""

    address: str
    port: int
    tls: tuple[Path, Path] | None = None

    @property
    def url(self) -> str:
        """Return what clients connect to."""
        return f"{'tls' if self.tls else 'nats'}://{self.address}:{self.port}"


def configuration(listen: Listen, authority: Authority | None, now: float, folder: Path) -> str:
    """Return the text of a configuration file. Without an authority everybody may say everything (tests).

    folder: where it lies; the server keeps accounts beside it, so that one that is changed while it runs stays so.
    """
    lines = [
        f"listen: {_quoted(f'{listen.address}:{listen.port}')}",
        f"max_payload: {MAX_BYTES}",
        "max_pending: 256MB",
        'ping_interval: "10s"',
        'write_deadline: "10s"',
    ]
    if listen.tls is not None:
        cert, key = listen.tls
        lines += [
            "tls {",
            f"  cert_file: {_quoted(str(cert))}",
            f"  key_file: {_quoted(str(key))}",
            "  timeout: 5",
            "}",
        ]
    if authority is not None:
        lines += trust(authority, now, folder)
    return "\n".join(lines) + "\n"


def trust(authority: Authority, now: float, folder: Path) -> list[str]:
    """Return the lines of a configuration that say whom the server believes, and whom no more."""
    found = trust_of(authority, now)
    preload = ", ".join(f"{public}: {token}" for public, token in (found.account, found.system))
    accounts = _quoted(str(folder.absolute() / "accounts"))
    return [
        f'resolver: {{ type: full, dir: {accounts}, allow_delete: false, interval: "2m" }}',
        f"operator: {found.operator}",
        f"system_account: {found.system[0]}",
        f"resolver_preload: {{ {preload} }}",
    ]


def trusting(text: str, authority: Authority, now: float, folder: Path) -> str:
    """Return a configuration that believes an authority anew; every other line stays as it is."""
    ours = ("operator:", "system_account:", "resolver_preload:", "resolver:")
    kept = [line for line in text.splitlines() if not line.startswith(ours)]
    return "\n".join([*kept, *trust(authority, now, folder)]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def program() -> str:
    """Return where nats-server is. Raises NoNatsServer."""
    found = shutil.which("nats-server", path="/usr/sbin:/usr/local/bin:/usr/bin:/usr/local/sbin")
    found = found or shutil.which("nats-server")
    if found is None:
        raise NoNatsServer("there is no nats-server (Debian: apt-get install nats-server)")
    return found


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def usable_port(wanted: int, address: str) -> int:
    """Return the wanted port, or any that nobody uses where somebody has it (or 0 is wanted)."""
    with contextlib.suppress(OSError), socket.create_server((address, wanted)) as probe:
        port: int = probe.getsockname()[1]
        return port
    return free_port(address)


class NatsServer:
    """One server process in a directory of its own. It keeps nothing: a restart is a wipe."""

    def __init__(self, directory: Path, listen: Listen) -> None:
        self.directory = directory
        self.listen = listen
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, authority: Authority | None, now: float) -> None:
        """Write its configuration, once; it holds no secret of anybody's."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = configuration(self.listen, authority, now, self.directory)
        state.write_text(self.directory / "nats.conf", text)

    def command(self) -> list[str]:
        """Return how it is started in the foreground."""
        return [program(), "-c", str(self.directory / "nats.conf")]

    def start(self) -> None:
        """Start it; returns at once (clients wait for it)."""
        with (self.directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait; by force when it does not within 10 s. Fine when it does not run."""
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
