"""What every command shares: the error that a person must read, and the options that nearly all take."""

import argparse

from kilonova.common.errors import KilonovaError


class Failed(KilonovaError):
    """What the person at the terminal must know, in words; code: the exit code."""

    code = "cli"

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def common_options(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """Add what nearly every command takes."""
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where the cloud keeps itself (default: /var/lib/kilonova as root, else your data folder)",
    )
    if json:
        parser.add_argument("--json", action="store_true", help="one JSON document, for programs")
