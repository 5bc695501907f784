"""List cells: how many hosts and servers each has, and whether its database answers.

kilonova cell list
"""

import argparse

from kilonova.cli import output
from kilonova.cli.client import connect
from kilonova.cli.common import common_options
from kilonova.cli.status import STATUS
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("list",))


def run(args: argparse.Namespace) -> int:
    """Show them."""
    cells = connect(state.chosen(args.state_dir)).get(STATUS)["cells"]
    if args.json:
        output.print_json(cells)
    else:
        output.table(
            ["cell", "database", "hosts", "servers", "operations under way"],
            [(c["name"], c["state"], c["hosts"], c["servers"], c["operations"]) for c in cells],
        )
    return 0
