"""What a console proxy asks the control plane on ``console.admit``: the way to what a token stands for, once."""

from typing import Union

from kilonova.objects.base import Versioned
from kilonova.objects.query import ConsoleWay, QueryFailed


class ConsoleAdmit(Versioned, frozen=True, kw_only=True):
    """Take a token of POST /servers/{id}/remote-consoles. Answer: ConsoleAdmitted. A second time it is refused."""

    token: str


class ConsoleAdmitted(Versioned, frozen=True, kw_only=True):
    """The way to the console, or why there is none."""

    body: Union[ConsoleWay, QueryFailed]  # noqa: UP007 - msgspec reads the union as tagged
