"""Run one API of a deployment: it accepts requests and answers them. Several may run beside each other.

kilonova api --config FILE
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
    return role.serve("api", args, _make)


def _make(plan: Plan, tables: Tables) -> role.Running:
    from kilonova.server.configured import connect
    from kilonova.server.roles import Api

    plan.bus = connect(tables, "api")
    return Api(plan)
