"""R10: what looks before it writes holds with writers beside it, on every kind of database: quota, epochs, numbers.

On SQLite one writer waits for the other; on a server both run, and one of two that collide runs again.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.common.clock import SYSTEM
from kilonova.common.context import Context
from kilonova.common.errors import Conflict, KilonovaError, QuotaExceeded
from kilonova.common.ids import new_uuid
from kilonova.db import aggregates, hosts, idempotency, keypairs, mappings, quotas, versions
from kilonova.db.engine import Database, Tx
from kilonova.objects.base import Versioned
from kilonova.operations import stores
from kilonova.placement import providers, traits
from kilonova.saga import journal, leases
from kilonova.saga.definition import NoUndo, Saga, Step, register
from tests import databases

NOW = 1_700_000_000.0
THREADS = 4


@pytest.fixture(params=databases.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(kind: str, tmp_path: Path) -> Iterator[Database]:
    with databases.opened(kind, tmp_path, "global") as db:
        versions.ensure(db, stores.WORLD)
        yield db


@pytest.fixture
def cell(kind: str, tmp_path: Path) -> Iterator[Database]:
    with databases.opened(kind, tmp_path, "cell1") as db:
        versions.ensure(db, stores.CELL)
        yield db


def at_once(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Call ``work(n)`` on threads that begin together; return what they returned, or the refusals they met."""
    start, out = threading.Barrier(threads, timeout=60), []
    lock = threading.Lock()

    def run(n: int) -> None:
        start.wait()
        try:
            got = work(n)
        except KilonovaError as exc:
            got = exc
        except BaseException as exc:  # noqa: BLE001 - told below
            got = exc
        with lock:
            out.append(got)

    made = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for t in made:
        t.start()
    for t in made:
        t.join(120)
    bugs = [o for o in out if isinstance(o, BaseException) and not isinstance(o, KilonovaError)]
    assert bugs == [] and len(out) == threads
    return out


def mapping(tx: Tx, server: str, project: str = "p") -> None:
    mappings.add(
        tx,
        server=server,
        project_id=project,
        user_id="u",
        server_group=None,
        vcpus=1,
        memory_mib=64,
        requested=b"{}",
        operation="o",
        now=NOW,
    )


def test_a_quota_is_never_passed(world: Database) -> None:
    """Ten servers fit; each writer looks and inserts up to three, many rounds."""
    for round_ in range(6):
        project = f"p{round_}"

        def create(n: int, project: str = project) -> int:
            def work(tx: Tx) -> int:
                fit = quotas.reserve_servers(
                    tx, project, "u", low=1, high=3, vcpus=1, memory_mib=64
                )
                for _ in range(fit):
                    mapping(tx, new_uuid(), project)
                return fit

            return sum(world.write(work) for _ in range(2))

        got = at_once(create)
        used = world.read(lambda tx, project=project: mappings.used(tx, project))
        assert used[0] == 10, (got, used)
        assert any(isinstance(g, QuotaExceeded) for g in got) or sum(got) == 10


def test_a_growth_is_counted_with_those_beside_it(world: Database) -> None:
    """Twenty cores are allowed and eight servers of one have them: of growths by three, four fit."""
    names = [new_uuid() for _ in range(8)]
    world.write(lambda tx: [mapping(tx, n) for n in names])

    def grow(n: int) -> bool:
        def work(tx: Tx) -> bool:
            quotas.check_growth(tx, "p", "u", vcpus=3, memory_mib=0)
            return mappings.set_size(tx, names[n], 4, 64, NOW)

        return world.write(work)

    got = at_once(grow, 8)
    assert got.count(True) == 4 and sum(isinstance(g, QuotaExceeded) for g in got) == 4
    assert world.read(lambda tx: mappings.used(tx, "p"))[1] == 20


def test_an_epoch_is_taken_once(world: Database) -> None:
    server = new_uuid()
    world.write(lambda tx: mapping(tx, server))
    for epoch in range(1, 11):
        got = at_once(
            lambda _, e=epoch: world.write(lambda tx: mappings.take_epoch(tx, server, e, NOW))
        )
        assert sorted(got) == [False] * (THREADS - 1) + [True]


def test_a_key_is_reserved_by_one(world: Database) -> None:
    class Busy(Conflict):
        pass

    for round_ in range(8):
        key = idempotency.Key("p", "u", "POST", "/servers", f"k{round_}")

        def reserve(n: int, key: idempotency.Key = key) -> str:
            def work(tx: Tx) -> str:
                if idempotency.find(tx, key) is not None:
                    raise Busy("busy")
                idempotency.reserve(tx, key, body_hash="h", minted=str(n), now=NOW)
                return "mine"

            return world.write(work)

        got = at_once(reserve)
        assert got.count("mine") == 1 and sum(isinstance(g, Busy) for g in got) == THREADS - 1


def test_names_and_numbers_are_given_once(world: Database, cell: Database) -> None:
    for round_ in range(4):

        def pair(n: int, name: str = f"k{round_}") -> bool:
            def work(tx: Tx) -> bool:
                if keypairs.find(tx, "u", name) is not None:
                    return False
                keypairs.add(
                    tx, user_id="u", name=name, type_="ssh", fingerprint="f", public_key="p", now=1
                )
                return True

            return world.write(work)

        assert sorted(at_once(pair)) == [False] * (THREADS - 1) + [True]
    values = {"uuid": "u", "host_id": "i", "boot_id": "b", "journal_id": "j", "driver": "fake"}
    values |= {"release": "1", "versions": "{}", "inventory": "{}", "digest": "d"}
    rest: dict[str, Any] = {**values, "disabled": 0, "disabled_reason": None, "forced_down": 0}
    rest |= {"seen_at": NOW, "created_at": NOW, "updated_at": NOW}
    at_once(lambda n: cell.write(lambda tx: hosts.add(tx, host=f"h{n}", **rest)), 6)
    found = cell.read(hosts.all_hosts)
    assert sorted(r["id"] for r in found) == [1, 2, 3, 4, 5, 6], "each host has its own number"


def test_a_host_is_one_provider_and_a_trait_is_made_once(world: Database) -> None:
    for round_ in range(4):
        uuid, name = new_uuid(), f"CUSTOM_T{round_}"

        def register_host(n: int, uuid: str = uuid, name: str = name) -> None:
            def work(tx: Tx) -> None:
                providers.ensure_host(
                    tx, uuid=uuid, name=f"host-{uuid}", inventory={}, traits_=(name,), now=NOW
                )

            world.write(work)

        assert at_once(register_host) == [None] * THREADS
        assert world.read(lambda tx, uuid=uuid: providers.find(tx, uuid)) is not None
        assert world.read(lambda tx, name=name: traits.exists(tx, name))


def test_a_host_joins_an_aggregate_once(world: Database) -> None:
    row = world.write(lambda tx: aggregates.add(tx, uuid="u", name="a", metadata={}, now=NOW))
    got = at_once(lambda _: world.write(lambda tx: aggregates.join(tx, row["id"], "h", NOW)))
    assert sorted(got) == [False] * (THREADS - 1) + [True]


# -- the journal


class Nothing(Versioned, frozen=True, kw_only=True):
    """No parameters."""


def _done(run: Any) -> dict[str, Any]:
    return {}


SAGA = Saga(
    kind="test_writers",
    version=1,
    params=Nothing,
    steps=(Step("only", _done, NoUndo("nothing"), 30.0),),
)


@pytest.fixture(scope="module", autouse=True)
def saga() -> None:
    register(SAGA)


def accept(db: Database) -> str:
    id_ = new_uuid()
    db.write(
        lambda tx: journal.accept(
            tx,
            id=id_,
            kind=SAGA.kind,
            version=1,
            resource="r",
            epoch=1,
            project_id="p",
            context=Context(request_id="r"),
            params=Nothing(),
            now=NOW,
        )
    )
    return id_


def test_an_operation_is_claimed_by_one(cell: Database) -> None:
    fence = cell.write(lambda tx: journal.take_over(tx, "first", NOW))
    for _ in range(6):
        id_ = accept(cell)
        got = at_once(
            lambda n, i=id_: cell.write(
                lambda tx: journal.claim(tx, i, seen=fence, fence=fence + 1 + n)
            )
        )
        assert sorted(got) == [False] * (THREADS - 1) + [True]


def test_those_who_take_over_at_once_have_different_fences(cell: Database) -> None:
    for round_ in range(5):
        got = at_once(
            lambda n, r=round_: cell.write(lambda tx: journal.take_over(tx, f"{r}-{n}", NOW))
        )
        assert len(set(got)) == THREADS, got


def test_conductors_that_begin_at_once_have_different_numbers(cell: Database) -> None:
    for round_ in range(5):
        now = SYSTEM.now()
        at_once(
            lambda n, r=round_, now=now: cell.write(lambda tx: leases.join(tx, f"{r}-{n}", now))
        )
    living = cell.write(lambda tx: leases.join(tx, "last", SYSTEM.now()))
    assert len(set(living)) == len(living) == 5 * THREADS + 1
