"""For runs on several processes (``pytest -n 2 --dist loadscope``, which is what ``make test`` does).

A file is one piece of work, so that its tests share what they made. All with real guests are one piece, the last:
guests never meet other guests.
"""

import resource

import pytest

# Where tests with real guests live, and what goes with them. A test marked ``real`` elsewhere is an error.
ONE_AFTER_ANOTHER = ("tests/real/", "tests/contracts/", "tests/regressions/test_users_again.py")


OPEN_FILES = 65_536


def pytest_configure() -> None:
    """A process that runs thousands of clouds, one after another, holds more files open than some shells allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
