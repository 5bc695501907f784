"""One simulated cloud for all client tests, as a process; the stock client and openstacksdk beside it."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KILONOVA = [sys.executable, "-m", "kilonova.cli.main"]


def environment(clouds: str, cloud: str) -> dict[str, str]:
    """Return an environment in which the client finds our cloud and no other."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    return {**kept, "OS_CLIENT_CONFIG_FILE": clouds, "OS_CLOUD": cloud, "COLUMNS": "200"}


@pytest.fixture(scope="session")
def cloud() -> Iterator[dict[str, Any]]:
    """Give what ``kilonova up --json`` says of a cloud that keeps nothing."""
    command = [*KILONOVA, "up", "--driver", "fake", "--ephemeral", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the cloud did not start"
        what = json.loads(line)
        yield what
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not Path(what["state_dir"]).exists()


@dataclass
class Client:
    """The stock client as one user; ``names`` keeps what commands printed, for later ones."""

    process: subprocess.Popen[str]
    names: dict[str, str] = field(default_factory=dict)

    def run(self, *commands: str) -> list[dict[str, Any]]:
        """Run command lines; {name} in them stands for what was kept."""
        assert self.process.stdin is not None and self.process.stdout is not None
        argv = [shlex.split(c.format_map(self.names)) for c in commands]
        self.process.stdin.write(json.dumps(argv) + "\n")
        self.process.stdin.flush()
        answer: list[dict[str, Any]] = json.loads(self.process.stdout.readline())
        return answer

    def json(self, command: str) -> Any:
        """Run one command that must succeed; return what it prints as JSON."""
        done = self.run(f"{command} -f json")[0]
        assert done["code"] == 0, f"openstack {command}\n{done['err']}"
        return json.loads(done["out"])


@contextlib.contextmanager
def stock_client(env: dict[str, str]) -> Iterator[Client]:
    """The stock client as one long process with an environment."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).parent / "runner.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def demo(cloud: dict[str, Any]) -> Iterator[Client]:
    """The stock client as the demo user."""
    with stock_client(environment(cloud["clouds_yaml"], "kilonova")) as client:
        yield client


@pytest.fixture(scope="session")
def admin(cloud: dict[str, Any]) -> Iterator[Client]:
    """The stock client as admin."""
    with stock_client(environment(cloud["clouds_yaml"], "kilonova-admin")) as client:
        yield client
