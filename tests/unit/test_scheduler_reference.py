"""``select`` against a slow reference in plain Python: it returns exactly the hosts that the reference accepts."""

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kilonova.placement.candidates import Group
from kilonova.placement.inventories import Inventory
from kilonova.scheduler.request import Request, ServerGroup
from kilonova.scheduler.select import select
from tests.scheduling import Cloud

TRAITS = ("HW_CPU_X86_AVX2", "HW_CPU_X86_SSE", "CUSTOM_A", "CUSTOM_B")
POOL = "22222222-2222-2222-2222-222222222222"


@dataclass
class Thing:
    """One provider as the reference sees it: class -> (capacity, min, max, step)."""

    stock: dict[str, tuple[int, int, int, int]]
    traits: set[str] = field(default_factory=set)


@dataclass
class Machine:
    """One host: its own provider, those below it, whether the shared pool reaches it."""

    name: str
    own: Thing
    below: list[Thing]
    zone: str
    up: bool
    pooled: bool


def inventory(rng: random.Random, classes: tuple[str, ...]) -> dict[str, Inventory]:
    out = {}
    for rc in classes:
        if rng.random() < 0.9:
            total = rng.randrange(2, 13)
            out[rc] = Inventory(
                total,
                rng.randrange(0, 2) if total > 1 else 0,
                rng.choice((1, 1, 1, 2)),
                rng.choice((total, 2, 2**31 - 1)),
                rng.choice((1, 1, 1, 2)),
                rng.choice((1.0, 1.5, 2.0)),
            )
            if out[rc].min_unit > out[rc].max_unit:
                out[rc] = Inventory(total)
    return out


def thing(stock: dict[str, Inventory], traits: set[str]) -> Thing:
    def plain(i: Inventory) -> tuple[int, int, int, int]:
        return int((i.total - i.reserved) * i.allocation_ratio), i.min_unit, i.max_unit, i.step_size

    return Thing({rc: plain(i) for rc, i in stock.items()}, traits)


def build(rng: random.Random, cloud: Cloud) -> tuple[list[Machine], Thing | None]:
    machines = []
    pool = None
    if rng.random() < 0.5:
        stock = inventory(rng, ("DISK_GB",))
        cloud.sharing("pool", stock, POOL)
        pool = thing(stock, set())
    for i in range(rng.randrange(1, 9)):
        name = f"h{i}"
        stock = inventory(
            rng, ("VCPU", "MEMORY_MB", "DISK_GB") if rng.random() < 0.8 else ("VCPU",)
        )
        traits = {t for t in TRAITS if rng.random() < 0.6}
        up = rng.random() < 0.9
        cloud.host(name, inventory=stock or {"VCPU": Inventory(1)}, has=frozenset(traits), up=up)
        own = thing(stock or {"VCPU": Inventory(1)}, traits)
        below = []
        for c in range(rng.choice((0, 1, 2, 3, 4))):
            child = inventory(rng, ("VGPU", "MEMORY_MB") if rng.random() < 0.3 else ("VGPU",))
            child_traits = {t for t in TRAITS[2:] if rng.random() < 0.7}
            cloud.child(name, f"{name}-{c}", child, frozenset(child_traits))
            below.append(thing(child, child_traits))
        pooled = pool is not None and rng.random() < 0.5
        if pooled:
            cloud.join(name, POOL)
        machines.append(Machine(name, own, below, rng.choice(("east", "nova")), up, pooled))
    cloud.aggregate(
        1, '{"availability_zone": "east"}', *[m.name for m in machines if m.zone == "east"]
    )
    return machines, pool


def question(rng: random.Random, machines: list[Machine]) -> Request:
    base = {
        rc: rng.randrange(1, 4) for rc in ("VCPU", "MEMORY_MB", "DISK_GB") if rng.random() < 0.7
    }
    some = [frozenset({t}) for t in TRAITS if rng.random() < 0.08]
    if rng.random() < 0.1:
        some.append(frozenset(TRAITS[:2]))
    groups = [
        Group(
            resources=base or {"VCPU": 1},
            required=tuple(some),
            forbidden=frozenset(t for t in TRAITS if rng.random() < 0.04),
        )
    ]
    for s in ("1", "2", "3")[: rng.choice((0, 0, 1, 2, 3))]:
        need = {"VGPU": rng.choice((1, 1, 2))}
        if rng.random() < 0.2:
            need["MEMORY_MB"] = 1
        groups.append(
            Group(s, need, tuple(frozenset({t}) for t in TRAITS[2:] if rng.random() < 0.3))
        )
    hosts = {m.name: 1 for m in machines if rng.random() < 0.2}
    policy = rng.choice((None, None, None, "affinity", "anti-affinity"))
    return Request(
        groups=tuple(groups),
        group_policy=rng.choice(("none", "isolate")) if len(groups) > 2 else None,
        availability_zone=rng.choice((None, None, None, "east", "nova")),
        server_group=None if policy is None else ServerGroup("g", policy, hosts),
        different_host=frozenset(hosts) if rng.random() < 0.1 else None,
        ignore_hosts=frozenset(h for h in hosts if rng.random() < 0.2),
    )


def accepts(m: Machine, pool: Thing | None, r: Request) -> bool:
    """Say, by trying everything, whether a host can take the request."""
    if not m.up or m.name in r.ignore_hosts:
        return False
    if r.availability_zone is not None and r.availability_zone != m.zone:
        return False
    if r.different_host is not None and m.name in r.different_host:
        return False
    g = r.server_group
    if g is not None and g.policy == "anti-affinity" and g.hosts.get(m.name, 0) >= g.max_per_host:
        return False
    if g is not None and g.policy == "affinity" and g.hosts and m.name not in g.hosts:
        return False
    things = [m.own, *m.below, *([pool] if m.pooled and pool else [])]
    needs: list[tuple[str, dict[str, int]]] = []
    for group in r.groups:
        if group.suffix:
            needs.append((group.suffix, dict(group.resources)))
        else:
            needs += [("", {rc: n}) for rc, n in group.resources.items()]
    by_suffix = {group.suffix: group for group in r.groups}
    for choice in itertools.product(range(len(things)), repeat=len(needs)):
        if fits(things, needs, choice, by_suffix, r.group_policy):
            return True
    return False


def fits(
    things: list[Thing],
    needs: list[tuple[str, dict[str, int]]],
    choice: tuple[int, ...],
    groups: dict[str, Group],
    policy: str | None,
) -> bool:
    used: dict[tuple[int, str], int] = {}
    together: set[str] = set()
    suffixed = []
    for (suffix, need), at in zip(needs, choice, strict=True):
        t = things[at]
        for rc, n in need.items():
            if rc not in t.stock:
                return False
            capacity, low, high, step = t.stock[rc]
            if not low <= n <= high or n % step:
                return False
            used[at, rc] = used.get((at, rc), 0) + n
            if used[at, rc] > min(capacity, high):
                return False
        if t.traits & groups[suffix].forbidden:
            return False
        if suffix:
            suffixed.append(at)
            if not all(any_of & t.traits for any_of in groups[suffix].required):
                return False
        else:
            together |= t.traits
    if policy == "isolate" and len(set(suffixed)) != len(suffixed):
        return False
    return all(any_of & together for any_of in groups[""].required)


@pytest.mark.parametrize("seed", range(150))
def test_select_finds_exactly_what_the_reference_accepts(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    cloud = Cloud(tmp_path)
    machines, pool = build(rng, cloud)
    view = cloud.view()
    for _ in range(12):
        request = question(rng, machines)
        wanted = {m.name for m in machines if accepts(m, pool, request)}
        found = {
            s.host
            for one in select(view, request, 1, 10_000).selections
            for s in (one.chosen, *one.alternates)
        }
        assert found == wanted, request
    cloud.db.close()
