"""The files of simulated volumes and what is exported of them: records, in the world's SQLite file if it has one."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kilonova.objects.volume_orders import VolumeExport

ROOT = Path("/simulated")
"""Paths of simulated files begin so; nothing is ever there."""

CLUSTER = 1 << 16


class FakeFile(msgspec.Struct, kw_only=True, frozen=True):
    """One file. kind: "volume", "snapshot", "aside", "part"; the last two belong to what their id names."""

    kind: str
    id: str
    size_gib: int
    volume_id: str = ""  # of a snapshot
    image_id: str = ""  # that its data came from, as far as it was one

    def path(self, host: str) -> Path:
        """Return the name that it goes by on its host."""
        return ROOT / host / f"{self.kind}s" / f"{self.id}.qcow2"


class FakeExports(msgspec.Struct, kw_only=True, frozen=True):
    """What a host exports."""

    generation: int = 0
    exports: tuple[VolumeExport, ...] = ()


class Files:
    """All hosts' files. The world's lock is held by who calls."""

    def __init__(self, conn: sqlite3.Connection | None) -> None:
        self._conn = conn
        self._files: dict[tuple[str, str, str], FakeFile] = {}
        self._exports: dict[str, FakeExports] = {}
        if conn is not None:
            conn.execute(
                "CREATE TABLE IF NOT EXISTS volume_file (host TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
                " record BLOB NOT NULL, PRIMARY KEY (host, kind, id)) WITHOUT ROWID"
            )
            for host, kind, record in conn.execute("SELECT host, kind, record FROM volume_file"):
                if kind == "exports":
                    self._exports[host] = msgspec.msgpack.decode(record, type=FakeExports)
                else:
                    file = msgspec.msgpack.decode(record, type=FakeFile)
                    self._files[host, kind, file.id] = file

    def find(self, host: str, kind: str, id_: str) -> FakeFile | None:
        """Return a file of a host."""
        return self._files.get((host, kind, id_))

    def put(self, host: str, file: FakeFile) -> None:
        """Keep a file; a part of it is gone then."""
        if file.kind != "part":
            self.drop(host, "part", file.id)
        self._files[host, file.kind, file.id] = file
        self._write(host, file.kind, file.id, file)

    def drop(self, host: str, kind: str, id_: str) -> bool:
        """Remove a file; tell whether there was one."""
        gone = self._files.pop((host, kind, id_), None)
        if gone is not None and self._conn is not None:
            self._conn.execute(
                "DELETE FROM volume_file WHERE host = ? AND kind = ? AND id = ?", (host, kind, id_)
            )
        return gone is not None

    def of(self, host: str) -> list[FakeFile]:
        """Return a host's files."""
        return [f for (h, _, _), f in self._files.items() if h == host]

    def exports(self, host: str) -> FakeExports | None:
        """Return what a host exports, None when it was never told."""
        return self._exports.get(host)

    def put_exports(self, host: str, exports: FakeExports) -> None:
        """Export these and no others."""
        if self._exports.get(host) == exports:
            return
        self._exports[host] = exports
        self._write(host, "exports", "", exports)

    def all_exports(self) -> list[tuple[str, VolumeExport]]:
        """Return (host, export) of everything that is exported."""
        return [(host, e) for host, known in self._exports.items() for e in known.exports]

    def first_exports(self, host: str) -> None:
        """A host that was never told exports nothing; there is nothing to keep of that."""
        self._exports.setdefault(host, FakeExports())

    def ledger(self) -> Iterator[tuple[str, str, str, str]]:
        """Give (kind, host, volume or snapshot, name) of everything."""
        for (host, kind, id_), file in self._files.items():
            yield f"{kind} file", host, id_, str(file.path(host))
        for host, known in self._exports.items():
            for export in known.exports:
                yield "export", host, export.volume_id, export.attachment_id

    def _write(self, host: str, kind: str, id_: str, record: msgspec.Struct) -> None:
        if self._conn is not None:
            self._conn.execute(
                "INSERT OR REPLACE INTO volume_file (host, kind, id, record) VALUES (?, ?, ?, ?)",
                (host, kind, id_, msgspec.msgpack.encode(record)),
            )


def write_empty_disk(path: Path, size_gib: int) -> None:
    """Make a small, sound qcow2 file of a disk that is all zeros. source: QEMU docs, interop/qcow2, version 3.

    Header, refcount table, refcount block and L1 table take one cluster each, which is enough for 4 TiB.
    """
    size = size_gib << 30
    l1_entries = -(-size // (CLUSTER * CLUSTER // 8))
    fields = (
        (b"QFI\xfb", None),
        (3, 4), (0, 8), (0, 4), (16, 4), (size, 8), (0, 4), (l1_entries, 4), (3 * CLUSTER, 8),
        (CLUSTER, 8), (1, 4), (0, 4), (0, 8), (0, 8), (0, 8), (0, 8), (4, 4), (104, 4),
    )  # fmt: skip
    header = b"".join(
        value if isinstance(value, bytes) else value.to_bytes(width or 0, "big")
        for value, width in fields
    )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(header)
        file.seek(CLUSTER)
        file.write((2 * CLUSTER).to_bytes(8, "big"))
        file.seek(2 * CLUSTER)
        file.write((1).to_bytes(2, "big") * 4)
        file.truncate(4 * CLUSTER)
