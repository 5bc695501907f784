"""The bus: nudges, orders and answers between roles. It may lose, double, delay or reorder anything.

Nothing depends on a message: what must be done is in a database, a message only wakes somebody up.
Subjects (dots separate words):
    agent.<host>.order        conductor -> agent   an encoded Order; the answer comes on answer.<host>.<home database>
    agent.<host>.query        api -> agent         read-only request with an immediate reply
    agent.<host>.state        control plane -> agent   desired state of ports, routers, metadata documents
    answer.<host>.<database>  agent -> conductors  an encoded Answer; of another host than its subject's it is dropped
    answer.<host>.<database>.<incarnation>   the same to the one that asked, where there are several conductors
    console.admit             console proxy -> api the way to what a token stands for; replied at once
    nudge.<database>          anyone -> conductors an operation id that is ready
    nudge.<database>.<incarnation>   conductor -> the one that owns the operation
    event.<project>.<name>    conductor -> anyone   an event, when a webhook says so (docs/events.md)
    hosts.changed             conductor -> all     the name of a host whose record changed
    network.state.<host>      agent -> network service  asks for a host's network state; replied at once
    network.report.<host>     agent -> network service  what is in force there now
    volume.state.<host>       agent -> volume service   asks for what a host is to export; replied at once
    volume.report.<host>      agent -> volume service   what it exports now
    report.<host>             agent -> conductors  registration, heartbeat, events
"""

from collections.abc import Callable
from typing import Protocol

from kilonova.common.errors import Unavailable

VERSION = (1, 1)
"""Of the subjects above; every service registers it. 1.1: answers name their host and the conductor that asked."""

Handler = Callable[
    [str, bytes], bytes | None
]  # (subject, body) -> reply to a request, None to a publication


class NobodyListens(Unavailable):
    """No subscriber answered in time; whether anybody acted is unknown."""


class Subscription(Protocol):
    """Ends when closed; closing twice is fine."""

    def close(self) -> None: ...


class Bus(Protocol):
    """Publish bytes, subscribe to subjects, ask and wait. Safe from any thread."""

    def publish(self, subject: str, body: bytes) -> None:
        """Send to every subscriber (one member per queue group); returns at once, promises nothing."""
        ...

    def subscribe(self, subject: str, handler: Handler, queue: str | None = None) -> Subscription:
        """Call ``handler`` for each message; members of one ``queue`` share them. ``*`` stands for one word."""
        ...

    def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask one subscriber; raises NobodyListens after ``timeout_s`` seconds. For read-only queries only."""
        ...

    def deaf_s(self, last_s: float) -> float:
        """Return for how many of the last ``last_s`` seconds nothing could arrive here: silence then says nothing."""
        ...

    def close(self) -> None:
        """Stop delivering; handlers that run are waited for."""
        ...
