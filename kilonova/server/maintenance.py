"""What is done to a state directory from outside: upgrade its databases, copy it, put a copy back."""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kilonova.common.errors import Conflict, KilonovaError
from kilonova.server import ground, privileges, state

MANIFEST = "backup.json"
_FILES = (state.DEPLOYMENT, state.PASSWORDS, "secret.key", "kilonova.toml")
_TREES = ("keys", "tls", "metadata")


class NotPossible(KilonovaError):
    """The copy cannot be made or put back; the message says why."""

    code = "maintenance"


def upgrade(directory: Path) -> dict[str, str]:
    """Bring every database to this release's schema; return name -> "ok". Raises Conflict while the cloud runs."""
    from kilonova.db import versions
    from kilonova.db.schema import cell, world
    from kilonova.db.sqlite import SqliteDatabase
    from kilonova.saga.lease import StateLock

    if not (directory / "db").is_dir():
        raise NotPossible(f"there are no databases in {directory}")
    state.deployment(directory)
    lock = StateLock(directory)
    done = {}
    try:
        for path in sorted((directory / "db").glob("*.db")):
            db = SqliteDatabase(path, path.stem)
            try:
                if path.stem == "global":
                    versions.ensure(db, world.METADATA)
                elif path.stem.startswith("cell"):
                    versions.ensure(db, cell.METADATA)
                else:
                    _ensure_neighbour(db)
            finally:
                db.close()
            done[path.stem] = "ok"
    finally:
        lock.close()
    return done


def _ensure_neighbour(db: object) -> None:
    from kilonova.db import versions
    from kilonova.db.sqlite import SqliteDatabase

    if not isinstance(db, SqliteDatabase):
        return
    if db.name == "identity":
        from kilonova.identity.embedded import schema as identity

        versions.ensure(db, identity.metadata)
    elif db.name == "image":
        from kilonova.image.embedded import schema as image

        versions.ensure(db, image.metadata)
    elif db.name == "network":
        from kilonova.network.embedded import schema as network
        from kilonova.network.embedded.upgrades import UPGRADES

        versions.ensure(db, network.metadata, UPGRADES)
    elif db.name == "volume":
        from kilonova.volume.embedded import schema as volume
        from kilonova.volume.embedded.upgrades import UPGRADES as VOLUME_UPGRADES

        versions.ensure(db, volume.metadata, VOLUME_UPGRADES)


# -- copies ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _still(paths: list[Path]) -> Iterator[None]:
    """Hold the writer's lock of every database at once: what is read meanwhile is one moment of all of them."""
    with contextlib.ExitStack() as held:
        for path in paths:
            conn = sqlite3.connect(path, isolation_level=None, timeout=30)
            held.callback(conn.close)
            conn.execute("BEGIN IMMEDIATE")
            held.callback(conn.execute, "ROLLBACK")
        yield


def backup(directory: Path, target: Path, *, images: bool = True) -> int:
    """Write a tar file with databases, keys and images; return its size in bytes. The cloud may run meanwhile.

    All databases are copied at one moment, so the copy is what a kill at that moment would have left, and a start on it
    finishes or unwinds what was under way. Guests' disks are not in it. target appears whole or not at all, mode 0600.
    """
    made = state.deployment(directory)
    if made is None:
        raise NotPossible(f"there is no cloud in {directory}")
    if made.split and made.database != "sqlite":
        raise NotPossible(
            "this cloud's databases are on PostgreSQL: dump each with pg_dump, cells first and global last, and copy "
            "secret.key, keys and images (docs/deployment.md)"
        )
    databases = sorted((directory / "db").glob("*.db"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".kilonova-backup-") as work:
        copies = Path(work) / "db"
        copies.mkdir()
        with _still(databases):
            for path in databases:
                _copy_database(path, copies / path.name)
        guests = directory / "guests.db"  # what simulated hosts run
        if guests.exists():
            _copy_database(guests, Path(work) / guests.name)
        part = Path(work) / "backup.tar"
        with tarfile.open(part, "w") as tar:
            _add_text(
                tar,
                MANIFEST,
                json.dumps(
                    {"format": state.FORMAT, "version": made.version, "made_at": time.time()}
                ),
            )
            for path in sorted(copies.iterdir()):
                tar.add(path, f"db/{path.name}")
            if guests.exists():
                tar.add(Path(work) / guests.name, guests.name)
            for name in (*_FILES, *_TREES, *(("images",) if images else ())):
                if (directory / name).exists():
                    tar.add(directory / name, name)
        os.chmod(part, 0o600)
        size = part.stat().st_size
        os.replace(part, target)
    return size


def _copy_database(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as a,
        contextlib.closing(sqlite3.connect(target)) as b,
    ):
        a.backup(b)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(text.encode()), int(time.time()), 0o600
    tar.addfile(entry, io.BytesIO(text.encode()))


def _unpack(tar: tarfile.TarFile, directory: Path) -> None:
    """Write plain files and directories below a directory, nothing else and nowhere else. Raises NotPossible.

    ``extractall(filter="data")`` is not there in the Python of Debian 12 (3.11.2).
    """
    for member in tar:
        parts = Path(member.name).parts
        plain = member.isfile() or member.isdir()
        content = tar.extractfile(member) if member.isfile() else None
        if not plain or not parts or ".." in parts or parts[0].startswith("/"):
            raise NotPossible(f"{member.name!r} has no place in a backup")
        path = directory / member.name
        if content is None:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700 | member.mode & 0o055)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("xb") as f:
            shutil.copyfileobj(content, f)
        path.chmod(0o600 | member.mode & 0o155)


def restore(source: Path, directory: Path) -> None:
    """Make a state directory out of a copy. Refuses one that is not empty, and a newer release's copy."""
    if directory.exists() and any(directory.iterdir()):
        raise NotPossible(
            f"{directory} is not empty; choose another --state-dir, or 'kilonova down --purge' first"
        )
    try:
        with tarfile.open(source) as tar:
            member = tar.extractfile(MANIFEST)
            manifest = json.loads(member.read()) if member is not None else {}
            if not isinstance(manifest.get("format"), int) or manifest["format"] > state.FORMAT:
                raise Conflict(
                    f"{source} was made by Kilonova {manifest.get('version', '?')}, newer than this one"
                )
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                _unpack(tar, directory)
            except BaseException:
                shutil.rmtree(directory)
                raise
    except (tarfile.TarError, KeyError, ValueError) as exc:
        raise NotPossible(f"{source} is not a backup of Kilonova: {exc}") from exc
    (directory / MANIFEST).unlink()
    if os.geteuid() == 0:
        made = state.deployment(directory)
        libvirt = made is not None and made.driver == "libvirt"
        owner = privileges.find_user(ground.cloud_user(libvirt=libvirt, ephemeral=False))
        if owner is None:
            return
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
