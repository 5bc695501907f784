"""Run one console proxy of a deployment: browsers' websockets end here. Several may run beside each other.

kilonova console --config FILE
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
    return role.serve("console", args, _make)


def _make(plan: Plan, tables: Tables) -> role.Running:
    from kilonova.server.console_role import ConsoleProcess

    return ConsoleProcess(plan, tables)
