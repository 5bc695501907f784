"""Move a real guest live between two hosts on this machine: an SSH session and what is in memory survive (OBJ-2)."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import COMPUTE, RealCloud, Server, new_key, running_cloud
from tests.real.outside import missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
TICK = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1 2>/dev/null || sleep 1; done"


FORMS = [
    pytest.param((), id="one-process"),
    pytest.param(("--split",), id="roles", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=FORMS)
def cloud(request: pytest.FixtureRequest) -> Iterator[RealCloud]:
    with running_cloud(hosts=2, options=request.param) as (made, _):
        yield made


def _host(server: Server) -> str:
    shown = server.cloud.client("admin").get(server.path)["server"]
    return str(shown["OS-EXT-SRV-ATTR:host"])


def _moves(server: Server, **asked: Any) -> dict[str, Any]:
    """Move it; return the record of the migration that ended."""
    admin = server.cloud.client("admin")
    body = {"host": None, "block_migration": "auto", **asked}
    with timed(f"live migration of {server.name}"):
        admin.call("POST", f"{server.path}/action", {"os-migrateLive": body})
        server.status("ACTIVE")
    found = admin.get(f"{COMPUTE}/os-migrations", instance_uuid=server.id)["migrations"]
    newest: dict[str, Any] = found[0]
    assert newest["status"] == "completed", (newest, server.cloud.log())
    return newest


@contextmanager
def session(server: Server, log: Path) -> Iterator[Any]:
    """One SSH session that counts aloud; yields what tells the newest number."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    words = ["ssh", "-i", str(server.key), *(w for o in options for w in ("-o", o))]
    with log.open("wb") as out:
        process = subprocess.Popen([*words, f"root@{server.address}", TICK], stdout=out)
        try:

            def newest() -> int:
                assert process.poll() is None, "the session ended"
                lines = log.read_text().split()
                return int(lines[-1]) if lines else 0

            yield newest
        finally:
            process.kill()
            process.wait()


def test_a_session_survives(cloud: RealCloud, tmp_path: Path) -> None:
    """There and back: same boot, same data on the copied disk, same addresses, one session all the time."""
    key = new_key(tmp_path, cloud)
    cloud.allow("tcp", 22)
    server = cloud.boot("mover", key_name="test", config_drive=True)
    server.status("ACTIVE")
    server.attach_floating(key)
    server.ready()
    server.answers_ssh()
    server.tell("echo kept >/root/marker; sync; echo memory >/dev/shm/marker || true")
    first = _host(server)
    with session(server, tmp_path / "ticks") as newest:
        until(lambda: newest() > 3, "the session counts")
        for _ in range(2):
            before = _host(server)
            _moves(server)
            assert _host(server) != before
            seen = newest()
            until(lambda seen=seen: newest() > seen + 3, "the session goes on")  # type: ignore[misc]
    assert _host(server) == first
    assert server.tell("cat /root/marker; ls /dev/disk/by-label 2>/dev/null; true").startswith(
        "kept"
    )
    cloud.check_audit()
    server.delete()
    server.gone()
    assert [p.name for p in cloud.instances.iterdir()] == []
    assert [p.name for p in (cloud.directory / "agent-2" / "instances").iterdir()] == []
