"""Everything that an agent asks of its driver: the parts of the interface as one."""

from typing import Protocol

from kilonova.virt.disks import DiskDriver
from kilonova.virt.driver import Driver


class HostDriver(Driver, DiskDriver, Protocol):
    """A whole driver."""
