"""CPU time of one scheduling decision, by number of hosts; DESIGN §13 asks <= 0.2 ms at 1,000 and <= 0.4 ms at 10,000.

Run: python -m benchmarks.decision [--quick]. Prints; asserts nothing. "typical": hosts in three zones, two aggregates
with extra specs, some hosts down, different usage; a request with a zone, an image property and a trait. "all pass":
nothing is dropped. "none": the explanation of a failure. CPU is time.process_time, explanation kept.
"""

import random
import sys
import time
from collections.abc import Callable

from kilonova.common.ids import new_uuid
from kilonova.placement.candidates import Group
from kilonova.placement.inventories import Inventory
from kilonova.scheduler.request import Request
from kilonova.scheduler.select import select
from kilonova.scheduler.view import Aggregate, HostFacts, HostKind, ProviderRow, View

BASE = {"VCPU": 1, "MEMORY_MB": 512, "DISK_GB": 1}


def fill(hosts: int, children: int = 0, seed: int = 1) -> View:
    """Return a view of ``hosts`` hosts, each with ``children`` providers below it (NUMA cells and network cards)."""
    rng = random.Random(seed)
    view = View()
    kind = HostKind(hypervisor_version=6002000)
    zones = {
        i: Aggregate(i, new_uuid(), f"zone{i}", {"availability_zone": f"az{i}"}) for i in (1, 2, 3)
    }
    fast = Aggregate(4, new_uuid(), "fast", {"ssd": "true"})
    members: dict[str, frozenset[int]] = {}
    for i in range(hosts):
        uuid, name = new_uuid(), f"host{i}"
        members[name] = frozenset({i % 3 + 1, 4} if i % 2 else {i % 3 + 1})
        inventory = {
            "VCPU": Inventory(64, 0, 1, 64, 1, 4.0),
            "MEMORY_MB": Inventory(262144, 512, 1, 262144, 1, 1.0),
            "DISK_GB": Inventory(4000, 0, 1, 4000, 1, 1.0),
        }
        k = rng.randrange(100)
        used = {"VCPU": k, "MEMORY_MB": 2048 * k, "DISK_GB": 20 * k}
        has = frozenset({"HW_CPU_X86_AVX2"} if i % 4 else {"HW_CPU_X86_AVX2", "COMPUTE_NODE"})
        view.put_provider(
            ProviderRow(uuid, name, 1, uuid, None, inventory, used, has, frozenset(), k)
        )
        view.put_host(HostFacts(uuid, name, "cell1", name, up=i % 50 != 7, kind=kind))
        for c in range(children):
            cu = new_uuid()
            card = c >= children // 2
            rc = "SRIOV_NET_VF" if card else "VGPU"
            view.put_provider(
                ProviderRow(
                    cu,
                    f"{name}-{c}",
                    1,
                    uuid,
                    uuid,
                    {rc: Inventory(8, 0, 1, 8, 1, 1.0)},
                    {rc: rng.randrange(9)},
                    frozenset({"CUSTOM_PHYSNET"} if card else {"CUSTOM_GPU"}),
                    frozenset(),
                )
            )
    view.put_aggregates({**zones, 4: fast}, members)
    return view


def measure(what: str, fn: Callable[[], object], rounds: int) -> None:
    """Print CPU ms per call: the median of nine blocks."""
    blocks = []
    for _ in range(9):
        began = time.process_time()
        for _ in range(rounds):
            fn()
        blocks.append((time.process_time() - began) / rounds * 1000)
    blocks.sort()
    print(f"{what:<58} {blocks[4]:8.3f} ms   (best {blocks[0]:.3f}, worst {blocks[-1]:.3f})")


def main() -> None:
    """Print the table."""
    quick = "--quick" in sys.argv
    rng = random.Random(2)
    group = Group(resources=BASE, required=(frozenset({"HW_CPU_X86_AVX2"}),))
    typical = Request(
        groups=(group,),
        availability_zone="az2",
        extra_specs={"aggregate_instance_extra_specs:ssd": "true"},
        image={"hw_architecture": "x86_64"},
    )
    everything = Request(groups=(Group(resources=BASE),))
    nothing = Request(groups=(Group(resources={**BASE, "MEMORY_MB": 10**6}),))
    for n in (100, 1000, 10000):
        view = fill(n)
        rounds = 20 if quick else 200
        measure(f"{n:>6} flat hosts, typical", lambda v=view: select(v, typical, rng=rng), rounds)
        measure(
            f"{n:>6} flat hosts, all pass", lambda v=view: select(v, everything, rng=rng), rounds
        )
        measure(f"{n:>6} flat hosts, none: explained", lambda v=view: select(v, nothing), 5)
    view = fill(10000)
    measure(" 10000 flat hosts, 100 servers at once", lambda: select(view, everything, 100), 1)
    granular = Request(
        groups=(
            Group(resources=BASE),
            Group("_gpu", {"VGPU": 1}, (frozenset({"CUSTOM_GPU"}),)),
            Group("_net", {"SRIOV_NET_VF": 1}, (frozenset({"CUSTOM_PHYSNET"}),)),
        ),
        group_policy="isolate",
    )
    for n in (1000, 10000):
        view = fill(n, children=4)
        what = f"{n:>6} hosts x 5 providers"
        measure(f"{what}, 2 granular groups", lambda v=view: select(v, granular, rng=rng), 20)
        measure(f"{what}, flat request", lambda v=view: select(v, everything, rng=rng), 20)


if __name__ == "__main__":
    main()
