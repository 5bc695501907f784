"""Backups of volumes outlive their cloud: a folder, and a copy of the databases or the stock client's records."""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kilonova.agent.backup_folders import MARKER
from tests import places
from tests.clients.conftest import Client, environment, stock_client
from tests.clients.test_command_line import kilonova, wait

pytestmark = pytest.mark.clients


@contextmanager
def cloud(directory: Path, folder: Path) -> Iterator[Client]:
    """Run a cloud whose backups go to a folder; give the stock client as its admin."""
    options = ("--driver", "fake", "--port", "0", "--detach", "--json")
    settings = {"KILONOVA_BACKUP_TARGET": "folder", "KILONOVA_BACKUP_FOLDER": str(folder)}
    said = kilonova("up", "--state-dir", str(directory), *options, **settings).stdout
    try:
        clouds: str = json.loads(said)["clouds_yaml"]
        with stock_client(environment(clouds, "kilonova-admin")) as client:
            yield client
    finally:
        kilonova("down", "--state-dir", str(directory))


def rests(client: Client, noun: str, one: str) -> dict[str, Any]:
    """Wait until a volume or a backup is available; return it."""
    wait(lambda: client.json(f"{noun} show {one}")["status"] == "available")
    found: dict[str, Any] = client.json(f"{noun} show {one}")
    return found


def restored(client: Client, backup: str, name: str) -> None:
    """Restore a backup into a new volume."""
    done = client.run(f"volume backup restore {backup} {name}")[0]
    assert done["code"] == 0, done
    assert rests(client, "volume", name)["size"] == 1
    rests(client, "volume backup", backup)


def bring(client: Client, record: dict[str, str]) -> tuple[int, str]:
    """Import a record: status, and the backup's id. The stock client cannot: docs/limits.md."""
    endpoints = client.json("catalog show block-storage")["endpoints"]
    base = next(e["url"] for e in endpoints if e["interface"] == "public")
    request = urllib.request.Request(
        f"{base}/backups/import_record",
        json.dumps({"backup-record": record}).encode(),
        {
            "Content-Type": "application/json",
            "X-Auth-Token": client.json("token issue")["id"],
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)["backup"]["id"]
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, ""


def test_a_cloud_is_lost(tmp_path: Path) -> None:
    """Twice: what a copy of the databases knows is there after kilonova restore, else its record brings it back."""
    with places.place("lost", 0o755) as parent:
        folder = parent / "backups"
        folder.mkdir()
        folder.chmod(0o777)  # whoever the cloud runs as
        (folder / MARKER).write_text(str(uuid.uuid4()))
        copy = parent / "copy.tar"
        with cloud(parent / "first", folder) as client:
            client.run("volume create --size 1 data")
            rests(client, "volume", "data")
            records = []
            for name, how in (("full", ""), ("more", "--incremental")):
                made = client.json(f"volume backup create --name {name} {how} data")["id"]
                assert rests(client, "volume backup", made)["container"] == "folder"
                rests(client, "volume", "data")
                records.append((made, client.json(f"volume backup record export {made}")))
            kilonova("backup", str(copy), "--state-dir", str(parent / "first"))
        assert sorted(p.stem for p in folder.glob("*.qcow2")) == sorted(r[0] for r in records)
        kilonova("down", "--purge", "--state-dir", str(parent / "first"))
        with cloud(parent / "second", folder) as client:
            for made, record in records:
                assert bring(client, record) == (201, made)
                rests(client, "volume backup", made)
            restored(client, "more", "back")
            assert bring(client, records[0][1])[0] == 400
        kilonova("restore", str(copy), "--state-dir", str(parent / "third"))
        with cloud(parent / "third", folder) as client:
            restored(client, records[-1][0], "back")
        for name in ("second", "third"):
            kilonova("down", "--purge", "--state-dir", str(parent / name))
