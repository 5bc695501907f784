"""What an operator makes for NATS: who signs, the server's configuration, credentials. Nothing is written over."""

import time
from dataclasses import replace
from pathlib import Path

from kilonova.bus.credentials import ACCOUNT, ROLES, Authority, Key, of_host
from kilonova.common.errors import Conflict
from kilonova.server.nats_server import Listen, configuration, trusting
from kilonova.server.state import read_json, write_json, write_text

SEED, CONF, REVOKED = "account.seed", "nats.conf", "revoked.json"


def init(folder: Path, listen: Listen) -> Path:
    """Make the signer (once) and nats.conf in a folder; return the latter. Safe to repeat."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = folder / SEED
    if not seed.exists():
        write_text(seed, Key.make(ACCOUNT).seed.reveal() + "\n")
    written = folder / CONF
    write_text(written, configuration(listen, _authority(folder), time.time(), folder))
    return written


def revoke(folder: Path, host: str) -> Path:
    """Have the server of a folder that ``init`` made refuse a host's credentials of until now; return nats.conf.

    It holds from the next start of the server on. Credentials signed later are good again. Safe to repeat.
    Raises BadCredentials for what is no host's name, Conflict when the folder has no configuration.
    """
    of_host(host)
    conf = folder / CONF
    if not conf.exists():
        raise Conflict(f"there is no {conf}: 'kilonova bus init' makes it")
    revoked = {**_revoked(folder), host: int(time.time())}
    write_json(folder / REVOKED, revoked)
    write_text(conf, trusting(conf.read_text(), _authority(folder), time.time(), folder))
    return conf


def _revoked(folder: Path) -> dict[str, int]:
    return {str(k): int(v) for k, v in (read_json(folder / REVOKED) or {}).items()}


def _authority(folder: Path) -> Authority:
    """Return the signer of a folder, with whom it signs for no more."""
    return replace(authority_of(folder / SEED), revoked=_revoked(folder))


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
