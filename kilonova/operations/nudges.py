"""What a process without an engine has in its place: it accepts operations and says so to the conductors."""

from collections.abc import Callable, Collection, Mapping

from kilonova.bus.interface import Bus
from kilonova.db.engine import Database


class Nudges:
    """Passes nudges on by the bus. One that is lost costs a second: the conductors sweep. homes: gives all of them."""

    def __init__(self, bus: Bus, homes: Callable[[], Mapping[str, Database]]) -> None:
        self._bus = bus
        self._homes = homes

    @property
    def databases(self) -> Mapping[str, Database]:
        """Name -> home database, of all that are open now."""
        return self._homes()

    def nudge(self, database: str, operation: str) -> None:
        """Tell one conductor of an operation that was accepted; after the commit."""
        self._bus.publish(f"nudge.{database}", operation.encode())

    def leads(self, database: str) -> bool:
        """What only one conductor may do is not for this process."""
        return False

    def hurry(self, host: str, homes: Collection[str]) -> None:
        """Only engines send again."""

    def add_database(self, db: Database) -> None:
        """Only engines own databases."""

    def remove_database(self, name: str) -> None:
        """Only engines own databases."""
