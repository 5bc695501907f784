"""The documents that a host serves: one 0600 file per server, so that guests are answered without the control plane."""

import contextlib
import os
import threading
from pathlib import Path

import msgspec

from kilonova.common.log import get_logger
from kilonova.objects.base import IncompatibleVersion, decode, encode
from kilonova.objects.guest import DeviceAddress, MetadataDocument

log = get_logger(__name__)


class _Kept(msgspec.Struct):
    document: msgspec.Raw
    devices: list[DeviceAddress] = []
    password: str | None = None


class Served(msgspec.Struct, frozen=True):
    """What is served of one server."""

    document: MetadataDocument
    devices: tuple[DeviceAddress, ...]
    password: str | None


class FileMetadataStore:
    """A MetadataStore in files; safe from any thread."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        os.chmod(directory, 0o700)
        self._directory = directory
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        self._by_address: dict[tuple[str, str], str] = {}  # (network id, address) -> server id
        for path in directory.glob("*.json"):
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            document = decode(kept.document, MetadataDocument)
        except (msgspec.MsgspecError, IncompatibleVersion) as exc:
            log.warning(
                "a metadata document cannot be read", extra={"path": str(path), "why": str(exc)}
            )
            return
        self._take(Served(document, tuple(kept.devices), kept.password))

    def _take(self, served: Served) -> None:
        server_id = served.document.server_id
        self._drop(server_id)
        self._served[server_id] = served
        for nic in served.document.networks:
            for address in nic.addresses:
                self._by_address[nic.network_id, address.address] = server_id

    def _drop(self, server_id: str) -> None:
        old = self._served.pop(server_id, None)
        for nic in old.document.networks if old is not None else ():
            for address in nic.addresses:
                if self._by_address.get((nic.network_id, address.address)) == server_id:
                    del self._by_address[nic.network_id, address.address]

    def put(self, document: MetadataDocument, devices: tuple[DeviceAddress, ...] | None) -> None:
        """Keep a document unless a newer generation is kept; devices None: as they are."""
        document = document.replace(admin_password=None)  # only the config drive tells it
        with self._lock:
            old = self._served.get(document.server_id)
            if old is not None and old.document.generation > document.generation:
                document = old.document
            kept = devices if devices is not None else (old.devices if old is not None else ())
            self._write(Served(document, kept, old.password if old is not None else None))

    def _write(self, served: Served) -> None:
        body = msgspec.json.encode(
            _Kept(msgspec.Raw(encode(served.document)), list(served.devices), served.password)
        )
        path = self._directory / f"{served.document.server_id}.json"
        scratch = path.with_suffix(".new")
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        self._take(served)

    def plugged(self, server_id: str, device: DeviceAddress) -> None:
        """Add a device to a server's, in place of one of the same MAC or serial; fine when there is no document."""
        with self._lock:
            old = self._served.get(server_id)
            if old is not None:
                others = _without(old.devices, device.mac or device.serial)
                self._write(Served(old.document, (*others, device), old.password))

    def unplugged(self, server_id: str, name: str) -> None:
        """Take the device of this MAC or serial off a server's; fine when there is none."""
        with self._lock:
            old = self._served.get(server_id)
            left = () if old is None else _without(old.devices, name)
            if old is not None and left != old.devices:
                self._write(Served(old.document, left, old.password))

    def remove(self, server_id: str) -> None:
        """Forget a server's document; fine when there is none."""
        with self._lock:
            self._drop(server_id)
            with contextlib.suppress(FileNotFoundError):
                (self._directory / f"{server_id}.json").unlink()

    def find(self, network_id: str, address: str) -> Served | None:
        """Return what is served to this address in this network."""
        with self._lock:
            server_id = self._by_address.get((network_id, address))
            return self._served.get(server_id) if server_id is not None else None

    def get(self, server_id: str) -> Served | None:
        with self._lock:
            return self._served.get(server_id)

    def set_password(self, server_id: str, password: str) -> bool:
        """Keep the (encrypted) password that a guest posted; False when there is one already or no such server."""
        with self._lock:
            old = self._served.get(server_id)
            if old is None or old.password is not None:
                return False
            self._write(Served(old.document, old.devices, password))
            return True

    def password(self, server_id: str) -> str:
        """Return the password that a guest posted, "" when there is none."""
        with self._lock:
            served = self._served.get(server_id)
        return "" if served is None else served.password or ""

    def clear_password(self, server_id: str) -> None:
        """Forget the posted password (DELETE os-server-password)."""
        with self._lock:
            old = self._served.get(server_id)
            if old is not None and old.password is not None:
                self._write(Served(old.document, old.devices, None))


def _without(devices: tuple[DeviceAddress, ...], name: str | None) -> tuple[DeviceAddress, ...]:
    return tuple(d for d in devices if name is None or name not in (d.mac, d.serial))
