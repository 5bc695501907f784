"""A machine that joins a deployment with real guests: this very one, by another tag and another public network."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kilonova.agent.helper import names
from kilonova.agent.helper.verbs import libvirt
from kilonova.agent.helper.verbs.purge import list_leftovers
from tests.real.cloud import RealCloud
from tests.real.machine import end_runtime
from tests.real.outside import REPOSITORY, until

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

    def join(self, cell: str = "cell1") -> None:
        """Become a host of a cell; returns when the deployment sees it up."""
        said = json.loads(self.cloud.kilonova("host", "add", HOST, "--cell", cell, "--json"))
        words = ("--join", self.cloud.run().url, "--token", said["token"])
        self.start(*words, "--agent-dir", str(self.state))
        until(self.is_up, f"the host is up{self.log.read_text()[-2000:]}")

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

    def die(self) -> None:
        """Lose its power: agent, root helper, libvirtd and every QEMU end without a word, and what a reboot ends."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(60)
        until(lambda: not self.agents(), "the agent ended with its root helper")
        end_runtime(self.tag)

    def agents(self) -> bool:
        """Tell whether a process of its agent runs."""
        done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
        return f"--config {self.config}" in done.stdout

    def guests(self) -> list[str]:
        """Return the names of the guests that run on it."""
        return [name for _, name in libvirt.guests(self.tag)]

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


@contextlib.contextmanager
def machine_beside(cloud: RealCloud) -> Iterator[Machine]:
    """Give a machine that may join a cloud; afterwards nothing of it may be left."""
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
