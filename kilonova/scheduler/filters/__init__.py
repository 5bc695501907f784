"""All filters, in the order in which they are asked: what names hosts first, capacity after, policies last.

Not there: MetricsFilter (hosts report no metrics) and JsonFilter (the hint ``query`` is refused). PCI passthrough and
NUMA are resource groups in placement here, not filters.
"""

from kilonova.scheduler.filters import capacity, groups, service, specs
from kilonova.scheduler.filters.base import Asked, Filter, Local, Numbers, Settings

BEFORE: tuple[Filter, ...] = service.FILTERS
AFTER: tuple[Filter, ...] = (
    capacity.TRAITS,
    capacity.GRANULAR,
    *capacity.LIMITS,
    *specs.FILTERS,
    *groups.FILTERS,
)


def chain(asked: Asked) -> list[Filter]:
    """Return the filters that apply to a request, in order."""
    spread = next((g.resources for g in asked.request.groups if not g.suffix), {})
    found = [f for f in BEFORE if f.applies(asked)]
    found += [capacity.room(rc) for rc in spread]
    found += [f for f in AFTER if f.applies(asked)]
    return [f for f in found if f.also_forced] if asked.request.force else found


__all__ = ["Asked", "Filter", "Local", "Numbers", "Settings", "chain"]
