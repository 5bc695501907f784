"""The command line itself: what a person types, what it says, what it leaves. All on simulated hosts."""

import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.cli import service
from kilonova.cli.client import connect
from kilonova.server import maintenance, state
from tests import places
from tests.clients.conftest import KILONOVA, ROOT

GUARD_S = 30.0


def kilonova(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command and check its exit code; a stack trace is never an answer."""
    done = subprocess.run(
        [*KILONOVA, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def wait(ask: Callable[[], bool]) -> None:
    """Ask until it holds."""
    end = time.monotonic() + GUARD_S
    while not ask():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A state directory that any user can reach, gone afterwards, and the cloud on it too."""
    with places.place("up", 0o755) as parent:
        path = parent / "state"
        yield path
        kilonova("down", "--state-dir", str(path))


def up(directory: Path, *words: str) -> dict[str, Any]:
    """Start a simulated cloud in the background."""
    options = [
        "--state-dir",
        str(directory),
        "--driver",
        "fake",
        "--port",
        "0",
        "--detach",
        "--json",
    ]
    found: dict[str, Any] = json.loads(kilonova("up", *options, *words).stdout)
    return found


def test_up_is_repeatable_and_down_too(directory: Path) -> None:
    """The second up finds the first; the second down has nothing to do; status has an exit code of its own."""
    first = up(directory)
    second = up(directory)
    assert (first["already_running"], second["already_running"]) == (False, True)
    assert first["pid"] == second["pid"]
    assert "takes work" in kilonova("status", "--state-dir", str(directory)).stdout
    assert "Stopped" in kilonova("down", "--state-dir", str(directory)).stdout
    assert "No cloud runs" in kilonova("down", "--state-dir", str(directory)).stdout
    kilonova("status", "--state-dir", str(directory), code=3)
    kilonova("audit", "--state-dir", str(directory), code=3)


def test_a_detached_cloud_holds_nothing_of_its_callers(directory: Path) -> None:
    """Who starts it under a lock, or reads its output through a pipe, is not kept waiting when up returns."""
    reader, writer = os.pipe()
    options = ["--state-dir", str(directory), "--driver", "fake", "--port", "0", "--detach"]
    with subprocess.Popen(
        [*KILONOVA, "up", *options],
        pass_fds=[writer],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    ) as process:
        os.close(writer)
        assert process.wait(60) == 0
    assert state.running(directory) is not None
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b"", "the cloud still holds the other end"
    os.close(reader)


def test_hello_makes_a_failed_server_anew(directory: Path) -> None:
    """A first try that failed does not stand in the way of the next."""
    up(directory)
    client = connect(directory, "demo")
    image = client.get("/image/v2/images")["images"][0]["id"]
    body = {
        "name": "hello",
        "flavorRef": client.get("/compute/v2.1/flavors")["flavors"][0]["id"],
        "imageRef": image,
        "networks": "none",
        "metadata": {"kilonova:fault": "build_fail_everywhere"},
    }
    failed = client.call("POST", "/compute/v2.1/servers", {"server": body})["server"]["id"]
    path = f"/compute/v2.1/servers/{failed}"
    wait(lambda: client.get(path)["server"]["status"] == "ERROR")
    said = json.loads(kilonova("hello", "--state-dir", str(directory), "--json").stdout)
    assert said["server"] != failed
    assert [s["id"] for s in client.get("/compute/v2.1/servers")["servers"]] == [said["server"]]


def test_secrets_are_for_their_owner_alone(directory: Path) -> None:
    """S35: passwords, keys and clouds.yaml have mode 0600 or lie behind a closed directory."""
    up(directory)
    for name in ("passwords.json", "clouds.yaml", "openrc", "secret.key"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name
    assert (directory / "db").stat().st_mode & 0o077 == 0
    log = (directory / "logs" / "kilonova.log").read_text()
    passwords = json.loads((directory / "passwords.json").read_text())
    assert not any(word in log for word in passwords.values())


def test_kill_and_up_again(directory: Path) -> None:
    """A state directory survives kill -9: same projects, same server, clean audit."""
    what = up(directory)
    kilonova("hello", "--state-dir", str(directory), "--json")
    os.kill(what["pid"], signal.SIGKILL)
    wait(lambda: state.running(directory) is None)
    again = up(directory)
    assert again["pid"] != what["pid"]
    server = json.loads(kilonova("hello", "--state-dir", str(directory), "--json").stdout)
    assert server["floating_ip"]
    wait(lambda: not json.loads(_audit(directory))["findings"])
    shown = json.loads(kilonova("status", "--state-dir", str(directory), "--json").stdout)
    assert shown["servers"]["active"] == 1


def _audit(directory: Path) -> str:
    done = subprocess.run(
        [*KILONOVA, "audit", "--state-dir", str(directory), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    return done.stdout


def test_operations_can_be_looked_at(directory: Path) -> None:
    """operation list and show, host and cell list, explain: each prints something a person can read."""
    up(directory, "--cells", "2", "--hosts", "2")
    where = ("--state-dir", str(directory))
    kilonova("hello", *where, "--json")
    [operation] = json.loads(kilonova("operation", "list", *where, "--json").stdout)
    shown = kilonova("operation", "show", operation["id"], *where).stdout
    assert "server_create" in shown and "build" in shown
    hosts = kilonova("host", "list", *where).stdout
    assert all(f"cell{c}-host{h}" in hosts for c in (1, 2) for h in (1, 2))
    assert "cell2" in kilonova("cell", "list", *where).stdout
    assert "fits: True" in kilonova("explain", "--flavor", "m1.tiny", *where).stdout
    refused = kilonova("operation", "show", "nonsense", *where, code=1)
    assert "could not be found" in refused.stderr
    kilonova("host", "disable", "cell1-host1", "--reason", "test", *where)
    assert "disabled" in kilonova("host", "list", *where).stdout


def test_backup_and_restore(directory: Path) -> None:
    """A copy made while the cloud runs starts elsewhere with the same users and servers."""
    up(directory)
    where = ("--state-dir", str(directory))
    kilonova("hello", *where, "--json")
    copy = directory.parent / "copy.tar"
    kilonova("backup", str(copy), *where)
    assert copy.stat().st_mode & 0o077 == 0
    kilonova("restore", str(copy), *where, code=1)
    other = directory.parent / "other"
    kilonova("restore", str(copy), "--state-dir", str(other))
    up(other)
    try:
        shown = json.loads(kilonova("status", "--state-dir", str(other), "--json").stdout)
        assert shown["servers"]["active"] == 1
    finally:
        kilonova("down", "--purge", "--state-dir", str(other))
    assert not other.exists()
    bad = directory.parent / "bad.tar"
    bad.write_bytes(b"not a tar file")
    assert "not a backup" in kilonova("restore", str(bad), "--state-dir", str(other), code=1).stderr


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "db/../../outside", "link"])
def test_a_backup_that_reaches_outside(tmp_path: Path, name: str) -> None:
    """A made-up backup puts nothing beside the state directory, and leaves none."""
    made = tmp_path / "made.tar"
    with tarfile.open(made, "w") as tar:
        text = json.dumps({"format": 1, "version": "x"}).encode()
        for entry_name, content in ((maintenance.MANIFEST, text), (name, b"x")):
            entry = tarfile.TarInfo(entry_name)
            entry.size = len(content)
            if entry_name == "link":
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc", 0
            tar.addfile(entry, io.BytesIO(content))
    other = tmp_path / "deep" / "other"
    said = kilonova("restore", str(made), "--state-dir", str(other), code=1).stderr
    assert "has no place in a backup" in said
    assert not other.exists() and not (tmp_path / "outside").exists()
    assert not (tmp_path / "deep" / "outside").exists()


def test_a_newer_state_directory_is_refused(directory: Path) -> None:
    """Neither a newer deployment nor a newer database is touched; the message says what to do."""
    up(directory)
    kilonova("down", "--state-dir", str(directory))
    with sqlite3.connect(directory / "db" / "global.db") as conn:
        conn.execute("PRAGMA user_version=999")
    conn.close()
    options = ("--state-dir", str(directory), "--driver", "fake", "--port", "0", "--detach")
    assert "newer release" in kilonova("up", *options, code=1).stderr
    made = json.loads((directory / "deployment.json").read_text())
    (directory / "deployment.json").write_text(json.dumps({**made, "format": 999}))
    assert "newer than this one" in kilonova("up", *options, code=1).stderr
    (directory / "deployment.json").write_text(json.dumps(made))


def test_a_port_in_use_is_named(directory: Path) -> None:
    """The message has port, reason and what to do; nothing is left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ("--driver", "fake", "--port", port, "--detach", "--state-dir", str(directory))
        said = kilonova("up", *options, code=1).stderr
    assert port in said and "--port" in said
    assert state.running(directory) is None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """No stack trace, the path and the reason."""
    (tmp_path / "file").write_text("")
    said = kilonova(
        "up", "--driver", "fake", "--state-dir", str(tmp_path / "file" / "x"), code=1
    ).stderr
    assert str(tmp_path / "file" / "x") in said and "--state-dir" in said


def test_ephemeral_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM removes it at once; what kill -9 left, the next one sweeps."""
    with places.place("tmpdir", 0o777) as place:
        options = ("--driver", "fake", "--ephemeral", "--port", "0", "--json", "--detach")
        first = json.loads(kilonova("up", *options, TMPDIR=str(place)).stdout)
        os.kill(first["pid"], signal.SIGKILL)
        wait(lambda: state.ticks(first["pid"]) is None)
        assert Path(first["state_dir"]).exists()
        second = json.loads(kilonova("up", *options, TMPDIR=str(place)).stdout)
        assert not Path(first["state_dir"]).exists()
        os.kill(second["pid"], signal.SIGTERM)
        wait(lambda: state.ticks(second["pid"]) is None)
        assert list(place.iterdir()) == []


def test_tls_with_an_authority_of_our_own(directory: Path) -> None:
    """--tls auto: clouds.yaml names the authority, and it is enough to trust the cloud."""
    what = up(directory, "--tls", "auto")
    assert what["url"].startswith("https://127.0.0.1:")
    assert what["cacert"] in (directory / "clouds.yaml").read_text()
    assert "takes work" in kilonova("status", "--state-dir", str(directory)).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "--cells", "0"], "--cells"),
        (["up", "--build-time", "-1"], "--build-time"),
        (["up", "--port", "99999"], "--port"),
        (["up", "--driver", "vmware"], "--driver"),
        (["up", "--ephemeral", "--driver", "libvirt"], "--driver fake"),
        (["nonsense"], "no command 'nonsense'"),
        (["operation", "show"], "which operation"),
    ],
)
def test_a_wrong_command_line_is_explained(words: list[str], said: str) -> None:
    """Exit code 2 and the option that is wrong."""
    assert said in kilonova(*words, code=2).stderr


def test_configuration_is_checked(tmp_path: Path) -> None:
    """SM-13: file, key and fault; a good one is said to be good."""
    path = tmp_path / "kilonova.toml"
    path.write_text("api_threads = 0\n")
    said = kilonova("config", "check", "--config", str(path), code=1).stderr
    assert str(path) in said and "api_threads" in said
    path.write_text("api_threads = 2\n")
    assert "correct" in kilonova("config", "check", "--config", str(path)).stdout
    assert "api_threads" in kilonova("config", "show", "--config", str(path)).stdout


def test_the_systemd_unit() -> None:
    """The unit in packaging/ is what ``service install`` writes, and systemd-analyze accepts it where it is there."""
    packaged = (ROOT / "packaging" / "kilonova.service").read_text()
    assert packaged == service.unit_text("/usr/local/bin/kilonova", Path("/var/lib/kilonova"), [])
    program = sys.executable  # a unit whose program exists
    assert service.check(service.unit_text(program, Path("/var/lib/kilonova"), [])) is None
    if shutil.which("systemd-analyze"):
        broken = packaged.replace("Type=notify", "Type=nonsense")
        assert service.check(broken) is not None


def test_doctor_shows_a_table() -> None:
    """Each row has a mark; each ✗ that stands in the way says how to mend it."""
    done = subprocess.run(
        [*KILONOVA, "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
    )
    rows = json.loads(done.stdout)
    assert {"programs", "libvirt", "KVM", "disk"} <= {row["name"] for row in rows}
    assert all(row["mend"] for row in rows if row["required"] and not row["ok"])
