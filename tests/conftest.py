"""For runs on several processes (``pytest -n 2 --dist loadscope``, which is what ``make test`` does).

A file is one piece of work, so that its tests share what they made. All with real guests are one piece, the last:
guests never meet other guests.
"""

import gc
import os
import resource
from collections.abc import Iterator

import pytest

from tests import places

# Where tests with real guests live, and what goes with them. A test marked ``real`` elsewhere is an error.
ONE_AFTER_ANOTHER = ("tests/real/", "tests/contracts/", "tests/regressions/test_users_again.py")


FILES_AT_THE_END = 200
OPEN_FILES = 65_536


def pytest_configure() -> None:
    """Sweep what killed runs left, and let one test open many files."""
    places.sweep()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture(scope="session", autouse=True)
def few_files_at_the_end() -> Iterator[None]:
    """Thousands of clouds, one after another, leave nothing open: a test that lets its world lie is found here."""
    yield
    gc.collect()
    found = [os.readlink(f"/proc/self/fd/{n}") for n in _descriptors()]
    assert len(found) <= FILES_AT_THE_END, sorted(found)


def _descriptors() -> list[str]:
    return [n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]


@pytest.fixture(autouse=True)
def databases_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a database server a test leaves none; in a directory they go with it."""
    yield
    directory = request.node.funcargs.get("tmp_path")
    if directory is not None and "KILONOVA_TEST_DATABASE" in os.environ:
        from tests import databases

        databases.forget(directory)


def is_serial(nodeid: str) -> bool:
    """Tell whether a test may run beside no other of its kind."""
    return nodeid.startswith(ONE_AFTER_ANOTHER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real guests last, the rest as it was."""
    lost = [i.nodeid for i in items if i.get_closest_marker("real") and not is_serial(i.nodeid)]
    if lost:
        raise pytest.UsageError(f"marked real outside of {ONE_AFTER_ANOTHER}: {lost}")
    items.sort(key=lambda item: is_serial(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out files, and all of the real ones together."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return "real" if is_serial(nodeid) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return Files(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What a process does before it starts threads."""
    from kilonova.objects import base

    base.prepare()
