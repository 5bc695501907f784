"""Everything that an agent asks of its driver: the parts of the interface as one."""

from typing import Protocol

from kilonova.virt.disks import DiskDriver
from kilonova.virt.driver import Driver
from kilonova.virt.snapshots import SnapshotDriver


class HostDriver(Driver, DiskDriver, SnapshotDriver, Protocol):
    """A whole driver."""
