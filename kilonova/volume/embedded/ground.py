"""What every part of the volume service stands on: its database, its neighbours, and what it tells hosts."""

from collections.abc import Callable, Sequence
from typing import Any

from kilonova.bus.interface import Bus
from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.ids import new_uuid
from kilonova.db.engine import Database, Tx
from kilonova.db.versions import ensure
from kilonova.objects.base import encode
from kilonova.objects.image import Image
from kilonova.objects.volume import VolumeEvent
from kilonova.volume.embedded import cleanups
from kilonova.volume.embedded.exporting import Exports
from kilonova.volume.embedded.neighbours import Images
from kilonova.volume.embedded.placing import HostRoom
from kilonova.volume.embedded.schema import metadata
from kilonova.volume.embedded.store import types
from kilonova.volume.embedded.targets import Folder, ImageStore, Target
from kilonova.volume.embedded.upgrades import UPGRADES

Nudge = Callable[[str, str], None]


class Ground:
    """Held by what is accepted, by operations and by routes. Safe to use from any thread.

    rooms: the hosts as they are now. nudge(database, operation): tells the engine of an accepted operation.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        images: Images,
        clock: Clock = SYSTEM,
        *,
        rooms: Callable[[], Sequence[HostRoom]] = tuple,
        nudge: Nudge = lambda database, operation: None,
    ) -> None:
        ensure(database, metadata, UPGRADES)
        self.db = database
        self.bus = bus
        self.images = images
        self.clock = clock
        self.rooms = rooms
        self.nudge = nudge
        self.verify: Callable[[Image], Image] = lambda image: image
        """Whoever knows certificates verifies images' signatures here. BadRequest: one is wrong."""
        self.targets: dict[str, Target] = {t.name: t for t in (ImageStore(images), Folder())}
        self.target: Target = self.targets[ImageStore.name]
        """Where new backups go."""
        self.exports = Exports(database, bus, clock, self.send_cleanups)
        self._handlers: list[Callable[[VolumeEvent], None]] = []
        self.db.write(self._seed)

    def _seed(self, tx: Tx) -> None:
        if types.find(tx, types.DEFAULT_NAME) is None:
            now = self.clock.now()
            types.add(
                tx,
                id=new_uuid(),
                name=types.DEFAULT_NAME,
                description="Default Volume Type",
                created_at=now,
                updated_at=now,
            )

    def send_cleanups(self) -> None:
        """Send every cleanup record's order to its host, if that is up."""
        if not self.db.ask(cleanups.all_records):
            return
        up = {r.host for r in self.rooms() if r.up}

        def read(tx: Tx) -> list[Any]:
            return [cleanups.renewed(tx, r) for r in cleanups.all_records(tx) if r["host"] in up]

        for order in self.db.read(read):
            self.bus.publish(f"agent.{order.host}.order", encode(order))

    def on_event(self, handler: Callable[[VolumeEvent], None]) -> None:
        """See VolumeService."""
        self._handlers.append(handler)

    def emit(self, event: VolumeEvent) -> None:
        """Tell compute."""
        for handler in self._handlers:
            handler(event)
