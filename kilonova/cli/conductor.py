"""Run one conductor of a deployment: it runs operations and hears hosts. Several may run beside each other.

kilonova conductor --config FILE
"""

import argparse

from kilonova.cli import role
from kilonova.common.deployment import Tables
from kilonova.server.plan import Plan


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    role.arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    return role.serve("conductor", args, _make)


def _make(plan: Plan, tables: Tables) -> role.Running:
    from kilonova.server.configured import connect
    from kilonova.server.roles import Conductor

    plan.bus = connect(tables, "conductor")
    return Conductor(plan)
