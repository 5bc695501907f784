"""Bring the databases of a stopped cloud to this release. 'up' does it by itself; this is for those who go in steps.

kilonova db upgrade
"""

import argparse

from kilonova.cli import output
from kilonova.cli.common import Failed, common_options
from kilonova.server import maintenance, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("upgrade",))


def run(args: argparse.Namespace) -> int:
    """Do it; refused while the cloud runs."""
    directory = state.chosen(args.state_dir)
    if state.running(directory) is not None:
        raise Failed("the cloud runs; 'kilonova down' first")
    done = maintenance.upgrade(directory)
    if args.json:
        output.print_json(done)
    else:
        output.table(["database", "schema"], sorted(done.items()))
    return 0
