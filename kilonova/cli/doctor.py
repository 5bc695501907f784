"""Say what real guests need of this machine, ✓ or ✗, with one command that mends each ✗. Changes nothing."""

import argparse

from kilonova.cli import output
from kilonova.cli.common import common_options
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check and show; exit code 1 when something is missing."""
    from kilonova.agent import doctor

    rows = doctor.run_checks(state.chosen(args.state_dir))
    bad = doctor.real_guests_can_run(rows)
    if args.json:
        keys = ("name", "ok", "required", "detail", "mend")
        output.print_json([{k: getattr(row, k) for k in keys} for row in rows])
        return 1 if bad else 0
    width = max(len(row.name) for row in rows)
    for row in rows:
        sign = output.mark(None if not row.ok and not row.required else row.ok)
        print(f"{sign} {row.name:<{width}}  {row.detail}")
        if not row.ok and row.mend:
            print(f"  {'':<{width}}  mend: {row.mend}")
    print()
    if bad:
        print(f"{len(bad)} of {len(rows)} stand in the way of real guests.")
        print("A simulated cloud needs none of it: kilonova up --driver fake")
    else:
        print("Real guests can run here: kilonova up")
    return 1 if bad else 0
