"""The NUMA nodes that a flavor or an image asks of a guest, and what each takes of one node of a host.

source: Nova, "CPU topologies": hw:numa_nodes, hw:numa_cpus.N, hw:numa_mem.N, of images with ``_`` for the first colon;
the words of refusals are those of Nova's exceptions. A guest's nodes go to different nodes of the host, as with Nova.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kilonova.common.devices import numbers
from kilonova.common.errors import BadRequest
from kilonova.placement import names
from kilonova.placement.candidates import Group

PREFIX = "_numa"
MOST = 16
_OF_FLAVOR, _OF_IMAGE = "hw:numa_", "hw_numa_"
_INCOMPLETE = "CPU and memory allocation must be provided for all NUMA nodes"


@dataclass(frozen=True)
class Cell:
    """One NUMA node of a guest. cpus: numbers of its vCPUs."""

    number: int
    cpus: tuple[int, ...]
    memory_mib: int


@dataclass(frozen=True)
class Asked:
    """What a guest is. dedicated: each of its vCPUs has a CPU of the host alone."""

    vcpus: int
    memory_mib: int
    dedicated: bool = False


def is_asked(specs: Mapping[str, str], properties: Mapping[str, str]) -> bool:
    """Tell whether anything is said of NUMA nodes."""
    for key in specs:  # loops: every decision asks
        if key.startswith(_OF_FLAVOR):
            return True
    return any(k.startswith(_OF_IMAGE) for k in properties)


def cells_of(
    asked: Asked, specs: Mapping[str, str], properties: Mapping[str, str]
) -> tuple[Cell, ...]:
    """Return the nodes of a guest, none when it has none of its own. Raises BadRequest."""
    if not is_asked(specs, properties):
        return (_whole(asked),) if asked.dedicated else ()
    said = {k.removeprefix(_OF_FLAVOR): v for k, v in specs.items() if k.startswith(_OF_FLAVOR)}
    of_image = {
        k.removeprefix(_OF_IMAGE): v for k, v in properties.items() if k.startswith(_OF_IMAGE)
    }
    if said and of_image:
        name = _OF_IMAGE + min(of_image)
        raise BadRequest(
            f"Image property '{name}' is not permitted to override NUMA configuration set against the flavor"
        )
    said = said or of_image
    nodes = _nodes(said, asked)
    explicit = any("." in k for k in said)
    return _as_said(nodes, said, asked) if explicit else _evenly(nodes, asked)


def _whole(asked: Asked) -> Cell:
    return Cell(0, tuple(range(asked.vcpus)), asked.memory_mib)


def _nodes(said: Mapping[str, str], asked: Asked) -> int:
    if "nodes" not in said:
        raise BadRequest(_INCOMPLETE)
    text = said["nodes"].strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) < 1:
        raise BadRequest(
            f"The property 'numa_nodes' cannot be '{text[:40]}'. It must be a number greater than 0"
        )
    if int(text) > min(MOST, asked.vcpus):
        raise BadRequest(
            f"A guest of {asked.vcpus} vCPUs has at most {min(MOST, asked.vcpus)} NUMA nodes here, not {text}"
        )
    return int(text)


def _evenly(nodes: int, asked: Asked) -> tuple[Cell, ...]:
    if asked.vcpus % nodes or asked.memory_mib % nodes:
        raise BadRequest(
            "Instance CPUs and/or memory cannot be evenly distributed across instance NUMA nodes. "
            "Explicit assignment of CPUs and memory to nodes is required"
        )
    each, memory = asked.vcpus // nodes, asked.memory_mib // nodes
    return tuple(Cell(n, tuple(range(n * each, (n + 1) * each)), memory) for n in range(nodes))


def _as_said(nodes: int, said: Mapping[str, str], asked: Asked) -> tuple[Cell, ...]:
    found = []
    left = set(range(asked.vcpus))
    wanted = {f"{what}.{n}" for what in ("cpus", "mem") for n in range(nodes)}
    if wanted != said.keys() - {"nodes"}:
        raise BadRequest(_INCOMPLETE)
    for n in range(nodes):
        cpus = _cpus(said[f"cpus.{n}"])
        for cpu in sorted(cpus):
            if cpu >= asked.vcpus:
                raise BadRequest(f"CPU number {cpu} is larger than max {asked.vcpus - 1}")
            if cpu not in left:
                raise BadRequest(f"CPU number {cpu} is assigned to two nodes")
            left.discard(cpu)
        found.append(Cell(n, tuple(sorted(cpus)), _memory(said[f"mem.{n}"])))
    if left:
        raise BadRequest(f"CPU number {sorted(left)} is not assigned to any node")
    total = sum(c.memory_mib for c in found)
    if total != asked.memory_mib:
        raise BadRequest(f"{total} MB of memory assigned, but expected {asked.memory_mib} MB")
    return tuple(found)


def _cpus(text: str) -> set[int]:
    try:
        found = numbers(text)
    except ValueError as exc:
        raise BadRequest(f"Invalid inclusion expression {text[:40]!r}: {exc}") from None
    if not found:
        raise BadRequest(_INCOMPLETE)
    return found


def _memory(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 0 < len(text) < 10 or int(text) < 1:
        raise BadRequest(_INCOMPLETE)
    return int(text)


def groups(cells: Sequence[Cell], *, dedicated: bool) -> tuple[Group, ...]:
    """Return what a guest of several nodes needs of one node of the host each; a guest of one takes any."""
    if len(cells) < 2:
        return ()
    cpu = names.PCPU if dedicated else names.NODE_VCPU
    return tuple(
        Group(
            suffix=f"{PREFIX}{c.number}",
            resources={cpu: len(c.cpus), names.NODE_MEMORY_MB: c.memory_mib},
            required=(frozenset({names.NODE}),),
        )
        for c in cells
    )


def places(
    cells: Sequence[Cell], held: Mapping[int, Mapping[str, int]], *, dedicated: bool
) -> dict[int, int]:
    """Return guest node -> host node, from what is held of each of the host's; {} when it holds none.

    Two guest nodes that need the same may be exchanged: the lower gets the lower.
    """
    if len(cells) < 2:
        only = [n for n in sorted(held) if held[n].get(names.PCPU)]
        return {c.number: only[0] for c in cells if only}
    cpu = names.PCPU if dedicated else names.NODE_VCPU
    left = dict(held)
    out: dict[int, int] = {}
    for c in cells:
        need = {cpu: len(c.cpus), names.NODE_MEMORY_MB: c.memory_mib}
        fits = [n for n in sorted(left) if dict(left[n]) == need]
        if fits:
            out[c.number] = fits[0]
            del left[fits[0]]
    return out if len(out) == len(cells) else {}
