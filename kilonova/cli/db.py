"""Bring the databases of a stopped cloud to this release. 'up' does it by itself; this is for those who go in steps.

kilonova db upgrade
kilonova db upgrade --config FILE     of a deployment: makes what is missing, and the first content of a new one
"""

import argparse
from pathlib import Path

from kilonova.cli import output
from kilonova.cli.common import Failed, common_options
from kilonova.server import maintenance, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("upgrade",))
    parser.add_argument("--config", metavar="FILE", help="kilonova.toml of a deployment")


def run(args: argparse.Namespace) -> int:
    """Do it; refused while the cloud runs."""
    if args.config:
        return _deployment(args)
    directory = state.chosen(args.state_dir)
    if state.running(directory) is not None:
        raise Failed("the cloud runs; 'kilonova down' first")
    done = maintenance.upgrade(directory)
    if args.json:
        output.print_json(done)
    else:
        output.table(["database", "schema"], sorted(done.items()))
    return 0


def _deployment(args: argparse.Namespace) -> int:
    """Bring the databases of a deployment to this release, and seed a new one. Safe to repeat."""
    from kilonova.cli import role
    from kilonova.server import seeding

    path = Path(args.config)
    settings, tables = role.read(path)
    seeding.prepare(path, settings, tables)
    names = sorted(tables.databases)
    if args.json:
        output.print_json(dict.fromkeys(names, "ok"))
    else:
        output.table(["database", "schema"], [(n, "ok") for n in names])
    return 0
