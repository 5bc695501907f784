"""The embedded image service without its HTTP face: records in a database, bytes in files, each the other's witness.

A record says ``active`` only after its bytes are complete, checked, on disk and in place. An upload owns its image by
a token; whoever lost the token (deleted, restarted) cleans up after itself and changes nothing.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kilonova.common.clock import SYSTEM, Clock
from kilonova.common.context import Context
from kilonova.common.errors import BadRequest, Conflict, Forbidden, Gone, NotFound, TooLarge
from kilonova.common.ids import canonical_uuid, is_uuid, new_uuid
from kilonova.common.log import get_logger
from kilonova.db.engine import Database, Tx
from kilonova.db.sql import Q
from kilonova.db.versions import ensure as ensure_schema
from kilonova.image.embedded import records
from kilonova.image.embedded import schema as s
from kilonova.image.embedded.alive import Alive
from kilonova.image.embedded.data import Files, OpenData, Pace, Received
from kilonova.image.inspect import CHECKER_VERSION, Found, Limits, Refused, inspect
from kilonova.image.interface import NO_MORE
from kilonova.objects.image import Image

log = get_logger(__name__)


@dataclass(frozen=True)
class Settings:
    """Limits; None is no limit. Bytes unless the name says otherwise."""

    image_size_limit: int | None = None
    project_size_limit: int | None = None
    virtual_size_limit: int | None = 4096 << 30
    properties_per_image: int = 128
    tags_per_image: int = 128
    members_per_image: int = 128
    pace: Pace = field(default_factory=Pace)


DEFAULTS = Settings()


class _Room:
    """Bytes on their way in, per project: so that parallel uploads do not slip past a quota together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}

    @contextmanager
    def reserve(
        self, project: str, limit: int | None, used: Callable[[], int]
    ) -> Iterator[Callable[[int], None]]:
        """Give a function that takes n bytes or raises TooLarge; all is given back at the end.

        used: bytes that records account for. It is given back after the record has them: for a moment both count.
        """
        mine = 0

        def take(n: int) -> None:
            nonlocal mine
            if limit is None:
                return
            with self._lock:
                kept, coming = used(), self._taken.get(project, 0)
                if kept + coming + n > limit:
                    raise TooLarge(
                        f"The project may keep {limit} bytes of images; {kept + coming} are in use."
                    )
                self._taken[project] = coming + n
                mine += n

        try:
            yield take
        finally:
            with self._lock:
                left = self._taken.get(project, 0) - mine
                if left > 0:
                    self._taken[project] = left
                else:
                    self._taken.pop(project, None)


class EmbeddedImages:
    """Images kept on this machine. Safe from any thread, and from several processes on one directory.

    keep: whether this process takes uploads in; the first one that does sweeps what dead ones left half done."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        clock: Clock = SYSTEM,
        settings: Settings = DEFAULTS,
        *,
        keep: bool = True,
    ) -> None:
        ensure_schema(database, s.metadata)
        self.db = database
        self.clock = clock
        self.settings = settings
        self.files = Files(Path(data_dir), clock, settings.pace)
        self.limits = Limits(settings.virtual_size_limit)
        self._room = _Room()
        self._alive = Alive(Path(data_dir)) if keep else None
        try:
            if self._alive is not None and self._alive.first:
                self._recover()
                self._alive.share()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Say that no uploads of this process are under way any more; safe to repeat."""
        if self._alive is not None:
            self._alive.close()

    def _recover(self) -> None:
        """Put back what a dead process left half done; remove files without a record."""
        rows = self.db.read(lambda tx: tx.all(s.WITH_FILES))
        active: set[str] = set()
        staged: set[str] = set()
        reset: list[str] = []
        for row in rows:
            if row["status"] in ("active", "deactivated"):
                active.add(row["id"])
            elif row["staged"] and self.files.staged_path(row["id"]).exists():
                staged.add(row["id"])
                if row["status"] != "uploading" or row["upload"] is not None:
                    self._to_uploading(row["id"])
            elif row["status"] != "queued" or row["upload"] is not None:
                reset.append(row["id"])
        if reset:
            self.db.write(lambda tx: tx.many(s.RESET, [{"image": i} for i in reset]))
        removed = self.files.sweep(active, staged)
        if reset or removed:
            log.info("images: unfinished uploads undone", extra={"images": reset, "files": removed})
        self._check_again()

    def _check_again(self) -> None:
        """Ask the present inspector about images that only an older one passed; refused ones are deactivated."""
        for row in self.db.read(lambda tx: tx.all(s.OUTDATED, version=CHECKER_VERSION)):
            image = records.to_object(row, ())
            after = "active"
            try:
                self._inspect(image, self.files.path(image.id), image.size or 0)
            except (Refused, FileNotFoundError) as exc:
                log.warning("an image was deactivated: %s", exc, extra={"image": image.id})
                after = "deactivated"
            values = {"image": image.id, "to_status": after, "v": CHECKER_VERSION}
            self.db.write(lambda tx, v=values: tx.run(s.CHECKED, **v))  # type: ignore[misc]

    def _to_uploading(self, image_id: str) -> None:
        self.db.write(lambda tx: tx.run(s.UNIMPORT, image=image_id))

    # --- compute's view (kilonova.image.interface.ImageService) ---

    def get(self, ctx: Context, image_id: str) -> Image:
        """Return an image that the caller may see; NotFound alike for a missing and a foreign one."""
        return self.db.read(lambda tx: self.seen(tx, ctx, image_id))

    def open(self, image_id: str) -> OpenData:
        """Open an active image's bytes; NotFound when there is no such image, Conflict when not active."""
        image = self.db.read(lambda tx: records.find(tx, _known(image_id)))
        if image is None:
            raise _missing(image_id)
        if image.status != "active":
            raise Conflict(f"Image {image_id} is {image.status}; its data cannot be used.")
        return self.files.open(image.id)

    def find(self, image_id: str) -> Image | None:
        """Return any project's image, or None."""
        if not is_uuid(image_id):
            return None
        return self.db.read(lambda tx: records.find(tx, canonical_uuid(image_id)))

    def made_with(self, project_id: str, properties: Mapping[str, str]) -> list[Image]:
        """Return a project's images that have all these properties, the newest first."""
        return self.db.read(lambda tx: records.made_with(tx, project_id, properties))

    def describe(
        self,
        image_id: str,
        *,
        disk_format: str,
        container_format: str,
        properties: Mapping[str, str] = NO_MORE,
    ) -> Image:
        """Say what the bytes of a queued image are, and add properties; one that has its bytes stays as it is."""

        def work(tx: Tx) -> None:
            image = records.find(tx, _known(image_id))
            if image is None:
                raise _missing(image_id)
            if image.status == "queued":
                new = image.replace(
                    disk_format=disk_format,
                    container_format=container_format,
                    properties={**image.properties, **properties},
                    updated_at=self.clock.now(),
                )
                self._check_counts(new)
                records.replace(tx, new)

        self.db.write(work)
        return self._must(_known(image_id))

    def find_by_key(self, project_id: str, key: str) -> Image | None:
        """Return the image that was made for ``key``, or None."""

        def ask(tx: Tx) -> Image | None:
            row = tx.one(s.BY_KEY, owner=project_id, key=key)
            return None if row is None else records.to_object(row, records.tags_of(tx, row["id"]))

        return self.db.read(ask)

    def ensure(self, key: str, image: Image) -> Image:
        """Return the image of ``key``, making its record if there is none; see ImageService.ensure."""
        if image.owner is None:
            raise BadRequest("An image that compute makes needs an owner.")
        if (found := self.find_by_key(image.owner, key)) is not None:
            return found
        now = self.clock.now()
        fresh = image.replace(
            status="queued",
            size=None,
            virtual_size=None,
            checksum=None,
            os_hash_algo=None,
            os_hash_value=None,
            created_at=now,
            updated_at=now,
        )

        def make(tx: Tx) -> None:
            if tx.one(s.BY_KEY, owner=image.owner, key=key) is None:
                records.add(tx, fresh, key)

        self.db.write(make)
        made = self.find_by_key(image.owner, key)
        if made is None:
            raise Conflict("The image was deleted while it was made.")
        return made

    def upload(self, image_id: str, data: Iterable[bytes], length: int | None = None) -> Image:
        """Give a queued image its bytes; length: how many were announced.

        Whatever goes wrong, the image is queued again and nothing is stored. Conflict when it is not queued, TooLarge
        for a limit or a full disk, Refused (400) for bytes that are not what the record says, Gone when it was deleted.
        """
        image = self._begin(image_id, "queued", "saving", token := new_uuid())
        with self._giving_up(image.id, token), self._reserve(image) as take:
            part = self._receive(image, token, data, length, take)
            try:
                found = self._inspect(image, part.path, part.size)
                self.files.put(part.path, self.files.path(image.id))
            except BaseException:
                part.path.unlink(missing_ok=True)
                raise
            self._finish(image.id, token, part, found)
        return self._must(image.id)

    def delete(self, image_id: str) -> None:
        """Remove an image, its members and its bytes; fine when there is none. Protection was asked before."""
        if not is_uuid(image_id):
            return
        name = canonical_uuid(image_id)
        self.db.write(lambda tx: records.drop(tx, name, self.clock.now()))
        self.files.remove(name)

    # --- the API's view ---

    def seen(self, tx: Tx, ctx: Context, image_id: str) -> Image:
        """Return an image inside a transaction; NotFound unless the caller may know of it."""
        image = records.find(tx, _known(image_id))
        if image is None or not records.is_seen_by(tx, image, ctx):
            raise _missing(image_id)
        return image

    def create(self, image: Image) -> Image:
        """Write a new record, status queued; Conflict when its id is taken, TooLarge for too many properties."""
        self._check_counts(image)
        now = self.clock.now()
        fresh = image.replace(status="queued", created_at=now, updated_at=now)
        self.db.write(lambda tx: records.add(tx, fresh))
        return self._must(fresh.id)

    def change(self, ctx: Context, image_id: str, fn: Callable[[Tx, Image], Image]) -> Image:
        """Change a record by ``fn`` in one transaction; ``fn`` raises to refuse."""

        def work(tx: Tx) -> None:
            image = self.seen(tx, ctx, image_id)
            new = fn(tx, image).replace(updated_at=self.clock.now())
            self._check_counts(new)
            records.replace(tx, new)

        self.db.write(work)
        return self._must(_known(image_id))

    def _check_counts(self, image: Image) -> None:
        for what, have, limit in (
            ("properties", len(image.properties), self.settings.properties_per_image),
            ("tags", len(image.tags), self.settings.tags_per_image),
        ):
            if have > limit:
                raise TooLarge(
                    f"The limit has been exceeded on the number of allowed image {what}. "
                    f"Attempted: {have}, Maximum: {limit}"
                )

    def remove(self, ctx: Context, image_id: str, allowed: Callable[[Image], None]) -> None:
        """Delete as a caller: NotFound, Forbidden when protected, and whatever ``allowed`` raises."""

        def work(tx: Tx) -> str:
            image = self.seen(tx, ctx, image_id)
            allowed(image)
            if image.protected:
                raise Forbidden(f"Image {image.id} is protected and cannot be deleted.")
            records.drop(tx, image.id, self.clock.now())
            return image.id

        self.files.remove(self.db.write(work))

    def set_status(self, image_id: str, before: str, after: str) -> None:
        """Deactivate or reactivate; Forbidden when the image is in neither of the two states."""

        def work(tx: Tx) -> None:
            now = self.clock.now()
            if tx.run(s.SET_STATUS, image=image_id, from_status=before, to_status=after, now=now):
                return
            image = records.find(tx, image_id)
            if image is None:
                raise _missing(image_id)
            if image.status != after:
                raise Forbidden(f"Not allowed to make an image {after} in status {image.status}")

        self.db.write(work)

    def stage(self, image_id: str, data: Iterable[bytes], length: int | None = None) -> None:
        """Receive bytes that a later import takes; queued again and nothing stored when it fails."""
        image = self._begin(image_id, "queued", "uploading", token := new_uuid(), formats=False)
        with self._giving_up(image.id, token), self._reserve(image) as take:
            part = self._receive(image, token, data, length, take)
            try:
                self.files.put(part.path, self.files.staged_path(image.id))
            except BaseException:
                part.path.unlink(missing_ok=True)
                raise
            self._settle(
                s.STAGED,
                image.id,
                token,
                size_=part.size,
                md5=part.md5,
                sha512=part.sha512,
            )

    def import_staged(self, image_id: str) -> Image:
        """Check staged bytes and make the image active; queued again and nothing stored when they are refused."""
        image = self._begin(image_id, "uploading", "importing", token := new_uuid(), staged=1)
        with self._giving_up(image.id, token):
            row = self.db.read(lambda tx: tx.one(s.GET, id=image.id))
            if row is None:
                raise _missing(image.id)
            path = self.files.staged_path(image.id)
            part = Received(path, row["size"], row["checksum"], row["os_hash_value"])
            found = self._inspect(image, path, part.size)
            self.files.put(path, self.files.path(image.id))
            self._finish(image.id, token, part, found)
        return self._must(image.id)

    # --- the parts of an upload ---

    def _begin(
        self,
        image_id: str,
        before: str,
        after: str,
        token: str,
        *,
        staged: int = 0,
        formats: bool = True,
    ) -> Image:
        def work(tx: Tx) -> Image:
            image = records.find(tx, _known(image_id))
            if image is None:
                raise _missing(image_id)
            if formats and (image.disk_format is None or image.container_format is None):
                raise BadRequest(
                    "Properties disk_format, container_format must be set prior to saving data."
                )
            if not tx.run(
                s.BEGIN,
                image=image.id,
                from_status=before,
                from_staged=staged,
                to_status=after,
                token=token,
                now=self.clock.now(),
            ):
                raise Conflict(
                    f"Image {image.id} is {image.status}; its data can only be given once, "
                    f"while it is {before}."
                )
            return image

        return self.db.write(work)

    @contextmanager
    def _giving_up(self, image_id: str, token: str) -> Iterator[None]:
        """On any error make the image queued again, if this upload still owns it, with no file left."""
        try:
            yield
        except BaseException:
            row = self.db.read(lambda tx: tx.one(s.GET, id=image_id))
            if row is None or row["upload"] == token:
                self.files.remove(image_id)  # before the next upload may begin
            now = self.clock.now()
            self.db.write(lambda tx: tx.run(s.GIVE_UP, image=image_id, token=token, now=now))
            raise

    def _reserve(self, image: Image) -> AbstractContextManager[Callable[[int], None]]:
        def used() -> int:
            return self.db.read(lambda tx: int(tx.value(s.BYTES_OF, owner=image.owner)))

        return self._room.reserve(image.owner or "", self.settings.project_size_limit, used)

    def _receive(
        self,
        image: Image,
        token: str,
        data: Iterable[bytes],
        length: int | None,
        take: Callable[[int], None],
    ) -> Received:
        limit, total = self.settings.image_size_limit, 0
        if limit is not None and length is not None and length > limit:
            raise TooLarge(f"The image has {length} bytes; at most {limit} are allowed.")
        if length is not None:
            take(length)  # refused before its bytes are sent

        def keep(n: int) -> None:
            nonlocal total
            total += n
            if limit is not None and total > limit:
                raise TooLarge(f"The image has more than the {limit} bytes that are allowed.")
            if length is None:
                take(n)

        return self.files.receive(image.id, token, data, length, keep)

    def _inspect(self, image: Image, path: Path, size: int) -> Found:
        declared = image.disk_format or ""
        if size == 0 and "block_device_mapping" in image.properties:
            return Found(declared, 0)  # a snapshot whose bytes are volumes
        return inspect(path, declared, self.limits)

    def _finish(self, image_id: str, token: str, part: Received, found: Found) -> None:
        self._settle(
            s.FINISH,
            image_id,
            token,
            size_=part.size,
            virtual=found.virtual_size,
            md5=part.md5,
            sha512=part.sha512,
            checker_=CHECKER_VERSION,
        )

    def _settle(self, q: Q, image_id: str, token: str, **values: object) -> None:
        now = self.clock.now()
        if not self.db.write(lambda tx: tx.run(q, image=image_id, token=token, now=now, **values)):
            raise Gone(f"Image {image_id} was deleted while its data came; nothing was kept.")

    def _must(self, image_id: str) -> Image:
        image = self.db.read(lambda tx: records.find(tx, image_id))
        if image is None:
            raise _missing(image_id)
        return image


def _known(image_id: str) -> str:
    """Return an id in the form that the database has; NotFound for what cannot be one."""
    if not is_uuid(image_id):
        raise _missing(image_id)
    return canonical_uuid(image_id)


def _missing(image_id: str) -> NotFound:
    return NotFound(f"No image found with ID {image_id:.64}")
