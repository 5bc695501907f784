"""What one create and one delete ask of the databases, counted: cost grows by statements before a clock shows it.

A change that needs more raises the number here, and says why in its commit.
"""

from pathlib import Path

from kilonova.db.sqlite import SqliteDatabase
from tests.operations.server_world import ServerWorld, Shape

PLAIN = Shape(user_data=False, tags=0)
Counts = dict[str, tuple[int, int]]


def counted(world: ServerWorld) -> Counts:
    """Return (statements, commits) so far by database."""
    return {db.name: (db.statements, db.commits) for db in databases(world)}


def databases(world: ServerWorld) -> list[SqliteDatabase]:
    """Return every database of a world."""
    network = world.network.database
    assert isinstance(network, SqliteDatabase)
    return [*world.databases.values(), network]


def spent(path: Path, kind: str) -> Counts:
    """Return what one operation takes from its acceptance to its end.

    The least of three: the network's own thread may ask something in between.
    """
    tries = []
    for n in range(3):
        world = ServerWorld(path / str(n), kind, PLAIN)
        world.network.publisher.batch_s = 3600.0
        world.engine().open()
        world.settle()
        before = counted(world)
        home, operation = world.begin()
        assert world.run(home, operation) == "done"
        world.settle()
        after = counted(world)
        world.close()
        tries.append({k: (after[k][0] - s, after[k][1] - c) for k, (s, c) in before.items()})
    return {k: min(t[k] for t in tries) for k in tries[0]}


def over(found: Counts, most: Counts) -> Counts:
    """Return what is more than it may be."""
    return {n: v for n, v in found.items() if v[0] > most[n][0] or v[1] > most[n][1]}


def test_a_create_asks_no_more_than_this(tmp_path: Path) -> None:
    """(statements, commits) of one server with one port."""
    most = {"global": (32, 6), "cell0": (2, 0), "cell1": (12, 2), "network": (22, 2)}
    assert over(spent(tmp_path, "server_create"), most) == {}


def test_a_delete_asks_no_more_than_this(tmp_path: Path) -> None:
    """(statements, commits) of one server with one port."""
    most = {"global": (17, 2), "cell0": (2, 0), "cell1": (29, 5), "network": (18, 2)}
    assert over(spent(tmp_path, "server_delete"), most) == {}
