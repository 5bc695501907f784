"""A machine joins a deployment with real guests: ``kilonova agent --join``, as root, with a root helper of its own.

The machine is this very one: what the second host makes has another tag, and its public network another range.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.agent.helper import names
from kilonova.agent.helper.verbs import libvirt
from kilonova.agent.helper.verbs.purge import list_leftovers
from kilonova.server import state
from kilonova.server.own_hosts import own_name
from tests.real.cloud import RealCloud, running_cloud
from tests.real.outside import REPOSITORY, missing, timed, until

_why = missing()
pytestmark = [pytest.mark.real, pytest.mark.skipif(_why is not None, reason=str(_why))]
KILONOVA = [sys.executable, "-m", "kilonova.cli.main"]
HOST = "second"


class Machine:
    """A host that is about to join. base: its directory."""

    def __init__(self, base: Path, cloud: RealCloud) -> None:
        self.cloud = cloud
        self.config, self.state = base / "etc" / "agent.toml", base / "state"
        self.log = base / "agent.log"
        self.tag = names.tag_of(self.state)
        own = {"KILONOVA_PUBLIC_CIDR": f"172.29.{secrets.randbelow(256)}.0/24"}
        self.env = {**os.environ, **cloud.env, **own}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *words: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*KILONOVA, "agent", "--config", str(self.config), *words],
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=self.env,
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def down(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*KILONOVA, "down", *words, "--state-dir", str(self.state)],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def is_up(self) -> bool:
        path = "/compute/v2.1/os-services"
        found = self.cloud.client("admin").get(path, host=HOST)["services"]
        return [s["state"] for s in found] == ["up"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with running_cloud(options=("--split",)) as (cloud, _):
        base = Path(tempfile.mkdtemp(prefix="kntest-join-", dir="/tmp"))
        base.chmod(0o755)
        made = Machine(base, cloud)
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.end()
            gone = made.down("--purge")
            left = list_leftovers(made.tag, made.state / "host")
            shutil.rmtree(base)
            assert (gone.returncode, left) == (0, []), gone.stderr


def test_a_machine_joins_and_has_a_guest(machine: Machine) -> None:
    """One line; what only root may read is handed over; the guest outlives the agent and its root helper."""
    cloud = machine.cloud
    said = json.loads(cloud.kilonova("host", "add", HOST, "--json"))
    words = ("--join", cloud.run().url, "--token", said["token"], "--agent-dir", str(machine.state))
    machine.start(*words)
    until(machine.is_up, f"the host is up{machine.log.read_text()[-2000:]}")
    assert machine.config.parent.stat().st_mode & 0o077 == 0
    handed = sorted((machine.state / "host" / "handed").iterdir())
    owner = pwd.getpwnam("kilonova").pw_uid
    assert {f.name for f in handed} == {"bus.creds", "bus-ca.pem"}
    assert {(f.stat().st_uid, f.stat().st_mode & 0o777) for f in handed} == {(owner, 0o600)}
    cloud.kilonova("host", "disable", own_name())
    server = cloud.boot("far")
    with timed("a guest on the host that joined"):
        server.status("ACTIVE")
        assert "source=http" in server.ready()
    path = f"/compute/v2.1/servers/{server.id}"
    assert cloud.client("admin").get(path)["server"]["OS-EXT-SRV-ATTR:host"] == HOST

    def guests() -> list[tuple[int, str]]:
        return libvirt.guests(machine.tag)

    before = guests()
    assert [name for _, name in before] == [f"kn-{server.id}"]
    assert "an agent runs on" in machine.down("--purge").stderr
    assert machine.end(signal.SIGKILL) != 0
    child = f"--config {machine.config}"
    until(lambda: child not in _commands(), "the agent ended with its root helper")
    machine.start()
    server.act("reboot", {"type": "HARD"})
    server.status("ACTIVE", 120)
    server.ready(boots=2)
    assert machine.end() == 0
    assert [name for _, name in guests()] == [f"kn-{server.id}"]
    machine.start()
    server.delete()
    server.gone(120)
    until(lambda: guests() == [], "the guest is gone")
    cloud.kilonova("host", "enable", own_name())
    assert state.deployment(machine.state) is not None


def _commands() -> str:
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return done.stdout
