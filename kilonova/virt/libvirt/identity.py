"""Who this host is for other hosts' QEMUs, and they for ours: a key, a certificate, the authority, as QEMU reads them.

DIRECTORY/ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem. QEMU's group may read them:
guests of this host reach volumes as this host. QEMU reads them when a disk is attached or a daemon starts, so a
renewed certificate touches nothing that runs. The key stays the same.
source: QEMU docs, tls-creds-x509; libvirt, qemu.conf nbd_tls_x509_cert_dir.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kilonova.common import host_certificates
from kilonova.virt.libvirt.disks import Owner

_ENDS = ("server", "client")


@dataclass(frozen=True)
class HostIdentity:
    """directory: returns where; it exists. owner: QEMU's group."""

    host: str
    directory: Callable[[], Path]
    owner: Owner

    def request(self) -> str:
        """Return a request for a certificate of this host's key, which is made the first time."""
        path = self.directory() / "server-key.pem"
        known = path.read_text() if path.exists() else None
        key, asked = host_certificates.new_request(self.host, known)
        for end in _ENDS:
            if not (self.directory() / f"{end}-key.pem").exists():
                self._write(f"{end}-key.pem", key)
        return asked

    def take(self, certificate: str, authority: str) -> None:
        """Keep what was signed. Repeatable."""
        self._write("ca-cert.pem", authority)
        for end in _ENDS:
            self._write(f"{end}-cert.pem", certificate)

    def ready(self) -> bool:
        """Tell whether there is a certificate."""
        return (self.directory() / "client-cert.pem").exists()

    def _write(self, name: str, text: str) -> None:
        path = self.directory() / name
        part = path.with_name(f"{name}.part")
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.owner.give(part, write=False)
        os.replace(part, path)
