"""The stock ``openstack`` client walks through a simulated cloud: every command of the acceptance walk."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Client, environment
from tests.clients.walk import SECTIONS, Step

pytestmark = pytest.mark.clients
GUARD_S = 30.0
PUBLIC_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl walk@example"
)


@pytest.fixture(scope="module")
def people(
    demo: Client, admin: Client, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Client]:
    """Both users, who share what they keep, and the files that commands name."""
    files = tmp_path_factory.mktemp("walk")
    (files / "key.pub").write_text(PUBLIC_KEY + "\n")
    (files / "disk.raw").write_bytes(bytes(1 << 20))
    (files / "data").write_text("#!/bin/sh\necho hello\n")
    admin.names = demo.names
    demo.names.update(
        key=str(files / "key.pub"),
        disk=str(files / "disk.raw"),
        data=str(files / "data"),
        saved=str(files / "saved.raw"),
    )
    return {"demo": demo, "admin": admin}


def wait(ask: Callable[[], bool], what: str) -> str | None:
    """Ask until it holds; return what was waited for in vain."""
    end = time.monotonic() + GUARD_S
    while not ask():
        if time.monotonic() > end:
            return f"waited in vain for {what}"
        time.sleep(0.1)
    return None


def _rests(client: Client, status: str, noun: str, one: str) -> bool:
    """Tell whether something of the volume service has a status, or is gone."""
    kind = "volume" if noun == "volume" else f"volume {noun}"
    done = client.run(f"{kind} show {one} -f json")[0]
    if done["code"] != 0:
        return status == "gone"
    return bool(json.loads(done["out"])["status"] == status)


def take(client: Client, command: str, expected: str) -> str | None:
    """Take one step of the walk; return what is wrong with it."""
    if command.startswith("~"):
        words = command[1:].format_map(client.names).split()
        if len(words) == 3:
            return wait(lambda: _rests(client, *words), command)
        status, server = words
        return wait(lambda: client.json(f"server show {server}")["status"] == status, command)
    fails = command.startswith("!")
    line, _, keep = command.lstrip("!").partition(" >")
    try:
        done = client.run(line)[0]
    except KeyError as exc:
        return f"openstack {line}: an earlier command did not give {exc}"
    if (done["code"] != 0) is not fails:
        return f"openstack {line}: exit code {done['code']}: {done['err'].strip()[-300:]}"
    if "Traceback" in done["err"] or "HTTP 500" in done["err"]:
        return f"openstack {line}: {done['err'][-300:]}"
    said = done["out"] + done["err"]
    if expected.format_map(client.names) not in said:
        return f"openstack {line}: {expected!r} is not in\n{said[-600:]}"
    if keep:
        name, _, field = keep.partition("=")
        value: Any = json.loads(done["out"])
        found = value[0] if isinstance(value, list) else value
        client.names[name] = str(found[field or "id"])
    return None


@pytest.mark.parametrize("section", SECTIONS)
def test_walk(people: dict[str, Client], section: str) -> None:
    """Every command works and prints what it prints against a real cloud; all that do not are named at once."""
    steps: tuple[Step, ...] = SECTIONS[section]
    wrong = [fault for who, line, text in steps if (fault := take(people[who], line, text))]
    assert not wrong, f"{len(wrong)} of {len(steps)} commands:\n" + "\n".join(wrong)


def test_nothing_is_left_behind(cloud: dict[str, Any], people: dict[str, Client]) -> None:
    """After the walk: no server, no port of a server, a clean audit."""
    assert people["admin"].json("server list --all-projects") == []
    command = [
        sys.executable,
        "-m",
        "kilonova.cli.main",
        "audit",
        "--state-dir",
        cloud["state_dir"],
        "--json",
    ]
    assert (
        wait(
            lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
            "audit",
        )
        is None
    )


def test_the_program_itself(cloud: dict[str, Any]) -> None:
    """The client as a process, configured by the two lines that ``up`` prints."""
    program = Path(sys.executable).with_name("openstack")
    done = subprocess.run(
        [str(program), "server", "list", "--long"],
        env=environment(cloud["clouds_yaml"], "kilonova"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\s*", done.stderr)


def test_openrc(cloud: dict[str, Any]) -> None:
    """``source openrc`` is enough too."""
    program = Path(sys.executable).with_name("openstack")
    done = subprocess.run(
        ["/bin/sh", "-c", f". {cloud['openrc']} && {program} token issue -f value -c project_id"],
        env={k: v for k, v in environment("/nonexistent", "x").items() if not k.startswith("OS_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[0-9a-f]{32}\n", done.stdout)
