"""`make up` installs no extras: a cloud in one process must not need them. `up` once imported the client of the bus."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

EXTRAS = ("nats", "psycopg", "pymysql", "oslo_messaging", "openstack", "eventlet", "pytest")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))"
"""Importing what is None there fails like what is not installed."""


def test_a_simulated_cloud_starts_without_extras() -> None:
    run = f"{WITHOUT}; from kilonova.cli.main import main; sys.exit(main(sys.argv[1:]))"
    options = ("--driver", "fake", "--ephemeral", "--port", "0", "--json")
    with subprocess.Popen(
        [sys.executable, "-c", run, "up", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        os.kill(process.pid, signal.SIGTERM)
        said = process.stderr.read()
    assert line, said
    assert json.loads(line)["pid"] == process.pid


def test_several_processes_say_what_they_need(tmp_path: Path) -> None:
    """They were started, ended at once, and `up` said after three minutes that nobody answers."""
    run = f"{WITHOUT}; from kilonova.cli.main import main; sys.exit(main(sys.argv[1:]))"
    options = ("--split", "--driver", "fake", "--port", "0", "--state-dir", str(tmp_path / "s"))
    done = subprocess.run(
        [sys.executable, "-c", run, "up", *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "pip install" in done.stderr


def test_what_real_guests_need_is_there_without_extras() -> None:
    names = "cloud real_host launch helper_beside console_role seeding first_content"
    modules = [f"kilonova.server.{n}" for n in names.split()]
    imports = f"import importlib; [importlib.import_module(m) for m in {modules!r}]"
    subprocess.run([sys.executable, "-c", f"{WITHOUT}; {imports}"], check=True)
