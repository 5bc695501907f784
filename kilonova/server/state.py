"""A state directory as the command line sees it: where it is, what was made in it, which process runs on it.

``deployment.json`` says what the cloud is (written once, kept). ``run.json`` says what runs (written by each start,
removed by an orderly stop). Both are 0600 or 0644 files of the cloud's user; nothing secret is in them.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kilonova.common.errors import Conflict

FORMAT = 1
DEPLOYMENT, RUN = "deployment.json", "run.json"
PASSWORDS, CLOUDS, OPENRC = "passwords.json", "clouds.yaml", "openrc"
LOG = "logs/kilonova.log"
EPHEMERAL = "kilonova-ephemeral-"


def default_dir() -> Path:
    """Return /var/lib/kilonova as root, else a folder among the user's data."""
    if os.geteuid() == 0:
        return Path("/var/lib/kilonova")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "kilonova"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "kilonova"


def chosen(state_dir: str | None) -> Path:
    """Return the state directory that a command means."""
    named = state_dir or os.environ.get("KILONOVA_STATE_DIR")
    return Path(named).expanduser().absolute() if named else default_dir()


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n", mode)


def write_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole or not at all, with ``mode`` from its first byte on."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w") as f:
            f.write(text)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the file's content, None when there is no such file or it is not ours."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Deployment:
    """What the cloud of a state directory is; options that must not change under it."""

    driver: str
    version: str
    cells: int = 1
    hosts: int = 1
    port: int = 8774
    listen: str = "127.0.0.1"
    public_url: str | None = None
    tls: str | None = None
    public_cidr: str | None = None
    private_cidr: str | None = None
    public_interface: str | None = None
    public_pool: str | None = None
    public_gateway: str | None = None
    split: bool = False
    database: str | None = None
    conductors: int = 1
    apis: int = 1
    seeded: tuple[str, ...] = ()
    format: int = FORMAT


def deployment(directory: Path) -> Deployment | None:
    """Return what was made here, None for a new directory. Raises Conflict for one of a newer release."""
    found = read_json(directory / DEPLOYMENT)
    if found is None:
        return None
    if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
        raise Conflict(
            f"The state directory {directory} was written by Kilonova {found.get('version', '?')}, which is newer than "
            "this one. Start that release, or restore a backup made by this one."
        )
    known = {f.name for f in fields(Deployment)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known
    }
    return Deployment(**values)


def save_deployment(directory: Path, made: Deployment) -> None:
    """Keep what was made."""
    write_json(directory / DEPLOYMENT, asdict(made), 0o644)


@dataclass(frozen=True)
class Run:
    """A cloud that runs. started_ticks: of /proc/PID/stat, so that a reused pid is not taken for it.

    projects: name -> id.
    """

    pid: int
    started_ticks: int
    started_at: float
    url: str
    driver: str
    version: str
    helper_pid: int | None = None
    cacert: str | None = None
    projects: dict[str, str] = field(default_factory=dict)


def ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    words = text.rpartition(")")[2].split()
    return None if words[0] == "Z" else int(words[19])


def running(directory: Path) -> Run | None:
    """Return the cloud that runs on a state directory, or None. A file left by a dead process counts for nothing."""
    path = directory / RUN
    found = read_json(path)
    if found is None:
        return None
    known = {f.name for f in fields(Run)}
    run = Run(**{k: v for k, v in found.items() if k in known})
    if ticks(run.pid) != run.started_ticks:
        return None
    if Path(f"/proc/{run.pid}").stat().st_uid != path.stat().st_uid:
        return None  # whoever may write this file must not make root signal somebody else's process
    return run


def save_run(directory: Path, run: Run) -> None:
    """Say that this process serves the directory."""
    write_json(directory / RUN, asdict(run), 0o644)


def forget_run(directory: Path) -> None:
    """Say that it does no more."""
    (directory / RUN).unlink(missing_ok=True)
