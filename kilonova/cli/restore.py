"""Make a state directory out of a copy that 'kilonova backup' wrote. The directory must be empty or missing."""

import argparse
from pathlib import Path

from kilonova.cli.common import Failed, common_options
from kilonova.server import maintenance, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser, json=False)
    parser.add_argument("file", metavar="FILE.tar")


def run(args: argparse.Namespace) -> int:
    """Put it back; refused while a cloud runs there."""
    directory = state.chosen(args.state_dir)
    source = Path(args.file)
    if not source.is_file():
        raise Failed(f"there is no file {source}", 2)
    if state.running(directory) is not None:
        raise Failed(f"a cloud runs on {directory}; 'kilonova down' first")
    maintenance.restore(source, directory)
    print(f"{directory} is restored; 'kilonova up --state-dir {directory}' starts it.")
    return 0
