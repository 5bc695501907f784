"""The devices that a flavor asks for by alias: one group of resources for each.

source: Nova, "Attaching physical PCI devices to guests": ``pci_passthrough:alias`` is ``<alias>:<count>[,…]``.
"""

from collections.abc import Iterable, Mapping

from kilonova.common.devices import PciAlias
from kilonova.common.errors import BadRequest
from kilonova.placement.candidates import Group

SPEC = "pci_passthrough:alias"
MOST = 32


def wanted(specs: Mapping[str, str]) -> list[tuple[str, int]]:
    """Return (alias, how many) as a flavor says it. Raises BadRequest."""
    out = []
    for one in specs.get(SPEC, "").split(","):
        name, colon, count = (part.strip() for part in one.partition(":"))
        if not name and not colon:
            continue
        if not colon or not (count.isascii() and count.isdigit()) or len(count) > 4:
            raise BadRequest(
                f"Flavor extra spec {SPEC} must be <alias>:<count>, not {one.strip()[:60]!r}."
            )
        out.append((name, int(count)))
    if sum(count for _, count in out) > MOST:
        raise BadRequest(f"Flavor extra spec {SPEC} asks for more than {MOST} devices.")
    return out


def count_of(specs: Mapping[str, str]) -> int:
    """Return how many devices a flavor asks for. Raises BadRequest."""
    return sum(count for _, count in wanted(specs))


def groups(specs: Mapping[str, str], aliases: Iterable[PciAlias]) -> tuple[Group, ...]:
    """Return a group for each device that is asked for. Raises BadRequest, in Nova's words for what nobody defined."""
    if SPEC not in specs:
        return ()
    asked = wanted(specs)
    policy = specs.get("hw:pci_numa_affinity_policy", "legacy")
    known = {a.name: a for a in aliases}
    found: list[PciAlias] = []
    for name, count in asked:
        if name not in known:
            raise BadRequest(f"PCI alias {name[:60]} is not defined")
        found += [known[name]] * count
    if any(p in ("required", "socket") for p in (policy, *(a.numa_policy for a in found))):
        raise BadRequest(
            "Devices are not kept to NUMA nodes here: the policy must be legacy or preferred."
        )
    return tuple(
        Group(
            suffix=f"_pci{n}",
            resources={alias.resource_class: 1},
            required=tuple(frozenset({t}) for t in alias.traits),
        )
        for n, alias in enumerate(found)
    )
