"""Copy databases, keys and images into one tar file. The cloud may run meanwhile; the copy is one moment of it.

Guests' disks are not in it: take snapshots of those (openstack server image create).
The file holds every secret of the cloud; it is made with mode 0600.
"""

import argparse
from pathlib import Path

from kilonova.cli import output
from kilonova.cli.common import common_options
from kilonova.server import maintenance, state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("file", metavar="FILE.tar")
    parser.add_argument("--no-images", action="store_true", help="leave the images' bytes out")


def run(args: argparse.Namespace) -> int:
    """Make it."""
    directory = state.chosen(args.state_dir)
    target = Path(args.file).absolute()
    size = maintenance.backup(directory, target, images=not args.no_images)
    if args.json:
        output.print_json({"file": str(target), "bytes": size})
    else:
        print(f"{target}: {output.size(size)}. 'kilonova restore {target}' puts it back.")
    return 0
