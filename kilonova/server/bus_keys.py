"""What an operator makes for NATS: who signs, the server's configuration, credentials. Nothing is written over."""

import time
from pathlib import Path

from kilonova.bus.credentials import ACCOUNT, ROLES, Authority, Key, of_host
from kilonova.common.errors import Conflict
from kilonova.server.nats_server import Listen, configuration
from kilonova.server.state import write_text


def init(folder: Path, listen: Listen) -> Path:
    """Make the signer (once) and nats.conf in a folder; return the latter. Safe to repeat."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = folder / "account.seed"
    if not seed.exists():
        write_text(seed, Key.make(ACCOUNT).seed.reveal() + "\n")
    written = folder / "nats.conf"
    write_text(written, configuration(listen, authority_of(seed), time.time()))
    return written


def authority_of(seed: Path) -> Authority:
    """Read the signer. Raises BadCredentials."""
    return Authority(Key.of_seed(seed.read_text()))


def credentials_of_role(seed: Path, role: str, out: Path) -> None:
    """Write a role's credentials (0600). Conflict when the file is there already."""
    _write(out, authority_of(seed).credentials(role, ROLES[role], time.time()).reveal())


def credentials_of_host(seed: Path, host: str, out: Path) -> None:
    """Write a host's credentials (0600). Conflict when the file is there; BadCredentials for a name with dots."""
    permissions = of_host(host)
    _write(out, authority_of(seed).credentials(host, permissions, time.time()).reveal())


def _write(out: Path, text: str) -> None:
    if out.exists():
        raise Conflict(f"{out} is there already")
    write_text(out, text)
