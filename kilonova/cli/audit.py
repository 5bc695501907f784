"""Compare all records with each other and with the hosts. Changes nothing; exit code 1 when something does not fit."""

import argparse

from kilonova.cli import output
from kilonova.cli.client import connect
from kilonova.cli.common import common_options
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show the findings."""
    answer = connect(state.chosen(args.state_dir)).get("/kilonova/v1/audit")
    findings = answer["findings"]
    if args.json:
        output.print_json(answer)
    elif not findings:
        print(
            f"{output.mark(True)} Everything fits: nothing stuck, nothing orphaned, nothing left behind."
        )
    else:
        keys = sorted({k for f in findings for k in f})
        output.table(
            [k.replace("_", " ") for k in keys], [[f.get(k) for k in keys] for f in findings]
        )
    return 1 if findings else 0
