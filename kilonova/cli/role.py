"""What the commands that start one role share: the file, the log, signals, and word to systemd."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kilonova.cli.common import Failed
from kilonova.common import config, deployment
from kilonova.common.config import Settings
from kilonova.common.deployment import Tables
from kilonova.server import launch
from kilonova.server.plan import Plan


class Running(Protocol):
    """A role's process."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


Make = Callable[[Plan, Tables], Running]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="kilonova.toml of the deployment"
    )


def read(path: Path) -> tuple[Settings, Tables]:
    """Read settings and tables of a file. Raises BadConfig, Failed."""
    if not path.is_file():
        raise Failed(f"there is no file {path}", 2)
    return config.load(path), deployment.load(path)


def serve(name: str, args: argparse.Namespace, make: Make) -> int:
    """Run a role until SIGTERM or SIGINT. It starts in any order with the others: what is away is waited for."""
    path = Path(args.config)
    settings, tables = read(path)
    return serve_as(name, path, settings, tables, make)


def serve_as(name: str, path: Path, settings: Settings, tables: Tables, make: Make) -> int:
    """The same of what was read from ``path``."""
    from kilonova.server import configured

    plan = configured.plan_of(path, name, settings, tables)
    plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _log(settings)
    running = make(plan, tables)
    running.start()
    try:
        launch.notify("READY=1")
        stop.wait()
        launch.notify("STOPPING=1")
    finally:
        running.stop()
    return 0


def _log(settings: Settings) -> None:
    import logging

    from kilonova.common import log

    log.set_up(sys.stderr, logging.getLevelNamesMapping()[settings.log_level])
    os.environ.pop("JOURNAL_STREAM", None)
