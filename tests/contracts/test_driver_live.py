"""The MigrationDriver part of every driver: all of OBJ-2's methods are there, and take and return versioned objects."""

import importlib.util
import inspect
import typing

import pytest

from kilonova.objects.base import Versioned
from kilonova.virt.fake.driver import FakeDriver
from kilonova.virt.migration import MigrationDriver

OBJ2 = (
    "check_can_live_migrate_destination",
    "check_can_live_migrate_source",
    "pre_live_migration",
    "live_migration",
    "post_live_migration",
    "post_live_migration_at_destination",
    "rollback_live_migration",
    "rollback_live_migration_at_destination",
)


def _drivers() -> list[type]:
    found: list[type] = [FakeDriver]
    if importlib.util.find_spec("libvirt") is not None:
        from kilonova.virt.libvirt.driver import LibvirtDriver

        found.append(LibvirtDriver)
    return found


@pytest.mark.parametrize("driver", _drivers(), ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", OBJ2)
def test_every_method_is_there(driver: type, name: str) -> None:
    """OBJ-2: with the parameters of the interface."""
    wanted = inspect.signature(getattr(MigrationDriver, name))
    assert list(inspect.signature(getattr(driver, name)).parameters) == list(wanted.parameters)


@pytest.mark.parametrize("name", OBJ2)
def test_what_is_taken_and_returned_is_an_object(name: str) -> None:
    """OBJ-2: a request is one versioned object, or names the server; no dict, no blob of the driver's (SM-4)."""
    hints = typing.get_type_hints(getattr(MigrationDriver, name))
    returned = hints.pop("return")
    hints.pop("progress", None)
    for hint in hints.values():
        assert hint is str or issubclass(hint, Versioned), (name, hint)
    plain = returned in (bool, type(None)) or typing.get_origin(returned) is tuple
    assert plain or issubclass(returned, Versioned), (name, returned)
