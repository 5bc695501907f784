"""What the root helper knows: the tag, its directory, the users. Given on its command line, never by a client."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """directory_root: root's own part of the state directory. owner: user name of the cloud process."""

    tag: str
    directory_root: Path
    owner: str
    qemu_user: str
    qemu_group: str
    resolv_conf: str = "/etc/resolv.conf"

    def directory(self, *parts: str, mode: int = 0o700) -> Path:
        """Return a directory below ours, made if it is missing."""
        path = self.directory_root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        os.chmod(path, mode)
        return path

    @property
    def runtime_root(self) -> Path:
        """What needs to live only until the next boot, and what unprivileged daemons must reach."""
        return Path(f"/run/kilonova-{self.tag}")

    def runtime(self, *parts: str) -> Path:
        """Return a directory below the runtime root (root, 0755), made if it is missing."""
        self.runtime_root.mkdir(mode=0o755, exist_ok=True)
        path = self.runtime_root
        for part in parts:
            path = path / part
            path.mkdir(mode=0o755, exist_ok=True)
        return path

    def note_once(self, name: str, value: str) -> None:
        """Remember a value of the machine as it was before us; the first one stays."""
        path = self.directory("before") / name
        if not path.exists():
            path.write_text(value)

    def noted(self, name: str) -> str | None:
        path = self.directory_root / "before" / name
        return path.read_text() if path.exists() else None

    @property
    def dns_user(self) -> str:
        """The user that dnsmasq drops to."""
        for name in ("dnsmasq", "nobody"):
            try:
                return pwd.getpwnam(name).pw_name
            except KeyError:
                continue
        return "root"
