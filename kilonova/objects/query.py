"""Questions to a host agent on ``agent.<host>.query``, answered at once and from the hypervisor: nothing is changed."""

from typing import ClassVar, Union

import msgspec

from kilonova.objects.base import Version, Versioned, since
from kilonova.objects.host import Inventory
from kilonova.objects.live_orders import LiveProgress, LiveWhere


class ConsoleLogQuery(Versioned, frozen=True, kw_only=True, tag="console_log", tag_field="type"):
    """The last ``lines`` lines of a guest's first serial port; None: all that is kept. Answer: ConsoleLog."""

    server_id: str
    lines: int | None = None


class DiagnosticsQuery(Versioned, frozen=True, kw_only=True, tag="diagnostics", tag_field="type"):
    """Counters of a running guest. Answer: Diagnostics."""

    server_id: str


class ConsoleQuery(Versioned, frozen=True, kw_only=True, tag="console", tag_field="type"):
    """May a guest's console be opened now? kind: vnc or serial. Answer: ConsoleReady."""

    server_id: str
    kind: str


class ConsoleOpenQuery(Versioned, frozen=True, kw_only=True, tag="console_open", tag_field="type"):
    """Hold a console of one run of a guest (boot: of ConsoleReady) for one caller, for seconds. Answer: ConsoleWay."""

    server_id: str
    kind: str
    boot: str


class GuestStateQuery(Versioned, frozen=True, kw_only=True, tag="guest_state", tag_field="type"):
    """Is it there, and what is its power state? Answer: GuestPresence."""

    server_id: str


class GuestsQuery(Versioned, frozen=True, kw_only=True, tag="guests", tag_field="type"):
    """Every domain of the host. Answer: Guests."""


class GuestPartsQuery(Versioned, frozen=True, kw_only=True, tag="guest_parts", tag_field="type"):
    """What every guest of ours on the host is made of. Answer: GuestParts."""


class CapabilitiesQuery(Versioned, frozen=True, kw_only=True, tag="capabilities", tag_field="type"):
    """What the host is and can do. Answer: Capabilities."""


class PasswordQuery(Versioned, frozen=True, kw_only=True, tag="password", tag_field="type"):
    """The password that a guest posted, encrypted for its owner's key. Answer: PostedPassword.

    variables: the guest's UEFI variables too, for the host that it goes to.
    """

    VERSION: ClassVar[Version] = (1, 1)

    server_id: str
    variables: bool = since(1, 1, default=False)


class LiveMoveQuery(Versioned, frozen=True, kw_only=True, tag="live_move", tag_field="type"):
    """Where is a guest that may be moving, and how far is it? Answer: LiveMove."""

    server_id: str


class ConfigDriveQuery(Versioned, frozen=True, kw_only=True, tag="config_drive", tag_field="type"):
    """The bytes of a guest's config drive, for the host that it moves to. Answer: ConfigDrive."""

    server_id: str


class Query(Versioned, frozen=True, kw_only=True):
    """Envelope of every question. The reply is a QueryReply."""

    VERSION: ClassVar[Version] = (1, 6)

    host: str
    body: Union[  # noqa: UP007 - msgspec reads the union as tagged
        ConsoleLogQuery,
        ConsoleQuery,
        DiagnosticsQuery,
        GuestStateQuery,
        GuestsQuery,
        CapabilitiesQuery,
        PasswordQuery,
        GuestPartsQuery,
        LiveMoveQuery,
        ConfigDriveQuery,
        ConsoleOpenQuery,
    ]


class ConsoleLog(Versioned, frozen=True, kw_only=True, tag="console_log", tag_field="type"):
    text: str


class Diagnostics(Versioned, frozen=True, kw_only=True, tag="diagnostics", tag_field="type"):
    """facts: encoded JSON object, the body of GET /servers/{id}/diagnostics from 2.48 on."""

    facts: msgspec.Raw


class ConsoleReady(Versioned, frozen=True, kw_only=True, tag="console", tag_field="type"):
    """boot: names this run of the guest; a console is of one run only."""

    boot: str


class ConsoleWay(Versioned, frozen=True, kw_only=True, tag="console_way", tag_field="type"):
    """Where a console waits: a TCP port that speaks TLS. ticket: the first bytes to say there, good once, for seconds.

    certificate: PEM, the host's own of this start; whoever connects trusts it and nothing else.
    """

    address: str
    port: int
    ticket: str
    certificate: str


class GuestPresence(Versioned, frozen=True, kw_only=True, tag="guest_state", tag_field="type"):
    """power_state: Nova's number, None when the host has no such guest."""

    power_state: int | None


class Guests(Versioned, frozen=True, kw_only=True, tag="guests", tag_field="type"):
    """(server id or domain name, power state, known to us)."""

    guests: tuple[tuple[str, int, bool], ...]


class GuestParts(Versioned, frozen=True, kw_only=True, tag="guest_parts", tag_field="type"):
    """(server id, serials of its volumes, its ports); and what the host keeps, guest or not.

    disks: (server id, names of its local disks) of every server of which there are files. volumes: (kind, id) of the
    volumes and snapshots whose data are here. None of a host that is too old to say.
    """

    VERSION: ClassVar[Version] = (1, 1)

    guests: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    disks: tuple[tuple[str, tuple[str, ...]], ...] | None = since(1, 1, default=None)
    volumes: tuple[tuple[str, str], ...] | None = since(1, 1, default=None)


class Capabilities(Versioned, frozen=True, kw_only=True, tag="capabilities", tag_field="type"):
    """uptime_s: of the host, None when simulated. verbs: orders that this agent performs."""

    driver: str
    release: str
    boot_id: str
    inventory: Inventory
    verbs: tuple[str, ...]
    uptime_s: float | None = None


class PostedPassword(Versioned, frozen=True, kw_only=True, tag="password", tag_field="type"):
    """text: as posted, "" when there is none. variables: zlib in base64; None when there are none, or nobody asked."""

    VERSION: ClassVar[Version] = (1, 1)

    text: str
    variables: str | None = since(1, 1, default=None)


class LiveMove(Versioned, frozen=True, kw_only=True, tag="live_move", tag_field="type"):
    """power_state: Nova's number where the guest is this host's, else 0."""

    where: LiveWhere
    power_state: int = 0
    progress: LiveProgress = LiveProgress()


class ConfigDrive(Versioned, frozen=True, kw_only=True, tag="config_drive", tag_field="type"):
    """packed: zlib in base64, None when there is none; as secret as user data, so it rests in no journal."""

    packed: str | None


class QueryFailed(Versioned, frozen=True, kw_only=True, tag="failed", tag_field="type"):
    """Why there is no answer. code: of the error ("guest_missing", "driver", …); message is safe for the tenant."""

    code: str
    message: str


class QueryReply(Versioned, frozen=True, kw_only=True):
    """Envelope of every answer."""

    VERSION: ClassVar[Version] = (1, 6)

    host: str
    body: Union[  # noqa: UP007
        ConsoleLog,
        ConsoleReady,
        Diagnostics,
        GuestPresence,
        Guests,
        Capabilities,
        PostedPassword,
        LiveMove,
        ConfigDrive,
        QueryFailed,
        GuestParts,
        ConsoleWay,
    ]
