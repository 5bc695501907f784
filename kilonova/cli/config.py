"""Check the configuration, or show every setting with its value and where it comes from. None is needed to start.

kilonova config check [--config FILE]
kilonova config show
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from kilonova.cli import output
from kilonova.cli.common import Failed, common_options
from kilonova.common import config as settings
from kilonova.common import deployment
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    parser.add_argument("verb", choices=("check", "show"))
    parser.add_argument(
        "--config", metavar="FILE", help="default: kilonova.toml in the state directory"
    )


def run(args: argparse.Namespace) -> int:
    """Read it as 'up' would. An error names file, key and fault."""
    own = state.chosen(args.state_dir) / "kilonova.toml"
    path = Path(args.config) if args.config else own if own.exists() else None
    if args.config and not Path(args.config).is_file():
        raise Failed(f"there is no file {args.config}", 2)
    found = asdict(settings.load(path))
    if path is not None:
        deployment.load(path)
    default = asdict(settings.Settings())
    if args.verb == "check":
        print(f"{path or 'no file, which is fine'}: correct")
        return 0
    found.pop("extra", None)
    if args.json:
        output.print_json(found)
        return 0
    rows = []
    for key, value in sorted(found.items()):
        origin = "default"
        if value != default[key]:
            variable = f"KILONOVA_{key.upper()}"
            origin = variable if variable in os.environ else str(path)
        rows.append((key, "" if value is None else value, origin))
    output.table(["setting", "value", "from"], rows)
    return 0
