"""What a filter is: a name, whether it applies, a mask over hosts, and how it words what it dropped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kilonova.scheduler.columns import Bools
from kilonova.scheduler.request import Request
from kilonova.scheduler.view import View


@dataclass(frozen=True)
class Settings:
    """What an operator may set. Names and defaults are Nova's, but for the two limits, which are off here unless set.

    multipliers: weigher name -> multiplier, over the defaults. host_subset_size: choose among that many best.
    """

    host_subset_size: int = 1
    max_io_ops_per_host: int | None = None
    max_instances_per_host: int | None = None
    isolated_hosts: frozenset[str] = frozenset()
    isolated_images: frozenset[str] = frozenset()
    restrict_isolated_hosts_to_isolated_images: bool = True
    multipliers: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Local:
    """Numbers that one decision over several servers changes on its own copy. None: the view's own are right.

    free: class -> free per root row. members: host -> members of the request's server group.
    """

    free: dict[str, Any] = field(default_factory=dict)
    weighed: Any = None
    members: dict[str, int] | None = None
    taken: dict[tuple[str, str], int] = field(default_factory=dict)  # (provider, class) -> units


@dataclass(frozen=True)
class Asked:
    """All that a filter may look at."""

    view: View
    request: Request
    settings: Settings
    local: Local

    def group_members(self) -> Mapping[str, int]:
        """Return host -> members of the server group, those placed by this decision counted."""
        if self.local.members is not None:
            return self.local.members
        group = self.request.server_group
        return {} if group is None else group.hosts

    def weighed(self, which: int) -> Any:
        """Return a weighed column over all root rows."""
        table = self.view.weighed if self.local.weighed is None else self.local.weighed
        return table[which, : self.view.roots.n]

    def rows_of(self, hosts: "Mapping[str, object] | frozenset[str]") -> list[int]:
        """Return the rows of named hosts; unknown names are left out."""
        found = self.view.row_of_host
        return [found[h] for h in hosts if h in found]


@dataclass(frozen=True)
class Numbers:
    """On what numbers a filter dropped hosts. needed; free: the most that one of the dropped hosts has."""

    needed: int
    free: int
    resource_class: str = ""


Wording = Callable[[int, Asked, Numbers | None], str]


@dataclass(frozen=True)
class Filter:
    """One filter.

    applies(asked): False: nobody asked for what it checks. mask(asked) over all root rows: True stays; None: all stay.
    words(n, asked, numbers): what the tenant is told of the ``n`` hosts it dropped, after the number; no host names.
    also_forced: it holds for a forced host too. change: what somebody could ask for less, for the tenant.
    """

    name: str
    applies: Callable[[Asked], bool]
    mask: Callable[[Asked], Bools | None]
    words: Wording
    also_forced: bool = False
    change: str = ""


def told(one: str, many: str) -> Wording:
    """Return a wording for one and for several hosts."""
    return lambda n, asked, numbers: one if n == 1 else many


def always(asked: Asked) -> bool:
    """Apply to every request."""
    return True
