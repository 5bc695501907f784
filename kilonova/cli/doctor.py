"""Say what real guests need of this machine, ✓ or ✗, with one command that mends each ✗. Changes nothing."""

import argparse

from kilonova.cli import output
from kilonova.cli.main import common_options
from kilonova.server import state


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check and show; exit code 1 when something is missing."""
    from kilonova.agent import doctor

    checks = doctor.examine(state.chosen(args.state_dir))
    bad = [c for c in checks if c.ok is False]
    if args.json:
        output.print_json(
            [{"name": c.name, "ok": c.ok, "found": c.found, "mend": c.mend} for c in checks]
        )
        return 1 if bad else 0
    width = max(len(c.name) for c in checks)
    for c in checks:
        print(f"{output.mark(c.ok)} {c.name:<{width}}  {c.found}")
        if c.ok is False and c.mend:
            print(f"  {'':<{width}}  mend: {c.mend}")
    print()
    if bad:
        print(
            f"{len(bad)} of {len(checks)} are missing. A simulated cloud needs none of it: kilonova up --driver fake"
        )
    else:
        print("Real guests can run here: kilonova up")
    return 1 if bad else 0
